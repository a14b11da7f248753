"""What the cache holds of each track, read slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets_scripts.corpora.corpus import Track
from distill.features.cache import FeatureExtractor, ShardJob
from distill.features.shards import CacheError, LazyArray, Shard


@dataclass(frozen=True)
class Recording:
    """One track in one augmentation, as the cache holds it; arrays are read slice by slice."""

    track: Track
    augmentation: int  # 0: the track as it is
    mel: LazyArray  # (windows, n_mels, frames) float16
    nonsilent_ratio: LazyArray  # (windows,) float16
    teacher: tuple[LazyArray, ...]  # one (segments, dim) float16 per teacher

    @property
    def segments(self) -> int:
        """Segments of the track, each with one embedding per teacher."""
        return len(self.teacher[0])

    @property
    def album_key(self) -> str:
        """What groups tracks: the source, and the album, or the artist, or the track itself."""
        t = self.track
        return f"{t.source}/{t.album or t.artist or t.id}"

    def clip(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Log-mel (windows, n_mels, frames) and nonsilent_ratio (windows,) of a clip.

        ``start`` and ``length`` are in segments.
        """
        windows = len(self.mel) // self.segments
        at = slice(start * windows, (start + length) * windows)
        return self.mel[at], self.nonsilent_ratio[at]

    def teacher_embedding(self, start: int, length: int) -> np.ndarray:
        """Mean of each teacher's embeddings over a clip, concatenated: (dim,)."""
        means = [t[start : start + length].astype(np.float32).mean(axis=0) for t in self.teacher]
        return np.concatenate(means)


def recordings(
    jobs: Sequence[ShardJob],
    mel: FeatureExtractor,
    teachers: Sequence[FeatureExtractor],
    folder: Path,
) -> list[Recording]:
    """All recordings of ``jobs`` that the cache in ``folder`` holds, without the skipped tracks.

    Raises CacheError where a shard is missing or does not hold the job's tracks.
    """
    found = []
    for job in jobs:
        mels = Shard(job.path(folder, mel))
        embeddings = [Shard(job.path(folder, teacher)) for teacher in teachers]
        for track in job.tracks:
            if track.id in mels.rejects:
                continue
            try:
                arrays = [mels.arrays[f"{track.id}/{name}"] for name in ("mel", "nonsilent_ratio")]
                made = tuple(shard.arrays[f"{track.id}/teacher"] for shard in embeddings)
            except KeyError as error:
                raise CacheError(
                    f"no {error} in {job.path(folder, mel)} or the teachers' shards beside it; "
                    "run the cache stage again"
                ) from error
            found.append(Recording(track, job.augmentation, arrays[0], arrays[1], made))
    return found
