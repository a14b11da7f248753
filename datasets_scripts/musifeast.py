"""MUSIFEAST-17: clips of 17 genres with people's ratings of valence, arousal and more.

H. A. van der Walle, W. Wu, E. H. Margulis and K. Jakubowski, "MUSIFEAST-17", Behavior Research
Methods 57(7), 2025, doi:10.3758/s13428-025-02724-0; the data are in the repository
HazelvdW/MUSIFEAST-17 on GitHub. 701 raters, 356 clips of 30 s. The ratings are CC0. The clips are
excerpts of commercial recordings, published under fair dealing for non-commercial research: a
corpus of them is for measuring and cannot be published.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
from datasets_scripts.files import atomic_path
from datasets_scripts.triplets.rated import (
    artist_folds,
    rated_triplets,
    reliability,
    valence_arousal_plane,
)
from datasets_scripts.triplets.table import write_triplets

SOURCE = "musifeast17"
LICENCE = "fair dealing for non-commercial research; not redistributable"
LAYOUTS = (("stimuli", ".mp3"), ("clips", ".ogg"))  # of the published repository; of a copy
ALL_RATERS = "all"
GROUPS = tuple(
    f"{country}{ages}"
    for country in ("UK", "US")
    for ages in ("18to30", "31to45", "46to60", "61to75")
)
MEASURES = (
    "valence",
    "arousal",
    "enjoyment",
    "contrast",
    "style_familiarity",
    "clip_familiarity",
)
LOWEST, HIGHEST = 1.0, 5.0  # of a rating
FACTS = ("CLIP_NAME", "GENRE", "TRACK_TITLE", "ARTIST", "VOCALISATION")
COLUMNS = (*FACTS, *(f"{measure}_{kind}" for measure in MEASURES for kind in ("M", "SD")))
NOT_KNOWN = "NA"  # R's missing value


def rating_columns(group: str) -> list[str]:
    """The columns of ratings.parquet that hold the ratings of a group, or of all raters."""
    prefix = "" if group == ALL_RATERS else f"{group}_"
    return [f"{prefix}{measure}_{kind}" for measure in MEASURES for kind in ("mean", "sd")]


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "clip", "genre", "artist")),
        ("vocalisation", pa.bool_()),
        ("fold", pa.int8()),
        *(
            (name, pa.float64())
            for group in (ALL_RATERS, *GROUPS)
            for name in rating_columns(group)
        ),
    ]
)


def build_musifeast(folder: Path, out: Path, jobs: int = 1) -> Corpus:
    """Build the corpus from a clone of the published repository; a killed build resumes.

    ``folder`` holds `data/MUSIFEAST17_*.csv` and the clips as `stimuli/*.mp3` or `clips/*.ogg`.
    All tracks are in the split `test`. Beside the corpus it writes

    - ratings.parquet (`SCHEMA`): one row per clip, with means and standard deviations over all
      raters and over each group by country and age (the published tables do not give the number of
      raters), and `fold`, one of five by artist;
    - triplets.parquet: triplets from the ratings (`datasets_scripts.triplets.rated`).

    A clip that is missing or cannot be decoded is in rejects.csv with its reason.

    Raises:
        CorpusError: no such layout, a table that is missing or has other columns or other clips,
            a rating outside 1 to 5, or a corpus in ``out`` already.
    """
    if (out / "data").exists():
        raise CorpusError(f"{out} holds a corpus already: remove it, or give another --out")
    clips, suffix = _layout(folder)
    tables = _read_tables(folder / "data")
    rows = tables[ALL_RATERS]
    files = {f"{name}{suffix}": clips / f"{name}{suffix}" for name in rows}
    unknown = sorted(path.name for path in clips.glob(f"*{suffix}") if path.name not in files)
    rejects = [Reject(f"{clips.name}/{name}", "a clip without ratings") for name in unknown]
    out.mkdir(parents=True, exist_ok=True)
    kept, bad = _check_clips(files, out / "checked.jsonl", jobs)
    rejects += [Reject(f"{clips.name}/{name}", reason) for name, reason in bad]
    write_rejects(out / "rejects.csv", rejects)
    if not kept:
        raise CorpusError(f"{clips}: none of the {len(files)} rated clips can be used: rejects.csv")
    items = [Item.of_file(_track(rows[Path(r.key).stem], r), files[r.key], r.key) for r in kept]
    _write_ratings(items, tables, out)
    about = (
        f"{len(items)} clips of MUSIFEAST-17 (van der Walle, Wu, Margulis and Jakubowski, Behavior "
        "Research Methods, 2025, doi:10.3758/s13428-025-02724-0), with the ratings of 701 people "
        "in `ratings.parquet` (CC0) and triplets from them in `triplets.parquet`. The clips are "
        "commercial recordings under fair dealing for non-commercial research: this corpus must "
        f"not be published. {len(rejects)} clips were skipped: `rejects.csv`."
    )
    write_corpus(items, out, card("MUSIFEAST-17", about, [i.track for i in items]))
    (out / "checked.jsonl").unlink()
    return Corpus(out)


def _read_tables(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The tables of every group and of all raters. Raises CorpusError where their clips differ."""
    tables = {group: read_table(folder / f"MUSIFEAST17_{group}.csv") for group in GROUPS}
    rows = read_table(folder / f"MUSIFEAST17_{ALL_RATERS}.csv")
    for group, table in tables.items():
        if different := sorted(rows.keys() ^ table.keys()):
            raise CorpusError(
                f"{folder}: the tables of all raters and of {group} differ in "
                f"{len(different)} clips (the first: {different[0]}); expected the same clips in "
                "all tables of one version"
            )
    return tables | {ALL_RATERS: rows}


