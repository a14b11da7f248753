"""Splits in which no artist and no album is on both sides."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from hashlib import sha256

from scipy.cluster.hierarchy import DisjointSet

HELD_OUT = 0.1  # the share of tracks that test and validation each aim at


def track_keys(artist: str, album: str) -> set[str]:
    """What a track may share with others: every artist that is named, and the album."""
    names = re.split(r"[;/,]|\s(?:&|x|vs\.?|feat\.?|ft\.?|featuring)\s", artist, flags=re.I)
    found = {f"artist {_plain(name)}" for name in names if _plain(name)}
    return found | ({f"album {_plain(album)}"} if _plain(album) else set())


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def connected_groups(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """The group of each item, numbered from 0 in the order of first appearance.

    Items that share a key, directly or through others, are in one group: the connected components
    of the graph of items and keys.
    """
    items = DisjointSet(range(len(keys)))
    first: dict[Hashable, int] = {}  # the first item that has a key
    for n, own in enumerate(keys):
        for key in own:
            items.merge(n, first.setdefault(key, n))
    number: dict[int, int] = {}
    return [number.setdefault(items[n], len(number)) for n in range(len(keys))]


def split_by_groups(keys: Sequence[Iterable[Hashable]]) -> list[str]:
    """A split for each track, from the keys that it may share with others.

    Tracks of one group (see `connected_groups`) go together. The largest group is always for
    training; the others are taken, in an order that depends on their keys only, until test and
    then validation hold a tenth of the tracks. A group of more than a fifth of all tracks is
    always for training. scikit-learn's group splitters promise neither this order nor the two
    rules about large groups.
    """
    groups: dict[int, list[int]] = {}
    for n, group in enumerate(connected_groups(keys)):
        groups.setdefault(group, []).append(n)
    names = [min(map(str, own), default=str(n)) for n, own in enumerate(keys)]
    order = sorted(
        groups.values(), key=lambda g: sha256(min(names[n] for n in g).encode()).hexdigest()
    )
    largest = max(order, key=len, default=[])
    splits = ["train"] * len(keys)
    sizes = {"test": 0, "validation": 0}
    for members in order:
        unfilled = [s for s, count in sizes.items() if count < HELD_OUT * len(keys)]
        if members is largest or len(members) > len(keys) / 5 or not unfilled:
            continue
        sizes[unfilled[0]] += len(members)
        for n in members:
            splits[n] = unfilled[0]
    return splits
