"""Triplets: which of three tracks is the odd one out. One table for human and derived answers.

    a, b, c   ids of the three tracks, each different
    odd       the id of the odd one out; null when the rater could not tell
    source    origin of the answer: mecomp, survey, votes, made:album, ...
    rater     who answered; null when unknown
    when      time of the answer (UTC); null when unknown
    weight    weight of the answer (see `normalise_weights`)
An id may name an excerpt of a track: `ID@SECONDS` says where it starts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.corpora.corpus import SPLITS, CorpusError, Track
from datasets_scripts.corpora.splits import split_by_groups, track_keys
from datasets_scripts.files import atomic_path

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("a", "b", "c", "odd", "source", "rater")),
        ("when", pa.timestamp("us", tz="UTC")),
        ("weight", pa.float64()),
    ]
)

TEST_STREAM = "survey-random"  # the source of the survey's random rounds, which only test
ACTIVE_STREAM = "survey-active"  # of its active rounds, chosen because people disagree on them


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
    def ids(self) -> tuple[str, str, str]:
        """The three ids, in the order in which they were shown."""
        return self.a, self.b, self.c


class BadRow(ValueError):
    """The reason why a row cannot be used."""


def check(triplet: Triplet) -> Triplet:
    """Return the triplet if it is valid.

    Raises BadRow for a track without an id or named twice, an odd one that is none of the three,
    or a weight that is not a positive number.
    """
    ids = triplet.ids
    if not all(isinstance(id, str) and id for id in ids):
        raise BadRow("a track without an id")
    if len(set(ids)) < 3:
        raise BadRow(f"a track is named twice: {', '.join(ids)}")
    if triplet.odd is not None and triplet.odd not in ids:
        raise BadRow(f"the odd one, {triplet.odd}, is none of the three")
    if not isinstance(triplet.weight, int | float) or not 0 < triplet.weight < float("inf"):
        raise BadRow(f"weight {triplet.weight!r} is not a positive number")
    return triplet


def write_triplets(triplets: Iterable[Triplet], path: Path) -> None:
    """Write the table as Parquet, completely or not at all."""
    table = pa.Table.from_pylist([asdict(t) for t in triplets], schema=SCHEMA)
    with atomic_path(path) as part:
        pq.write_table(table, part)


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
    """Read a table of valid rows. Raises CorpusError, which names the first invalid row."""
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
    """The answers that may be trained on: those that name an odd one and are not for testing."""
    return [t for t in triplets if t.odd is not None and t.source != TEST_STREAM]


def track_of(id: str) -> str:
    """The track's id: the id itself, or that of the track from which an excerpt is."""
    return id.split("@")[0]


def normalise_weights(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Weight the answers so that the weights of a triplet sum to 1, however many people answered.

    Answers are not merged: six answers to a triplet are six rows of weight 1/6, whichever
    track each names.
    """
    counts = Counter(frozenset(t.ids) for t in triplets if t.odd is not None)
    return [replace(t, weight=1 / max(1, counts[frozenset(t.ids)])) for t in triplets]


def split_with_corpus(
    triplets: Iterable[Triplet], tracks: Sequence[Track]
) -> tuple[dict[str, list[Triplet]], list[Triplet]]:
    """Sort triplets by the split of their tracks: (by split, those that cannot be placed).

    A triplet whose tracks are in two splits is not placed, nor is one with an artist or album that
    is also in a stricter split (test is strictest, then validation, then train). So the splits that
    are returned share no artist and no album.
    """
    strictest: dict[str, int] = {}  # artist, album or track -> the strictest split that has it
    for track in tracks:
        for key in _keys(track):
            strictest[key] = max(strictest.get(key, 0), SPLITS.index(track.split))
    by_id = {track.id: track for track in tracks}
    by_split: dict[str, list[Triplet]] = defaultdict(list)
    spanning = []
    for triplet in triplets:
        three = [by_id[track_of(id)] for id in triplet.ids]
        ranks = {strictest[key] for track in three for key in _keys(track)}
        if len(ranks) == 1 and {track.split for track in three} == {SPLITS[min(ranks)]}:
            by_split[three[0].split].append(triplet)
        else:
            spanning.append(triplet)
    return dict(by_split), spanning


def split_anew(triplets: Sequence[Triplet], tracks: Iterable[Track]) -> dict[str, list[Triplet]]:
    """Split triplets regardless of the corpus's split: all are placed.

    Triplets that share a track, artist or album go together (see `splits.split_by_groups`); about
    a tenth goes to test, a tenth to validation.
    """
    by_split: dict[str, list[Triplet]] = defaultdict(list)
    splits = split_by_groups(group_keys(triplets, tracks))
    for triplet, split in zip(triplets, splits, strict=True):
        by_split[split].append(triplet)
    return dict(by_split)


def group_keys(triplets: Sequence[Triplet], tracks: Iterable[Track]) -> list[set[str]]:
    """The tracks, artists and albums of each triplet, as keys for `splits.connected_groups`."""
    by_id = {track.id: _keys(track) for track in tracks}
    return [set().union(*(by_id[track_of(id)] for id in t.ids)) for t in triplets]


def _keys(track: Track) -> set[str]:
    return track_keys(track.artist, track.album) | {f"track {track.id}"}


def grouped(triplets: Iterable[Triplet]) -> Iterator[list[Triplet]]:
    """Groups of answers about the same three tracks, in whatever order they were shown."""
    groups: dict[frozenset[str], list[Triplet]] = {}
    for triplet in triplets:
        groups.setdefault(frozenset(triplet.ids), []).append(triplet)
    yield from groups.values()
