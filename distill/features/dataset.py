"""Batches of clips from the cache, drawn from seed and step: a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.utils.data import Dataset

from datasets_scripts.corpora.corpus import Track
from datasets_scripts.triplets.table import Triplet, track_of
from distill.features.cache import FeatureExtractor, Job
from distill.features.shards import CacheError, LazyArray, Shard
from distill.training.teacher_space import TeacherSpace, fit_space

NO_ANSWERS = torch.zeros(0, 3, dtype=torch.long)


@dataclass(frozen=True)
class Recording:
    """One track in one variant, as the cache holds it; arrays are read slice by slice."""

    track: Track
    augmentation: int
    mel: LazyArray  # (windows, n_mels, frames) float16
    nonsilent_ratio: LazyArray  # (windows,) float16
    teacher: tuple[LazyArray, ...]  # one (segments, dim) float16 a teacher

    @property
    def segments(self) -> int:
        """Segments of the track, each with one embedding a teacher."""
        return len(self.teacher[0])

    @property
    def album(self) -> str:
        """What names the track's soundtrack, or what comes nearest to one."""
        t = self.track
        return f"{t.source}/{t.album or t.artist or t.id}"

    def clip(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A clip's log-mel (windows, n_mels, frames) and nonsilent_ratio (windows,), by segments."""
        windows = len(self.mel) // self.segments
        at = slice(start * windows, (start + length) * windows)
        return self.mel[at], self.nonsilent_ratio[at]

    def teacher_embedding(self, start: int, length: int) -> np.ndarray:
        """Mean of the teachers' embeddings of a clip, side by side: (dim,)."""
        clip = [t[start : start + length].astype(np.float32).mean(axis=0) for t in self.teacher]
        return np.concatenate(clip)


def recordings(
    jobs: Sequence[Job], mel: FeatureExtractor, teachers: Sequence[FeatureExtractor], folder: Path
) -> list[Recording]:
    """All recordings of ``jobs`` that the cache holds; tracks it left out are not there.

    Raises CacheError where a shard is missing or does not hold the job's tracks.
    """
    found = []
    for job in jobs:
        mels = Shard(job.path(folder, mel))
        taught = [Shard(job.path(folder, teacher)) for teacher in teachers]
        for track in job.tracks:
            if track.id in mels.rejects:
                continue
            try:
                arrays = [mels.arrays[f"{track.id}/{name}"] for name in ("mel", "nonsilent_ratio")]
                made = tuple(shard.arrays[f"{track.id}/teacher"] for shard in taught)
            except KeyError as error:
                raise CacheError(
                    f"no {error} in {job.path(folder, mel)} or the teachers' shards beside it; "
                    "run the cache stage again"
                ) from error
            found.append(Recording(track, job.augmentation, arrays[0], arrays[1], made))
    return found


@dataclass(frozen=True)
class Clips:
    """A batch of clips. Consecutive four are: two of a track, then two of an album mate.

    Behind them stand the songs of people's answers, one clip each, where there are answers.
    """

    mel: Tensor  # (batch, windows, n_mels, frames) float32
    nonsilent_ratio: Tensor  # (batch, windows) float32
    teacher: Tensor  # (batch, k) float32, what is learned of the teacher
    track: Tensor  # (batch,) numbers of tracks
    album: Tensor  # (batch,) numbers of albums
    answers: Tensor = NO_ANSWERS  # (answers, 3) places in the batch, the odd one's last


class Targets:
    """The reduced teacher space, fitted on clips of the training recordings."""

    def __init__(self, space: TeacherSpace):
        self.space = space

    @staticmethod
    def fit(
        found: Sequence[Recording],
        k: int,
        weights: Sequence[float] | None = None,
        clip_segments: int = 6,
    ) -> Targets:
        """Fit on all consecutive clips of the unaltered recordings; ``weights`` as in `fit_space`.

        A clip has ``clip_segments``, or fewer where most tracks would not hold two of them.
        """
        unaltered = [recording for recording in found if recording.augmentation == 0]
        half = int(np.median([recording.segments for recording in unaltered])) // 2
        clips = [_clips(recording, max(1, min(clip_segments, half))) for recording in unaltered]
        tracks = np.repeat(np.arange(len(clips)), [len(c) for c in clips])
        dims = [taught.shape[1] for taught in found[0].teacher]
        return Targets(fit_space(np.concatenate(clips), tracks, k, dims, weights))

    def clusters(
        self, by_track: Sequence[Sequence[Recording]], per_cluster: int = 16
    ) -> np.ndarray:
        """The number of each track's cluster in the teacher's space, k-means on whole tracks."""
        whole = np.stack([v[0].teacher_embedding(0, v[0].segments) for v in by_track])
        k = max(1, len(whole) // per_cluster)
        return KMeans(k, n_init=1, random_state=0).fit_predict(self.space(whole))


def _clips(recording: Recording, length: int) -> np.ndarray:
    """Teacher means of consecutive clips, (clips, dim); a track shorter than one is one clip."""
    length = min(length, recording.segments)
    starts = range(0, recording.segments - length + 1, length)
    return np.stack([recording.teacher_embedding(start, length) for start in starts])


def _start(song: str) -> float | None:
    """Where an excerpt `ID@SECONDS` starts, or None for a whole track."""
    _, at, seconds = song.partition("@")
    return float(seconds) if at else None


class ClipBatches(Dataset[Clips]):
    """Batch number ``step`` is drawn from (seed, step) alone.

    Tracks are drawn evenly over the clusters of the teacher's space (by the square root of a
    cluster's size): a corpus has many of the same and few of the rare, and the student must
    know both (S-SONDO, 2026).

    With people's ``answers``, all of which name an odd one, each batch also holds as many of them
    as fours, drawn by their weight. A song is heard from where its answer says (`ID@SECONDS`), or
    anywhere.

    ``label`` makes of the teachers' means of clips, (n, dim), what is learned of them: the targets'
    space where none is given.
    """

    def __init__(
        self,
        found: Sequence[Recording],
        targets: Targets,
        batch_size: int,
        clip_segments: Sequence[int],
        seed: int,
        answers: Sequence[Triplet] = (),
        label: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if batch_size % 4:
            raise ValueError(f"a batch is made of fours, got batch_size {batch_size}")
        self.label, self.seed = label or targets.space, seed
        self.fours, self.lengths = batch_size // 4, tuple(clip_segments)
        by_track: dict[str, list[Recording]] = {}
        for recording in found:
            by_track.setdefault(recording.track.id, []).append(recording)
        self.by_track = list(by_track.values())
        tracks = [variants[0].track for variants in self.by_track]
        albums = [variants[0].album for variants in self.by_track]
        self.album_of = np.unique(albums, return_inverse=True)[1]
        self.mates = [np.flatnonzero(self.album_of == album) for album in self.album_of]
        clusters = targets.clusters(self.by_track)
        sizes = np.bincount(clusters)
        # longer tracks hold more to hear, yet not in proportion
        length = np.array([sum(r.segments for r in variants) for variants in self.by_track])
        weight = np.sqrt(length) / np.sqrt(sizes[clusters])
        self.weight = weight / weight.sum()
        number = {track.id: n for n, track in enumerate(tracks)}
        # (answers, 3) numbers of tracks, the odd one's last, and where their clips start in them
        self.asked = [
            [(number[track_of(song)], _start(song)) for song in sorted(t.ids, key=t.odd.__eq__)]
            for t in answers
        ]
        counts = np.array([t.weight for t in answers])
        self.answer_weight = counts / counts.sum()

    def __len__(self) -> int:
        return 1 << 30  # as many as are asked for

    def _recording(self, number: int, rng: np.random.Generator) -> Recording:
        """The track of a number as it is, or an altered copy: each by its length."""
        variants = self.by_track[number]
        sizes = np.array([recording.segments for recording in variants])
        return variants[int(rng.choice(len(variants), p=sizes / sizes.sum()))]

    def __getitem__(self, step: int) -> Clips:
        rng = np.random.default_rng((self.seed, step))
        length = int(rng.choice(self.lengths))
        first = rng.choice(len(self.by_track), self.fours, p=self.weight)
        pairs = np.stack([[one, rng.choice(self.mates[one])] for one in first]).reshape(-1)
        # two clips a track, of the same recording: an altered one is not the music as it is
        heard = [self._recording(number, rng) for number in pairs]
        chosen: list[tuple[int, Recording, float | None]] = [
            (number, recording, None)
            for number, recording in zip(pairs, heard, strict=True)
            for _ in range(2)
        ]
        if self.asked:
            for answer in rng.choice(len(self.asked), self.fours, p=self.answer_weight):
                for number, from_s in self.asked[answer]:
                    chosen.append((number, self._recording(number, rng), from_s))
        mels, nonsilent_ratios, taught = [], [], []
        for _, recording, from_s in chosen:
            clip = min(length, recording.segments)
            last = recording.segments - clip
            if from_s is None:
                start = int(rng.integers(last + 1))
            else:
                start = min(last, int(from_s / recording.track.duration_s * recording.segments))
            mel, nonsilent_ratio = recording.clip(start, clip)
            short = len(mel) // clip * (length - clip)
            mels.append(np.pad(mel, ((0, short), (0, 0), (0, 0))))
            nonsilent_ratios.append(np.pad(nonsilent_ratio, (0, short)))
            taught.append(recording.teacher_embedding(start, clip))
        numbers = np.array([number for number, _, _ in chosen])
        return Clips(
            torch.from_numpy(np.stack(mels)).float(),
            torch.from_numpy(np.stack(nonsilent_ratios)).float(),
            torch.from_numpy(self.label(np.stack(taught))),
            torch.from_numpy(numbers),
            torch.from_numpy(self.album_of[numbers]),
            torch.arange(4 * self.fours, len(numbers)).reshape(-1, 3),
        )
