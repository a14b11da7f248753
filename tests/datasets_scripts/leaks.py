"""Artists and albums that are in two splits of a corpus."""

from __future__ import annotations

from collections.abc import Iterable

from datasets_scripts.corpora.corpus import Track
from datasets_scripts.corpora.splits import track_keys


def shared_keys(tracks: Iterable[Track]) -> dict[str, set[str]]:
    """Every artist and album that is in more than one split: key -> splits. Empty: no leak."""
    seen: dict[str, set[str]] = {}
    for track in tracks:
        for key in track_keys(track.artist, track.album):
            seen.setdefault(key, set()).add(track.split)
    return {key: splits for key, splits in seen.items() if len(splits) > 1}
