"""Titles, artists, albums and genres from the tags of music files."""

from __future__ import annotations

import io
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import mutagen

# What programs write into an unknown tag; "(255)" is ID3v1's number for no genre.
NOTHING = re.compile(r"\W*(unknown( \w+)?|none|other|untitled|various artists|\d*)\W*", re.I)


class Tags(NamedTuple):
    """The tags of a file; "" and [] where a tag is missing."""

    title: str
    artist: str
    album: str
    genres: list[str]


def read_tags(source: bytes | Path, name: str) -> Tags:
    """Read the tags of a music file; its `name` is the title when no tag has one."""
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        read = mutagen.File(stream, easy=True)
        tags = dict(read.tags or {}) if read is not None else {}
    except Exception:  # many kinds; the audio was read, so only the tags are lost
        tags = {}

    def values(key: str) -> list[str]:
        found = (str(value).strip() for value in tags.get(key, []))
        return [v for v in dict.fromkeys(found) if not NOTHING.fullmatch(v)]

    stem = re.sub(r"[_\s]+", " ", PurePosixPath(name).stem).strip()
    return Tags(
        title=(values("title") or [stem])[0],
        artist=", ".join(values("artist")),
        album=(values("album") or [""])[0],
        genres=values("genre"),
    )