def _check_clips(
    files: Mapping[str, Path], record: Path, jobs: int
) -> tuple[list[FileCheck], list[tuple[str, str]]]:
    """The clips that can be used, and name and reason of the others; duplicates are not used."""
    missing = [name for name, path in files.items() if not path.is_file()]
    bad = [(name, "rated, but there is no such file") for name in missing]
    present = [name for name in files if name not in set(missing)]
    kept: dict[str, FileCheck] = {}  # by sha256
    for result in check_all(present, lambda name: check(name, files[name]), record, jobs):
        if not result.reason and result.sha256 in kept:
            result = result._replace(reason=f"the same bytes as {kept[result.sha256].key}")
        if result.reason:
            bad.append((result.key, result.reason))
        else:
            kept[result.sha256] = result
    return list(kept.values()), bad


def _layout(folder: Path) -> tuple[Path, str]:
    """The folder of the clips and their suffix. Raises CorpusError unless there is exactly one."""
    found = [
        (folder / name, suffix)
        for name, suffix in LAYOUTS
        if any((folder / name).glob(f"*{suffix}"))
    ]
    if len(found) != 1:
        tried = " or ".join(f"{folder / name}/*{suffix}" for name, suffix in LAYOUTS)
        raise CorpusError(
            f"{folder} has {'both' if found else 'neither'} of {tried}; expected one of them, as "
            "in a clone of HazelvdW/MUSIFEAST-17"
        )
    return found[0]


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read a published table: clip name -> row of `COLUMNS`, the ratings as numbers.

    A standard deviation is None where it is not known (a group with one rater).

    Raises:
        CorpusError: no such file, another version's columns, a clip twice, or a value that is
            impossible; the message names the file, the clip and the column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise CorpusError(
                    f"{path} has no columns {missing}; it has {reader.fieldnames}. Expected the "
                    "tables of MUSIFEAST-17 as published in 2025"
                )
            table: dict[str, dict[str, Any]] = {}
            for row in reader:
                name = row["CLIP_NAME"]
                if not name or name in table:
                    raise CorpusError(f"{path}: the clip {name!r} has no name or is there twice")
                table[name] = _parse(row, f"{path}: {name}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a table of MUSIFEAST-17: {error}") from None
    if not table:
        raise CorpusError(f"{path} holds no clips")
    return table


