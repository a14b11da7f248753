"""Open a corpus, or any folder of music as one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets_scripts.audio import AudioError, duration
from datasets_scripts.corpora.checked import SHORTEST_S
from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track, file_sha256
from datasets_scripts.corpora.folder import SOURCE, file_key, folder_album, music_files
from datasets_scripts.corpora.splits import split_by_groups, track_keys
from datasets_scripts.corpora.tags import read_tags
from datasets_scripts.files import write_text

READERS = 4  # threads: reading a file waits for the disk, hashing releases Python's lock


class MusicFolder(Corpus):
    """The music files of a folder, read where they are: nothing is copied.

    A file's hash, length and tags are kept in ``index`` (JSON), so that the next start reads only
    files that were added or changed; files that are gone are left out. The length is that of the
    header: whether a file can be decoded shows when it is. limit: at most so many files, those of
    the index first, then in an order that depends on the names only. within_s: seconds after which
    no further file is read; those that are left are read at the next start.

    skipped_tracks: files that cannot be used -> the reason. unread_files: how many are left.
    """

    def __init__(
        self,
        folder: Path,
        index: Path,
        limit: int | None = None,
        within_s: float | None = None,
    ) -> None:
        """Read the folder. Raises CorpusError for one that does not exist or holds no music."""
        if not folder.is_dir():
            raise CorpusError(f"{folder} is no folder")
        self.folder = folder
        files = {file_key(file, folder): file for file in music_files(folder, index.parent)}
        if not files:
            raise CorpusError(f"{folder} holds no music (its subfolders were searched too)")
        known = _read_index(index)
        order = sorted(files, key=lambda k: (k not in known, hashlib.sha256(k.encode()).digest()))
        self.found_files = len(files)
        chosen = order if limit is None else order[:limit]
        new = [key for key in chosen if key not in known]
        end_s = inf if within_s is None else time.monotonic() + within_s

        def describe(key: str) -> dict[str, Any] | None:
            return _describe(files[key], folder) if time.monotonic() < end_s else None

        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(describe, new)
            bar = tqdm(read, total=len(new), desc="reading music", unit="file", disable=not new)
            known |= {key: row for key, row in zip(new, bar, strict=True) if row is not None}
        rows = {key: known[key] for key in sorted(chosen) if key in known}
        self.unread_files = len(chosen) - len(rows)
        write_text(index, json.dumps(rows, indent=0))
        self.skipped_tracks = {
            str(files[key].relative_to(folder)): row["reason"]
            for key, row in rows.items()
            if row["reason"]
        }
        unique: dict[str, tuple[Path, dict[str, Any]]] = {}  # of files of the same bytes, the first
        for key, row in rows.items():
            if not row["reason"]:
                unique.setdefault(row["track"]["id"], (files[key], row["track"]))
        if not unique and not self.skipped_tracks:
            raise CorpusError(f"no file of {folder} could be read within {within_s:g} s")
        if not unique:
            why = next(iter(self.skipped_tracks.items()))
            raise CorpusError(f"{folder} holds no music that can be read; {why[0]}: {why[1]}")
        described = [row for _, row in unique.values()]
        splits = split_by_groups([track_keys(row["artist"], row["album"]) for row in described])
        self.tracks = [Track(**row, split=s) for row, s in zip(described, splits, strict=True)]
        self._files = {id: file for id, (file, _) in unique.items()}

    def audio_bytes(self, id: str) -> bytes:
        """Return the bytes of a track's file. Raises CorpusError where it is gone or changed."""
        try:
            data = self._files[id].read_bytes()
        except OSError as error:
            raise CorpusError(f"{self._files[id]} cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest()[:16] != id:
            raise CorpusError(f"{self._files[id]} has changed since the start")
        return data

    def iter_audio(self, split: str | None = None) -> Iterator[tuple[Track, bytes]]:
        """Yield (track, audio bytes) of one split, or of all."""
        for track in self.tracks if split is None else self.split(split):
            yield track, self.audio_bytes(track.id)

    def extract(self, folder: Path) -> int:
        """The tracks are plain files already. Raises CorpusError."""
        raise CorpusError(f"{self.folder} holds plain files already")


def _describe(file: Path, folder: Path) -> dict[str, Any]:
    """A row of the index: the track without its split, or the reason why it cannot be used."""
    try:
        length_s = duration(file)
        if length_s < SHORTEST_S:
            raise AudioError(f"{length_s:.2f} s, shorter than {SHORTEST_S:.0f} s")
        sha256 = file_sha256(file)
    except (AudioError, OSError) as error:
        return {"reason": str(error)}
    tags = read_tags(file, file.name)
    track = Track(
        id=sha256[:16],
        title=tags.title,
        artist=tags.artist,
        album=folder_album(tags.album, file, folder),
        genres=tags.genres,
        source=SOURCE,
        licence="",
        duration_s=round(length_s, 3),
        sha256=sha256,
        split="train",
    )
    row = asdict(track)
    del row["split"]  # it depends on the other tracks
    return {"reason": "", "track": row}


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # the first start, or a file that is no index: it is made anew
        return {}


def open_corpus(
    folder: Path, data: Path, limit: int | None = None, within_s: float | None = None
) -> Corpus:
    """The corpus in ``folder``, or the music in it as a `MusicFolder` with its index in ``data``.

    limit, within_s: of a folder of music. Raises CorpusError for a folder without music, or a
    corpus that is not complete.
    """
    if (folder / "data").is_dir() or (folder / "data.partial").is_dir():
        return Corpus(folder)
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return MusicFolder(folder, data / f"music-{name}.json", limit, within_s)
