"""The Free Music Archive dataset (Defferrard et al., ISMIR 2017) as a corpus.

Its split is by artist; its genres are a tree. Every track has the licence that its artist chose.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.checked import FileCheck, check, check_all
from datasets_scripts.corpora.corpus import (
    Corpus,
    CorpusError,
    Item,
    Reject,
    Track,
    write_corpus,
    write_rejects,
)
from datasets_scripts.corpora.download import download
from datasets_scripts.files import write_text

URL = "https://os.unil.cloud.switch.ch/fma"
# Published with the dataset, in the README of github.com/mdeff/fma.
SHA1 = {
    "fma_metadata.zip": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733",
    "fma_small.zip": "ade154f733639d52e35e32f5593efe5be76c6d70",
    "fma_medium.zip": "c67b69ea232021025fca9231fc1c7c1a063ab50b",
    "fma_large.zip": "497109f4dd721066b5ce5e5f250ec604dc78939e",
    "fma_full.zip": "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab",
}
SUBSETS = {
    "small": ("small",),
    "medium": ("small", "medium"),
    "large": ("small", "medium", "large"),
    "full": ("small", "medium", "large"),
}
SPLIT = {"training": "train", "validation": "validation", "test": "test"}
# Clips with no or hardly any audio (github.com/mdeff/fma issues 8 and 41): they were cut with
# wrong durations. Other bad clips, of which fma_large has some, are found by decoding them.
BROKEN_CLIPS = frozenset(
    (
        *(1486, 5574, 65753, 80391, 98558, 98559, 98560, 98565, 98566, 98567, 98568, 98569),
        *(98571, 99134, 105247, 108924, 108925, 126981, 127336, 133297, 143992),
    )
)


@dataclass(frozen=True)
class Row:
    """A line of tracks.csv. genres: titles from the root down, parents before children."""

    number: int
    title: str
    artist: str
    album: str
    genres: list[str]
    licence: str
    subset: str
    split: str


def build_fma(
    size: str,
    out: Path,
    archives: Path,
    licence: str = "",
    url: str = URL,
    jobs: int = 1,
    sha1: dict[str, str] | None = None,
) -> Corpus:
    """Build the corpus of a size (small, medium, large, full); a killed build resumes.

    licence: a regular expression that a track's licence must match ("" takes all). sha1: other
    hashes than the published ones, for other archives of the same shape. Raises CorpusError.
    """
    if size not in SUBSETS:
        raise CorpusError(f"size {size!r} is none of {list(SUBSETS)}")
    try:
        licence_pattern = re.compile(licence, re.I)
    except re.error as error:
        raise CorpusError(f"licence {licence!r} is not a regular expression: {error}") from None
    if (out / "data").exists():
        raise CorpusError(f"{out} holds a corpus already: remove it, or give another --out")
    hashes = sha1 or SHA1
    names = ("fma_metadata.zip", f"fma_{size}.zip")
    metadata, audio = (download(f"{url}/{n}", archives / n, hashes[n]) for n in names)
    rows, tree = read_metadata(metadata)
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(audio) as archive:
        chosen, rejects = _choose(rows, size, licence_pattern, archive)
        items, failed = _check_clips(chosen, archive, out / "checked.jsonl", jobs)
        rejects += failed
        write_rejects(out / "rejects.csv", rejects)
        write_text(out / "genre_tree.json", json.dumps(tree, indent=1, ensure_ascii=False))
        about = (
            f"The {size} set of the Free Music Archive dataset (Defferrard, Benzi, Vandergheynst, "
            "Bresson, ISMIR 2017, github.com/mdeff/fma), split by artist as published. Each track "
            "has the licence that its artist chose. `source` holds the FMA number; "
            "`genre_tree.json` names every genre's parent. "
            f"{len(rejects)} tracks were excluded: `rejects.csv`."
        )
        write_corpus(items, out, card(f"fma {size}", about, [i.track for i in items]))
    (out / "checked.jsonl").unlink()
    return Corpus(out)


def _choose(
    rows: list[Row], size: str, licence: re.Pattern[str], archive: zipfile.ZipFile
) -> tuple[dict[str, Row], list[Reject]]:
    """The clips to build from, by their path in the archive, and those excluded by the metadata."""
    chosen: dict[str, Row] = {}
    rejects: list[Reject] = []
    members = set(archive.namelist())
    for row in rows:
        name = f"fma_{size}/{row.number // 1000:03d}/{row.number:06d}.mp3"
        if row.subset not in SUBSETS[size]:
            continue
        if size != "full" and row.number in BROKEN_CLIPS:
            rejects.append(Reject(name, "a clip known to be broken"))
        elif not licence.search(row.licence):
            rejects.append(Reject(name, f"its licence, {row.licence!r}, was not asked for"))
        elif name not in members:
            rejects.append(Reject(name, f"not in {Path(archive.filename or '').name}"))
        else:
            chosen[name] = row
    return chosen, rejects


def _check_clips(
    chosen: dict[str, Row], archive: zipfile.ZipFile, record: Path, jobs: int
) -> tuple[list[Item], list[Reject]]:
    """Decode every clip: the items of those that can be used, and the others."""

    def work(name: str) -> FileCheck:
        try:
            return check(name, archive.read(name))
        except zipfile.BadZipFile as error:
            return FileCheck(name, f"damaged in the archive: {error}")

    items: list[Item] = []
    rejects: list[Reject] = []
    seen: dict[str, str] = {}  # sha256 -> path
    for result in check_all(chosen, work, record, jobs):
        if result.reason:
            rejects.append(Reject(result.key, result.reason))
        elif result.sha256 in seen:
            rejects.append(Reject(result.key, f"the same bytes as {seen[result.sha256]}"))
        else:
            seen[result.sha256] = result.key
            track = _track(chosen[result.key], result)
            items.append(Item(track, _Member(archive, result.key), result.size, result.key))
    return items, rejects


@dataclass(frozen=True)
class _Member:
    """Read one file of an open archive when called."""

    archive: zipfile.ZipFile
    name: str

    def __call__(self) -> bytes:
        return self.archive.read(self.name)


def _track(row: Row, result: FileCheck) -> Track:
    return Track(
        id=result.sha256[:16],
        title=row.title,
        artist=row.artist,
        album=row.album,
        genres=row.genres,
        source=f"fma:{row.number}",
        licence=row.licence,
        duration_s=result.duration_s,
        sha256=result.sha256,
        split=row.split,
    )


def read_metadata(path: Path) -> tuple[list[Row], dict[str, str]]:
    """Read fma_metadata.zip: the tracks, and the genre tree as title -> parent's title ("": root).

    Raises CorpusError when a table lacks a published column or file.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            genres = _rows(archive, "fma_metadata/genres.csv")
            table = _rows(archive, "fma_metadata/tracks.csv")
        except KeyError as error:
            raise CorpusError(f"{path}: {error.args[0]}") from None
    header = genres[0]
    parents, titles = {}, {}
    for line in genres[1:]:
        entry = dict(zip(header, line, strict=False))
        titles[int(entry["genre_id"])] = entry["title"]
        parents[int(entry["genre_id"])] = int(entry["parent"])
    # three header lines: the group of a column, its name, and the name of the first column
    columns = {pair: n for n, pair in enumerate(zip(table[0], table[1], strict=True))}
    used = [("track", "title"), ("artist", "name"), ("album", "title"), ("track", "genres_all")]
    used += [("track", "license"), ("set", "subset"), ("set", "split")]
    missing = [pair for pair in used if pair not in columns]
    if missing:
        raise CorpusError(f"{path}: tracks.csv has no columns {missing}")

    def depth(genre: int) -> int:
        return 0 if parents.get(genre, 0) == 0 else 1 + depth(parents[genre])

    rows = []
    for line in table[3:]:
        title, artist, album, ids, licence, subset, split = (line[columns[p]] for p in used)
        known = [g for g in ast.literal_eval(ids or "[]") if g in titles]
        names = [titles[g] for g in sorted(known, key=lambda g: (depth(g), g))]
        rows.append(Row(int(line[0]), title, artist, album, names, licence, subset, SPLIT[split]))
    tree = {titles[g]: titles.get(parent, "") for g, parent in parents.items()}
    return rows, tree


def _rows(archive: zipfile.ZipFile, name: str) -> list[list[str]]:
    with archive.open(name) as file:
        csv.field_size_limit(1 << 24)  # artists' biographies are long
        return list(csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline="")))