def _parse(row: dict[str, str], where: str) -> dict[str, Any]:
    """A row with numbers for ratings, a bool for VOCALISATION and "" for what is not known."""
    parsed: dict[str, Any] = {
        name: "" if row[name] == NOT_KNOWN else row[name] for name in FACTS if name != "CLIP_NAME"
    }
    if not parsed["GENRE"] or not parsed["ARTIST"]:
        raise CorpusError(f"{where}: expected a GENRE and an ARTIST, got {parsed}")
    if row["VOCALISATION"] not in ("yes", "no"):
        raise CorpusError(f"{where}: VOCALISATION is {row['VOCALISATION']!r}, expected yes or no")
    parsed["VOCALISATION"] = row["VOCALISATION"] == "yes"
    for measure in MEASURES:
        mean, sd = _number(row, f"{measure}_M", where), _number(row, f"{measure}_SD", where)
        if mean is None or not LOWEST <= mean <= HIGHEST:
            raise CorpusError(
                f"{where}: {measure}_M is {row[f'{measure}_M']!r}, expected a rating of "
                f"{LOWEST:g} to {HIGHEST:g}"
            )
        if sd is not None and not 0 <= sd < math.inf:
            raise CorpusError(f"{where}: {measure}_SD is {sd:g}, expected 0 or more")
        parsed |= {f"{measure}_M": mean, f"{measure}_SD": sd}
    return parsed


def _number(row: dict[str, str], column: str, where: str) -> float | None:
    if row[column] == NOT_KNOWN:
        return None
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise CorpusError(f"{where}: {column} is {row[column]!r}, expected a number") from None


def _track(row: dict[str, Any], result: FileCheck) -> Track:
    return Track(
        id=result.sha256[:16],
        title=row["TRACK_TITLE"],
        artist=row["ARTIST"],
        album="",
        genres=[row["GENRE"]],
        source=SOURCE,
        licence=LICENCE,
        duration_s=result.duration_s,
        sha256=result.sha256,
        split="test",
    )


def _write_ratings(
    items: list[Item], tables: dict[str, dict[str, dict[str, Any]]], out: Path
) -> None:
    """Write ratings.parquet and triplets.parquet for the clips of ``items``."""
    names = [Path(item.name).stem for item in items]
    rows = [tables[ALL_RATERS][name] for name in names]
    artists = np.array([row["ARTIST"] for row in rows])
    columns: dict[str, Any] = {
        "id": [item.track.id for item in items],
        "clip": names,
        "genre": [row["GENRE"] for row in rows],
        "artist": artists.tolist(),
        "vocalisation": [row["VOCALISATION"] for row in rows],
        "fold": artist_folds(artists).tolist(),
    }
    published = [f"{measure}_{kind}" for measure in MEASURES for kind in ("M", "SD")]
    for group, table in tables.items():
        for column, name in zip(rating_columns(group), published, strict=True):
            columns[column] = [table[clip][name] for clip in names]
    with atomic_path(out / "ratings.parquet") as part:
        pq.write_table(pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA), part)
    feelings = ("valence", "arousal")
    means, sds = (
        np.array([[row[f"{measure}_{kind}"] for measure in feelings] for row in rows], float)
        for kind in ("M", "SD")
    )
    if np.isnan(sds).any():
        raise CorpusError(
            f"{names[int(np.isnan(sds).any(axis=1).argmax())]}: the standard deviation of valence "
            "or arousal over all raters is not known; the weights of the triplets need it"
        )
    try:
        plane = valence_arousal_plane(means[:, 0], means[:, 1])
    except ValueError as error:
        raise CorpusError(f"no triplets from these ratings: {error}") from None
    weights = reliability(sds, means)
    triplets = rated_triplets(columns["id"], plane, artists, weights, SOURCE)
    write_triplets(triplets, out / "triplets.parquet")
