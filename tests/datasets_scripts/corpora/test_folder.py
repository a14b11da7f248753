"""A corpus of a folder: bad files are named, good ones are kept, no artist is in two splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mutagen
import pytest

from datasets_scripts.corpora import checked
from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track
from datasets_scripts.corpora.folder import build_folder
from datasets_scripts.corpora.splits import (
    connected_groups,
    split_by_groups,
    track_keys,
)
from tests.datasets_scripts.leaks import shared_keys
from tests.datasets_scripts.sounds import coded, track_of, wave


def write_track(file: Path, seed: int, format: str = "OGG", **tags: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(coded(wave(seed, 4.0), format))
    if tags:
        read = mutagen.File(file, easy=True)
        if read.tags is None:
            read.add_tags()
        for key, value in tags.items():
            read[key] = value
        read.save()


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    for n in range(10):
        write_track(folder / f"band {n}" / "one.ogg", 2 * n, artist=f"Band {n}", album=f"Album {n}")
        write_track(
            folder / f"band {n}" / "two.flac", 2 * n + 1, "FLAC", artist=f"Band {n}", genre="Jazz"
        )
    return folder


def test_good_files_are_kept_and_bad_ones_named(music: Path, tmp_path: Path) -> None:
    (music / "text.mp3").write_text("no music")
    (music / "empty.ogg").touch()
    (music / "short.ogg").write_bytes(coded(wave(50, 1.0)))
    (music / "silent.wav").write_bytes(coded(0 * wave(0, 4.0), "WAV"))
    (music / "cut.ogg").write_bytes(coded(wave(51, 4.0))[:-2000])
    (music / "copy.ogg").write_bytes((music / "band 0" / "one.ogg").read_bytes())
    (music / "cover.jpg").write_bytes(b"a picture")
    corpus = build_folder(music, tmp_path / "out")
    assert len(corpus) == 20
    with (tmp_path / "out" / "rejects.csv").open() as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {
        "text.mp3", "empty.ogg", "short.ogg", "silent.wav", "cut.ogg", "band 0/one.ogg",
    } or set(reasons) == {
        "text.mp3", "empty.ogg", "short.ogg", "silent.wav", "cut.ogg", "copy.ogg",
    }  # fmt: skip
    assert reasons["text.mp3"].startswith("not audio") and reasons["empty.ogg"] == "empty file"
    assert reasons["short.ogg"] == "1.00 s, shorter than 3 s"
    assert "silence" in reasons["silent.wav"] and "truncated" in reasons["cut.ogg"]


def test_tags_are_read_and_folder_is_the_default_album(music: Path, tmp_path: Path) -> None:
    tracks = {(t.artist, t.title): t for t in build_folder(music, tmp_path / "out").tracks}
    assert tracks["Band 3", "one"].album == "Album 3"
    assert tracks["Band 3", "two"].album == "band 3"
    assert tracks["Band 3", "two"].genres == ["Jazz"]


def test_no_artist_and_no_album_is_in_two_splits(music: Path, tmp_path: Path) -> None:
    corpus = build_folder(music, tmp_path / "out")
    assert {t.split for t in corpus.tracks} == {"train", "validation", "test"}
    assert shared_keys(corpus.tracks) == {}


def test_leak_is_found() -> None:
    """The check itself can fail: one artist in two splits, one album by two artists."""

    def track(n: int, artist: str, album: str, split: str) -> Track:
        return track_of(bytes([n]), artist=artist, album=album, split=split)

    leak = [track(1, "Ann & Bob", "x", "train"), track(2, "bob", "y", "test")]
    assert shared_keys(leak) == {"artist bob": {"train", "test"}}
    leak = [track(1, "Ann", "Hits", "train"), track(2, "Bob", "hits ", "validation")]
    assert shared_keys(leak) == {"album hits": {"train", "validation"}}


def test_groups_follow_chains() -> None:
    """A and B share an album, B and C an artist: all three stay together."""
    chain = [track_keys("A", "x"), track_keys("B", "x"), track_keys("B", "y")]
    assert connected_groups([{"other"}, *chain, set()]) == [0, 1, 1, 1, 2]
    splits = split_by_groups([*chain, *({f"other {n}"} for n in range(30))])
    assert len(set(splits[:3])) == 1
    assert splits.count("test") >= 3 and splits.count("validation") >= 3
    assert splits.count("train") > 20
    assert split_by_groups([{"one"}] * 9) == ["train"] * 9
    assert split_by_groups([]) == []


def test_a_killed_build_decodes_no_file_twice(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    measure = checked.measure

    def counted(file: Path):
        seen.append(file)
        if len(seen) == 13:
            raise KeyboardInterrupt
        return measure(file)

    monkeypatch.setattr(checked, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        build_folder(music, tmp_path / "out")
    record = tmp_path / "out" / "checked.jsonl"
    done = {music / json.loads(line)["key"].split("|")[0] for line in record.open()}
    assert done == set(sorted(music.glob("*/*"))[:12])
    record.write_bytes(record.read_bytes() + b'{"key": "half a li')  # a torn last line
    seen[:] = [Path()] * 13
    assert len(build_folder(music, tmp_path / "out")) == 20
    assert len(seen[13:]) == 8 and not done & set(seen)
    assert len(Corpus(tmp_path / "out")) == 20


def test_folder_without_music_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        build_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CorpusError, match="holds no music"):
        build_folder(tmp_path, tmp_path / "out")
