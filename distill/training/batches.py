"""Batches of clips from the cache, drawn from seed and step: a run resumes at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.utils.data import Dataset

from datasets_scripts.triplets.table import Triplet, track_of
from distill.features.recordings import Recording
from distill.training.teacher_space import TeacherSpace, fit_space

NO_TRIPLETS = torch.zeros(0, 3, dtype=torch.long)


@dataclass(frozen=True)
class Clips:
    """A batch of training clips in quadruplets, each of two tracks of one album.

    A quadruplet is two clips of a track, then two clips of a track drawn from its album, which may
    be the same track. The clips of people's triplets follow, three per triplet, if there are any.
    """

    mel: Tensor  # (batch, windows, n_mels, frames) float32
    nonsilent_ratio: Tensor  # (batch, windows) float32
    teacher: Tensor  # (batch, k) float32, the student's target
    track: Tensor  # (batch,) numbers of tracks
    album: Tensor  # (batch,) numbers of albums
    triplets: Tensor = NO_TRIPLETS  # (triplets, 3) indices into the batch, the odd one last


class Targets:
    """The reduced teacher space, fitted on clips of the training recordings."""

    def __init__(self, space: TeacherSpace):
        self.space = space

    @staticmethod
    def fit(
        recordings: Sequence[Recording],
        k: int,
        weights: Sequence[float] | None = None,
        clip_segments: int = 6,
    ) -> Targets:
        """Fit on all consecutive clips of the unaugmented recordings.

        ``weights`` as in `fit_space`. A clip has ``clip_segments``, or half of the median track's
        segments where that is less, so that most tracks have two clips to compare.
        """
        originals = [recording for recording in recordings if recording.augmentation == 0]
        half = int(np.median([recording.segments for recording in originals])) // 2
        clips = [_clips(recording, max(1, min(clip_segments, half))) for recording in originals]
        tracks = np.repeat(np.arange(len(clips)), [len(c) for c in clips])
        dims = [array.shape[1] for array in recordings[0].teacher]
        return Targets(fit_space(np.concatenate(clips), tracks, k, dims, weights))

    def clusters(
        self, by_track: Sequence[Sequence[Recording]], per_cluster: int = 16
    ) -> np.ndarray:
        """The number of each track's cluster in the teacher's space, by k-means: (tracks,)."""
        tracks = np.stack(
            [copies[0].teacher_embedding(0, copies[0].segments) for copies in by_track]
        )
        k = max(1, len(tracks) // per_cluster)
        return KMeans(k, n_init=1, random_state=0).fit_predict(self.space(tracks))


def _clips(recording: Recording, length: int) -> np.ndarray:
    """Teacher means of consecutive clips, (clips, dim); a track shorter than one is one clip."""
    length = min(length, recording.segments)
    starts = range(0, recording.segments - length + 1, length)
    return np.stack([recording.teacher_embedding(start, length) for start in starts])


def _start_s(song: str) -> float | None:
    """The start in seconds of an excerpt `ID@SECONDS`, or None for a whole track."""
    _, at, seconds = song.partition("@")
    return float(seconds) if at else None


class ClipBatches(Dataset[Clips]):
    """Batch number ``step`` is a function of ``seed`` and ``step`` alone.

    Tracks are drawn with a probability proportional to the square root of their length, divided by
    the square root of the size of their cluster in the teacher's space: a corpus has many tracks
    of the same kind and few of the rare ones, and the student must learn both. S-SONDO (2026), a
    distillation of audio embeddings into small students, balances over such clusters too.

    With people's ``triplets``, all of which name an odd one, each batch also has as many of them
    as quadruplets, drawn by their weight. A triplet's clip starts where the triplet says
    (`ID@SECONDS`), or at random.

    ``target_fn`` maps the teachers' means of clips, (n, dim), to the student's targets (n, k); the
    default is the targets' space.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        targets: Targets,
        batch_size: int,
        clip_segments: Sequence[int],
        seed: int,
        triplets: Sequence[Triplet] = (),
        target_fn: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if batch_size % 4:
            raise ValueError(f"a batch is made of quadruplets, got batch_size {batch_size}")
        self.target_fn, self.seed = target_fn or targets.space, seed
        self.n_quadruplets, self.lengths = batch_size // 4, tuple(clip_segments)
        by_track: dict[str, list[Recording]] = {}
        for recording in recordings:
            by_track.setdefault(recording.track.id, []).append(recording)
        self.by_track = list(by_track.values())  # a track as it is, and its augmented copies
        albums = [copies[0].album_key for copies in self.by_track]
        self.album_of = np.unique(albums, return_inverse=True)[1]
        self.same_album = [np.flatnonzero(self.album_of == album) for album in self.album_of]
        clusters = targets.clusters(self.by_track)
        sizes = np.bincount(clusters)
        length = np.array([sum(r.segments for r in copies) for copies in self.by_track])
        weight = np.sqrt(length) / np.sqrt(sizes[clusters])
        self.weight = weight / weight.sum()
        number = {track_id: n for n, track_id in enumerate(by_track)}
        # of each triplet the track numbers and the start of each clip in seconds, the odd one last
        self.triplets = [
            [(number[track_of(song)], _start_s(song)) for song in sorted(t.ids, key=t.odd.__eq__)]
            for t in triplets
        ]
        weights = np.array([t.weight for t in triplets])
        self.triplet_weight = weights / weights.sum()

    def __len__(self) -> int:
        return 1 << 30  # no end: the training loop takes as many as it has steps

    def _recording(self, number: int, rng: np.random.Generator) -> Recording:
        """The track of a number, or an augmented copy of it: each with its length as weight."""
        copies = self.by_track[number]
        sizes = np.array([recording.segments for recording in copies])
        return copies[int(rng.choice(len(copies), p=sizes / sizes.sum()))]

    def _draw(self, rng: np.random.Generator) -> list[tuple[int, Recording, float | None]]:
        """The clips of a batch: track number, recording, and start in seconds if it is given."""
        first = rng.choice(len(self.by_track), self.n_quadruplets, p=self.weight)
        pairs = np.stack([[one, rng.choice(self.same_album[one])] for one in first]).reshape(-1)
        # two clips of the same recording: an augmented one does not sound like the original
        drawn_recordings = [self._recording(number, rng) for number in pairs]
        drawn: list[tuple[int, Recording, float | None]] = [
            (number, recording, None)
            for number, recording in zip(pairs, drawn_recordings, strict=True)
            for _ in range(2)
        ]
        if self.triplets:
            for at in rng.choice(len(self.triplets), self.n_quadruplets, p=self.triplet_weight):
                for number, start_s in self.triplets[at]:
                    drawn.append((number, self._recording(number, rng), start_s))
        return drawn

    def __getitem__(self, step: int) -> Clips:
        rng = np.random.default_rng((self.seed, step))
        length = int(rng.choice(self.lengths))  # segments
        drawn = self._draw(rng)
        mels, nonsilent_ratios, embeddings = [], [], []
        for _, recording, start_s in drawn:
            clip = min(length, recording.segments)
            last = recording.segments - clip
            if start_s is None:
                start = int(rng.integers(last + 1))
            else:
                start = min(last, int(start_s / recording.track.duration_s * recording.segments))
            mel, nonsilent_ratio = recording.clip(start, clip)
            padding = len(mel) // clip * (length - clip)  # windows, silent
            mels.append(np.pad(mel, ((0, padding), (0, 0), (0, 0))))
            nonsilent_ratios.append(np.pad(nonsilent_ratio, (0, padding)))
            embeddings.append(recording.teacher_embedding(start, clip))
        numbers = np.array([number for number, _, _ in drawn])
        return Clips(
            torch.from_numpy(np.stack(mels)).float(),
            torch.from_numpy(np.stack(nonsilent_ratios)).float(),
            torch.from_numpy(self.target_fn(np.stack(embeddings))),
            torch.from_numpy(numbers),
            torch.from_numpy(self.album_of[numbers]),
            torch.arange(4 * self.n_quadruplets, len(numbers)).reshape(-1, 3),
        )
