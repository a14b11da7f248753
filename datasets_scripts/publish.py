"""Publish a corpus, or a folder of triplets, on the Hugging Face Hub; private by default."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from datasets_scripts.corpora.corpus import SPLITS, Corpus, CorpusError, file_sha256
from datasets_scripts.corpora.folder import SOURCE as OWN_MUSIC
from datasets_scripts.files import atomic_folder
from datasets_scripts.hub import HubError, push
from datasets_scripts.musifeast import SOURCE as MUSIFEAST
from datasets_scripts.triplets.table import read_triplets

MANIFEST = "manifest.json"  # every file with its sha256; it marks a repository as ours
EXTRA_FILES = ("attribution.csv", "rejects.csv", "genre_tree.json", "settings.json", "README.md")


def prepare(folder: Path, into: Path) -> str:
    """Write exactly the files that are sent to the Hub into the folder `into`; return their list.

    `folder` is a complete corpus, or holds triplet tables. `into` is complete or absent; large
    files are linked where that is possible. Raises CorpusError for another folder, for music
    whose rights are not known, and where `into` holds something else.
    """
    is_corpus = (folder / "data").is_dir() or (folder / "data.partial").is_dir()
    files, card = _corpus_files(folder) if is_corpus else _triplet_files(folder)
    if into.exists() and any(into.iterdir()) and not (into / MANIFEST).exists():
        raise CorpusError(f"{into} holds something else: name another folder")
    with atomic_folder(into, ".publish-") as part:
        for file in files:
            target = part / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, target)
        if card:
            (part / "README.md").write_text(card, encoding="utf-8")
        names = sorted(str(p.relative_to(part)) for p in part.rglob("*") if p.is_file())
        hashes = {name: file_sha256(part / name) for name in names}
        (part / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    sizes = {name: (into / name).stat().st_size for name in [*names, MANIFEST]}
    lines = [f"{size:>12} {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>12} bytes in {len(sizes)} files: {into}"])


def publish(folder: Path, repo: str, private: bool = True, api: HfApi | None = None) -> str:
    """Send a corpus or triplets to the dataset repository `repo` (OWNER/NAME); return its address.

    Raises CorpusError as `prepare` does, and for a token that is missing or wrong, a repository
    that holds other things, and a connection that breaks: then run the same command again to
    resume.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".publish-") as scratch:
        staged, first = Path(scratch) / folder.name, Path(scratch) / "first"
        prepare(folder, staged)
        first.mkdir()
        shutil.copyfile(staged / MANIFEST, first / MANIFEST)
        try:
            # Large folders are sent in several commits. The manifest is sent first, so that a
            # repository whose upload was cut off is known as ours.
            for part in (first, staged):
                url = push(part, repo, "dataset", MANIFEST, f"Publish {folder.name}", private, api)
            return url
        except HubError as error:
            raise CorpusError(str(error)) from None


def _corpus_files(folder: Path) -> tuple[list[Path], str]:
    corpus = Corpus(folder)
    if any(t.source == MUSIFEAST for t in corpus.tracks):
        raise CorpusError(
            f"{folder} holds clips of MUSIFEAST-17, which are commercial recordings under fair "
            "dealing for research; they must not be published"
        )
    unclear = [t for t in corpus.tracks if t.source == OWN_MUSIC or not t.licence]
    if unclear:
        raise CorpusError(
            f"{len(unclear)} of {len(corpus)} tracks in {folder} name no licence, so they must not "
            f"be published (the first: {unclear[0].title!r}, from {unclear[0].source!r})"
        )
    found = sorted((folder / "data").glob("*.parquet")) + sorted((folder / "copyright").glob("*"))
    return found + [folder / name for name in EXTRA_FILES if (folder / name).exists()], ""


def _triplet_files(folder: Path) -> tuple[list[Path], str]:
    found = [p for name in (*SPLITS, "all") if (p := folder / f"{name}.parquet").exists()]
    if not found:
        raise CorpusError(
            f"{folder} holds neither a corpus (data/) nor triplets (train.parquet, all.parquet, "
            "...): build one with `python -m datasets_scripts`"
        )
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for path in found:
        lines += [f"  - split: {path.stem}", f"    path: {path.name}"]
    lines += ["---", "# feelprint triplets", "", "Which of three tracks is the odd one out.", ""]
    lines += ["| split | answers |", "|---|---|"]
    lines += [f"| {path.stem} | {len(read_triplets(path))} |" for path in found]
    lines += ["", "Columns: `a`, `b`, `c` (ids of the tracks; `ID@SECONDS` is an excerpt), `odd`"]
    lines += ["(null: could not tell), `source`, `rater`, `when` (UTC), `weight`."]
    return found, "\n".join(lines) + "\n"
