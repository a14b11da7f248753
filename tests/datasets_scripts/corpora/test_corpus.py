"""The Parquet layout: read back here and by `datasets`; incomplete corpora are refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets_scripts.corpora import corpus as corpora
from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.corpus import SCHEMA, Corpus, CorpusError, write_corpus
from tests.datasets_scripts.sounds import items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("files")
    made = items(files, 11, artist="a", album="b", genres=["x", "y"])
    made[9:] = [i._replace(track=replace(i.track, split="test")) for i in made[9:]]
    out = tmp_path_factory.mktemp("corpus")
    write_corpus(made, out, card("eleven tracks", "For tests.", [i.track for i in made]))
    return out


def test_written_corpus_is_read_back(folder: Path) -> None:
    corpus = Corpus(folder)
    assert len(corpus) == 11 and [t.title for t in corpus.split("test")] == ["track 9", "track 10"]
    assert corpus.split("validation") == []
    for track in corpus.tracks:
        assert hashlib.sha256(corpus.audio_bytes(track.id)).hexdigest() == track.sha256
        assert track.genres == ["x", "y"] and track.album == "b"
    assert pickle.loads(pickle.dumps(corpus)).audio_bytes(corpus.tracks[3].id)
    with pytest.raises(KeyError):
        corpus.audio_bytes("no such id")
    with pytest.raises(CorpusError, match="none of"):
        corpus.split("dev")


def test_shards_row_groups_and_card(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "data").iterdir())
    assert names == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    with pq.ParquetFile(folder / "data" / names[1]) as file:
        assert file.schema_arrow.names == SCHEMA.names
        assert [file.metadata.row_group(g).num_rows for g in range(2)] == [8, 1]
    text = (folder / "README.md").read_text()
    assert "| train | 9 | 0.00 | 1 |" in text and "| CC0-1.0 | 11 |" in text


def test_datasets_reads_it_with_torchcodec(folder: Path, tmp_path: Path) -> None:
    import datasets

    found = datasets.load_dataset(
        "parquet",
        data_files=str(folder / "data" / "train-*.parquet"),
        split="train",
        streaming=True,
        cache_dir=str(tmp_path),
    )
    assert isinstance(found.features["audio"], datasets.Audio)
    row = next(iter(found))
    samples = row["audio"].get_samples_played_in_range(0, 0.5)
    assert samples.sample_rate == 8000
    assert np.abs(samples.data.numpy()).max() > 0.01
    whole = datasets.load_dataset(str(folder), split="test", cache_dir=str(tmp_path))
    assert whole["title"][:] == ["track 9", "track 10"]


@pytest.mark.slow
def test_datasets_reads_it_without_torchcodec(folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["torchcodec"] = None
import datasets
found = datasets.load_dataset("parquet", data_files={str(folder / "data" / "*.parquet")!r},
    split="train", streaming=True, cache_dir={str(tmp_path)!r})
found = found.cast_column("audio", datasets.Audio(decode=False))
row, *_ = found  # all of it: threads that still read ahead can abort a process as it ends
assert row["audio"]["bytes"][:4] == b"OggS", row
assert row["genres"] == ["x", "y"] and row["duration_s"] == 1.0
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_killed_build_is_refused_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "SHARD_BYTES", 10_000)
    files = tmp_path / "files"
    files.mkdir()
    made = items(files, 9, size=4000)  # two to a shard
    out = tmp_path / "corpus"

    class Killed(BaseException):
        pass

    def kill() -> bytes:
        raise Killed

    with pytest.raises(Killed):
        write_corpus([*made[:5], made[5]._replace(read=kill), *made[6:]], out, "")
    with pytest.raises(CorpusError, match=r"not finished.*run the same command again to resume"):
        Corpus(out)
    first = out / "data.partial" / "train-00000-of-00005.parquet"
    before = first.stat().st_ino, first.stat().st_mtime_ns
    assert not (out / "data.partial" / "train-00002-of-00005.parquet").exists()
    (out / "data.partial" / "train-00002-of-00005.parquet.1.part").touch()  # of a killed process
    write_corpus(made, out, "")
    first = out / "data" / first.name
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before  # it was kept
    assert [t.title for t in Corpus(out).tracks] == [f"track {n}" for n in range(9)]
    assert not list(out.glob("**/*.part")) and not list(out.glob("**/plan.json"))


def test_shards_of_another_plan_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = items(tmp_path, 3)
    partial = tmp_path / "corpus" / "data.partial"
    partial.mkdir(parents=True)
    (partial / "plan.json").write_text("{}")
    (partial / "train-00000-of-00001.parquet").write_text("of something else")
    write_corpus(made, tmp_path / "corpus", "")
    assert len(Corpus(tmp_path / "corpus")) == 3


def test_a_corpus_with_a_shard_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "SHARD_BYTES", 10_000)
    write_corpus(items(tmp_path, 5, size=4000), tmp_path / "corpus", "")
    (tmp_path / "corpus" / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(CorpusError, match="missing: train-00001-of-00003"):
        Corpus(tmp_path / "corpus")


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    write_corpus(items(tmp_path, 2), tmp_path / "corpus", "")
    shard = tmp_path / "corpus" / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CorpusError, match=r"train-00000.*cannot be read"):
        Corpus(tmp_path / "corpus")


def test_invalid_items_are_refused(tmp_path: Path) -> None:
    made = items(tmp_path, 2)
    with pytest.raises(CorpusError, match="no track was left"):
        write_corpus([], tmp_path / "out", "")
    with pytest.raises(CorpusError, match="twice"):
        write_corpus([*made, made[0]], tmp_path / "out", "")
    with pytest.raises(CorpusError, match="split 'dev' is none of"):
        write_corpus(
            [made[0]._replace(track=replace(made[0].track, split="dev"))], tmp_path / "out", ""
        )
    with pytest.raises(CorpusError, match="changed while"):
        write_corpus([made[0]._replace(read=lambda: b"other")], tmp_path / "changed", "")
    write_corpus(made, tmp_path / "out", "")
    with pytest.raises(CorpusError, match="holds a corpus already"):
        write_corpus(made, tmp_path / "out", "")
    with pytest.raises(CorpusError, match="not a corpus: build it"):
        Corpus(tmp_path / "nowhere")
