"""Splits in which no artist and no album stands on both sides."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from hashlib import sha256

from datasets_scripts.corpora.corpus import Track

HELD_OUT = 0.1  # the share of tracks that test and validation each aim at


def keys(artist: str, album: str) -> set[str]:
    """What ties a track to others: every artist that is named, and the album."""
    names = re.split(r"[;/,]|\s(?:&|x|vs\.?|feat\.?|ft\.?|featuring)\s", artist, flags=re.I)
    found = {f"artist {_plain(name)}" for name in names if _plain(name)}
    return found | ({f"album {_plain(album)}"} if _plain(album) else set())


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def split_by_groups(tied: Sequence[Iterable[Hashable]]) -> list[str]:
    """A split for each track, from the keys that tie it to others.

    Tracks that share a key, directly or through others, go together. The largest group is
    always for training; the others are taken, in an order that only depends on their keys, until
    test and then validation hold a tenth of the tracks. A group of more than a fifth of all is
    never held out.
    """
    groups = _groups(tied)
    names = [min(map(str, group_keys), default=str(n)) for n, group_keys in enumerate(tied)]
    order = sorted(groups, key=lambda g: sha256(min(names[n] for n in g).encode()).hexdigest())
    largest = max(order, key=len, default=[])
    splits = ["train"] * len(tied)
    held = {"test": 0, "validation": 0}
    for group in order:
        open_splits = [s for s, count in held.items() if count < HELD_OUT * len(tied)]
        if group is largest or len(group) > len(tied) / 5 or not open_splits:
            continue
        held[open_splits[0]] += len(group)
        for n in group:
            splits[n] = open_splits[0]
    return splits


def _groups(tied: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Connected components: union-find over the keys."""
    parent = list(range(len(tied)))

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    first: dict[Hashable, int] = {}
    for n, group_keys in enumerate(tied):
        for key in group_keys:
            parent[root(n)] = root(first.setdefault(key, n))
    groups: dict[int, list[int]] = {}
    for n in range(len(tied)):
        groups.setdefault(root(n), []).append(n)
    return list(groups.values())


def shared(tracks: Iterable[Track]) -> dict[str, set[str]]:
    """Every artist and album that is in more than one split: key -> splits. Empty: no leak."""
    seen: dict[str, set[str]] = {}
    for track in tracks:
        for key in keys(track.artist, track.album):
            seen.setdefault(key, set()).add(track.split)
    return {key: splits for key, splits in seen.items() if len(splits) > 1}
