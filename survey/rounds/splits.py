"""Which tracks the test stream asks about, and which the training rounds, so that both are usable.

An answer can be trained on only where its tracks share no artist and no album with the test
stream (`distill.personal.crowd`) or with the held-out splits of the corpus (`distill.run`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import comb
from typing import Protocol

from datasets_scripts.corpora.corpus import SPLITS
from datasets_scripts.corpora.splits import connected_groups, track_keys

TEST_TRIPLETS = 400  # possible ones that the test stream aims at: 1,200 answers of three raters
MAX_TEST_SHARE = 0.3  # of the tracks, unless three artists need more
MIN_TRACKS = 10  # in a stream whose rounds may have two tracks of one artist
MIN_TRIPLETS = 30  # possible ones in each stream; a corpus with fewer is only good for a trial


class SplitTrack(Protocol):
    """What the splits need to know of a track."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def artist(self) -> str:
        """Its artists, as tagged."""

    @property
    def album(self) -> str:
        """Its album, as tagged."""

    @property
    def split(self) -> str:
        """Its split in the corpus: train, validation or test."""


@dataclass(frozen=True)
class Stream:
    """The tracks of one stream, by id.

    min_artists: how many of the three tracks of a round are by different artists at least; 3
    where that allows MIN_TRIPLETS different triplets, else 2 or 1. triplets: how many there are.
    """

    tracks: frozenset[str]
    min_artists: int
    triplets: int

    @property
    def usable(self) -> bool:
        """Whether there are enough triplets for more than a trial."""
        return self.triplets >= MIN_TRIPLETS


@dataclass(frozen=True)
class Streams:
    """Both streams. unused: tracks in neither, such as those that share an album with both."""

    train: Stream
    test: Stream
    unused: int

    @property
    def usable(self) -> bool:
        """Whether answers to both are of use."""
        return self.train.usable and self.test.usable

    def split_of(self, ids: Iterable[str]) -> dict[str, str]:
        """For each of `ids`: "test", "train" or "unused"."""
        return {
            i: "test" if i in self.test.tracks else "train" if i in self.train.tracks else "unused"
            for i in ids
        }


def artist_key(artist: str, album: str, id: str) -> str:
    """Equal for tracks of one artist; where it is unknown, of one album; else unique."""
    if artist:
        return "artist " + artist.casefold()
    return "album " + album.casefold() if album else "track " + id


def possible_triplets(artists: Collection[str], min_artists: int = 3) -> int:
    """How many triplets of tracks by at least `min_artists` artists there are.

    artists: one entry per track. For three, the third elementary symmetric polynomial of the
    numbers of tracks by artist.
    """
    if min_artists < 3:
        by_one = sum(comb(count, 3) for count in Counter(artists).values())
        return comb(len(artists), 3) - (by_one if min_artists == 2 else 0)
    one = two = three = 0
    for count in Counter(artists).values():
        three += count * two
        two += count * one
        one += count
    return three


def stream_of(tracks: Collection[str], artist_of: Mapping[str, str]) -> Stream:
    """The stream of these tracks, with as many different artists in a round as they allow."""
    artists = [artist_of[i] for i in tracks]
    found = [(n, possible_triplets(artists, n)) for n in (3, 2, 1)]
    if len(tracks) < MIN_TRACKS:
        found = found[:1]
    best = next((pair for pair in found if pair[1] >= MIN_TRIPLETS), found[0])
    return Stream(frozenset(tracks), *best)


def assign_streams(tracks: Sequence[SplitTrack], asked: Mapping[str, str] | None = None) -> Streams:
    """The tracks of both streams.

    asked: the stream ("train" or "test") of tracks about which raters were asked already: they
    stay there. The test stream takes the corpus's test split, then its validation split, then
    training tracks, whole groups that share no artist or album with others, until it allows
    TEST_TRIPLETS triplets of three artists or would take more than MAX_TEST_SHARE of the tracks.
    Where the groups are too few, because one compilation connects all artists, it takes the
    tracks of single artists, and tracks that share a key with both streams are unused. Where
    there are too few artists for three in every round, a round may have two of one artist.
    """
    asked = asked or {}
    tracks = list(tracks)
    keys = {t.id: track_keys(t.artist, t.album) or {f"track {t.id}"} for t in tracks}
    artist_of = {t.id: artist_key(t.artist, t.album, t.id) for t in tracks}
    held_out: dict[str, int] = {}  # a key -> its strictest split in the corpus
    for track in tracks:
        for key in keys[track.id]:
            held_out[key] = max(held_out.get(key, 0), SPLITS.index(track.split))
    strictness = {t.id: max(held_out[key] for key in keys[t.id]) for t in tracks}
    by_group: dict[object, list[str]] = defaultdict(list)
    for track, group in zip(tracks, connected_groups([keys[t.id] for t in tracks]), strict=True):
        by_group[group].append(track.id)
    by_artist: dict[object, list[str]] = defaultdict(list)
    for track in tracks:
        by_artist[artist_of[track.id]].append(track.id)
    attempts = [
        _fill(units, keys, artist_of, strictness, asked, limit * len(tracks))
        for units in (list(by_group.values()), list(by_artist.values()))
        for limit in (MAX_TEST_SHARE, 0.5)
    ]
    return max(attempts, key=_preference)  # of equal ones the first


def _preference(streams: Streams) -> tuple[bool, int, int]:
    train, test = streams.train, streams.test
    smaller = 0 if streams.usable else min(train.triplets, test.triplets)
    return streams.usable, train.min_artists + test.min_artists, smaller


def _fill(
    units: list[list[str]],
    keys: Mapping[str, set[str]],
    artist_of: Mapping[str, str],
    strictness: Mapping[str, int],
    asked: Mapping[str, str],
    most: float,
) -> Streams:
    """Streams whose test tracks are whole `units`, at most `most` tracks beyond those `asked`."""
    fixed = {stream: {i for i, s in asked.items() if s == stream and i in keys} for stream in
             ("train", "test")}  # fmt: skip
    trained = set().union(*(keys[i] for i in fixed["train"]))

    def preference(unit: list[str]) -> tuple[int, int, str]:
        # The corpus's test split first; a small unit before a large one of the same split.
        first = min(unit)
        return -max(strictness[i] for i in unit), len(unit), sha256(first.encode()).hexdigest()

    test = set(fixed["test"])
    for unit in sorted(units, key=preference):
        enough = possible_triplets([artist_of[i] for i in test]) >= TEST_TRIPLETS
        strictest = max(strictness[i] for i in unit)
        too_many = strictest == 0 and len(test | set(unit)) > most
        stop = (enough or too_many) and strictest < SPLITS.index("test")
        if not stop and not any(keys[i] & trained for i in unit):
            test |= set(unit)
    tested = set().union(*(keys[i] for i in test))
    free = {i for i in keys if i not in test and not keys[i] & tested}
    train = {i for i in free if strictness[i] == 0} | (fixed["train"] & free)
    unused = len(keys) - len(train) - len(test)
    return Streams(stream_of(train, artist_of), stream_of(test, artist_of), unused)


def training_only(tracks: Sequence[SplitTrack]) -> Streams:
    """Streams of a survey without test rounds: every track outside the corpus's held-out splits."""
    artist_of = {t.id: artist_key(t.artist, t.album, t.id) for t in tracks}
    train = [t.id for t in tracks if t.split == "train"]
    return Streams(stream_of(train, artist_of), stream_of([], artist_of), len(tracks) - len(train))
