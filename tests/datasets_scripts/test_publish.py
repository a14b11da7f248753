"""Publishing data on the Hub, with a stand-in for its HTTP interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.corpus import CorpusError, write_corpus
from datasets_scripts.publish import prepare, publish
from datasets_scripts.triplets.table import Triplet, write_triplets
from tests.datasets_scripts.sounds import items
from tests.hub_standin import TOKEN, Hub

NAME = "alice/feelprint-free"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with Hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    made = items(tmp_path / "files", 3)
    folder = tmp_path / "corpus"
    write_corpus(made, folder, card("three tracks", "For tests.", [i.track for i in made]))
    (folder / "attribution.csv").write_text("id,artist\n")
    (folder / "copyright").mkdir()
    (folder / "copyright" / "alpha.txt").write_text("free")
    (folder / "checked.jsonl").write_text("left by a build, not for others")
    return folder


FILES = {
    "README.md",
    "attribution.csv",
    "copyright/alpha.txt",
    "data/train-00000-of-00001.parquet",
    "manifest.json",
}


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_dry_run_writes_exactly_the_files_sent(folder: Path, hub: Hub, tmp_path: Path) -> None:
    report = prepare(folder, tmp_path / "dry")
    assert names(tmp_path / "dry") == FILES
    assert f"in {len(FILES)} files" in report and "data/train-00000-of-00001.parquet" in report
    publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    sent = hub.repos["dataset", NAME]
    assert set(sent) - {".gitattributes"} == FILES
    for name in FILES:
        assert sent[name] == (tmp_path / "dry" / name).read_bytes()
    manifest = json.loads(sent["manifest.json"])
    for name in FILES - {"manifest.json"}:
        assert manifest[name] == hashlib.sha256(sent[name]).hexdigest()
    assert not list(tmp_path.glob(".publish-*"))


def test_private_by_default(folder: Path, hub: Hub) -> None:
    publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    assert hub.private["dataset", NAME]
    publish(folder, NAME + "2", private=False, api=HfApi(hub.url, TOKEN))
    assert not hub.private["dataset", NAME + "2"]


@pytest.mark.parametrize("where", ["upload", "commit"])
def test_same_command_finishes_an_interrupted_upload(folder: Path, hub: Hub, where: str) -> None:
    hub.cut = where
    with pytest.raises(CorpusError, match="run the same command again to resume"):
        publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    assert "data/train-00000-of-00001.parquet" not in hub.repos["dataset", NAME]
    hub.cut = ""
    publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    assert set(hub.repos["dataset", NAME]) - {".gitattributes"} == FILES


def test_interrupted_repository_is_known_by_its_manifest(folder: Path, hub: Hub) -> None:
    hub.repos["dataset", NAME] = {"manifest.json": b"{}", "data/old.parquet": b"of a cut upload"}
    publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    assert set(hub.repos["dataset", NAME]) >= FILES
    hub.repos["dataset", NAME + "2"] = {"thesis.csv": b"another's"}
    with pytest.raises(CorpusError, match="exists and is another dataset"):
        publish(folder, NAME + "2", api=HfApi(hub.url, TOKEN))
    assert hub.repos["dataset", NAME + "2"] == {"thesis.csv": b"another's"}


def test_wrong_token_is_reported(folder: Path, hub: Hub) -> None:
    with pytest.raises(CorpusError, match="does not know the token"):
        publish(folder, NAME, api=HfApi(hub.url, "hf_wrong"))
    assert hub.repos == {}


def test_triplets_are_sent_with_a_card(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "triplets"
    write_triplets([Triplet("a", "b", "c", "b", "survey", "r1")] * 3, folder / "train.parquet")
    (folder / "rejects.csv").write_text("row,reason,text\n1,bad,someone's own words\n")
    publish(folder, NAME, api=HfApi(hub.url, TOKEN))
    sent = hub.repos["dataset", NAME]
    assert set(sent) == {".gitattributes", "README.md", "manifest.json", "train.parquet"}
    assert b"| train | 3 |" in sent["README.md"] and b"path: train.parquet" in sent["README.md"]
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("known", [{"source": "folder"}, {"licence": ""}])
def test_music_without_licence_is_not_published(tmp_path: Path, known: dict[str, str]) -> None:
    write_corpus(items(tmp_path, 2, **known), tmp_path / "corpus", "")
    with pytest.raises(CorpusError, match=r"2 of 2 tracks .* name no licence"):
        prepare(tmp_path / "corpus", tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def test_folder_without_corpus_or_triplets_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CorpusError, match="neither a corpus"):
        prepare(tmp_path, tmp_path / "dry")
    (folder / "data").rename(folder / "data.partial")
    with pytest.raises(CorpusError, match="not finished"):
        prepare(folder, tmp_path / "dry")
    (folder / "data.partial").rename(folder / "data")
    (tmp_path / "dry").mkdir()
    (tmp_path / "dry" / "thesis.txt").write_text("mine")
    with pytest.raises(CorpusError, match="holds something else"):
        prepare(folder, tmp_path / "dry")
