"""Triplets: which of three songs is the odd one out. One table for people's and made answers.

    a, b, c   ids of the three songs, each different
    odd       the id of the odd one out; null when the rater could not tell
    source    where the answer is from: mecomp, survey, votes, made:album, ...
    rater     who answered; null when unknown
    when      the moment of the answer (UTC); null when unknown
    weight    how much the answer counts (see `weigh`)
An id may name an excerpt of a track: `ID@SECONDS` is where it starts.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.corpora.corpus import SPLITS, CorpusError, Track
from datasets_scripts.corpora.splits import keys, split_by_groups

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("a", "b", "c", "odd", "source", "rater")),
        ("when", pa.timestamp("us", tz="UTC")),
        ("weight", pa.float64()),
    ]
)

TEST_STREAM = "survey-random"  # the source of the survey's random rounds, which are for testing


@dataclass(frozen=True)
class Triplet:
    """One answer; the columns of the table."""

    a: str
    b: str
    c: str
    odd: str | None
    source: str
    rater: str | None = None
    when: datetime | None = None
    weight: float = 1.0

    @property
    def songs(self) -> tuple[str, str, str]:
        """The three ids, in the order in which they were shown."""
        return self.a, self.b, self.c


class BadRow(ValueError):
    """The reason why a row cannot be used."""


def check(triplet: Triplet) -> Triplet:
    """Return the triplet if it makes sense.

    Raises BadRow for a song without an id or named twice, an odd one that is none of the three,
    or a weight that is not a positive number.
    """
    songs = triplet.songs
    if not all(isinstance(song, str) and song for song in songs):
        raise BadRow("a song without an id")
    if len(set(songs)) < 3:
        raise BadRow(f"a song is named twice: {', '.join(songs)}")
    if triplet.odd is not None and triplet.odd not in songs:
        raise BadRow(f"the odd one, {triplet.odd}, is none of the three")
    if not isinstance(triplet.weight, int | float) or not 0 < triplet.weight < float("inf"):
        raise BadRow(f"weight {triplet.weight!r} is not a positive number")
    return triplet


def write_triplets(triplets: Iterable[Triplet], path: Path) -> None:
    """Write the table as Parquet; nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(t) for t in triplets], schema=SCHEMA)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Read the rows of a triplet table, unchecked. Raises CorpusError for any other file."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path} cannot be read as Parquet: {error}") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise CorpusError(f"{path} has no columns {missing}; it has {table.column_names}")
    return table.select(SCHEMA.names).to_pylist()


def read_triplets(path: Path | str) -> list[Triplet]:
    """Read a table that holds good rows only. Raises CorpusError, and names the first bad row."""
    found = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            found.append(check(Triplet(**row)))
        except BadRow as error:
            raise CorpusError(
                f"{path}: row {number}: {error}. `python -m datasets_scripts triplets human "
                "--format table` sorts such rows out"
            ) from None
    return found


def for_training(triplets: Iterable[Triplet]) -> list[Triplet]:
    """The answers that may be trained on: all that name an odd one, but for the test stream's."""
    return [t for t in triplets if t.odd is not None and t.source != TEST_STREAM]


def track_of(song: str) -> str:
    """The track of a song's id: the id itself, or what an excerpt was cut from."""
    return song.split("@")[0]


def weigh(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Weigh the answers so that every triplet counts 1 in all, however many people answered it.

    Answers stay apart: five for one song and one for another are six rows of a sixth each.
    """
    counts = Counter(frozenset(t.songs) for t in triplets if t.odd is not None)
    return [replace(t, weight=1 / max(1, counts[frozenset(t.songs)])) for t in triplets]


def split_with_corpus(
    triplets: Iterable[Triplet], tracks: Sequence[Track]
) -> tuple[dict[str, list[Triplet]], list[Triplet]]:
    """Sort triplets by the split of their tracks: (by split, those that cannot be placed).

    A triplet that spans two splits is not placed, nor is one with an artist or album that also
    stands in a split held out more strictly (test, then validation, then train). So no artist
    and no album is shared between the splits of what comes back.
    """
    home: dict[str, int] = {}  # artist, album or track -> the strictest split it stands in
    for track in tracks:
        for key in _ties(track):
            home[key] = max(home.get(key, 0), SPLITS.index(track.split))
    by_id = {track.id: track for track in tracks}
    by_split: dict[str, list[Triplet]] = defaultdict(list)
    spanning = []
    for triplet in triplets:
        songs = [by_id[track_of(song)] for song in triplet.songs]
        homes = {home[key] for song in songs for key in _ties(song)}
        if len(homes) == 1 and {song.split for song in songs} == {SPLITS[min(homes)]}:
            by_split[songs[0].split].append(triplet)
        else:
            spanning.append(triplet)
    return dict(by_split), spanning


def split_by_ties(triplets: Sequence[Triplet], tracks: Iterable[Track]) -> dict[str, list[Triplet]]:
    """Split triplets afresh, whatever the corpus's split: all are placed.

    Triplets that share a track, artist or album go together (see `splits.split_by_groups`); about
    a tenth goes to test, a tenth to validation.
    """
    by_id = {track.id: _ties(track) for track in tracks}
    tied = [set().union(*(by_id[track_of(song)] for song in t.songs)) for t in triplets]
    by_split: dict[str, list[Triplet]] = defaultdict(list)
    for triplet, split in zip(triplets, split_by_groups(tied), strict=True):
        by_split[split].append(triplet)
    return dict(by_split)


def _ties(track: Track) -> set[str]:
    return keys(track.artist, track.album) | {f"track {track.id}"}


def grouped(triplets: Iterable[Triplet]) -> Iterator[list[Triplet]]:
    """Answers to the same three songs together, in whatever order they were shown."""
    groups: dict[frozenset[str], list[Triplet]] = {}
    for triplet in triplets:
        groups.setdefault(frozenset(triplet.songs), []).append(triplet)
    yield from groups.values()
