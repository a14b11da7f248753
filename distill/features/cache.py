"""The first stage: log-mels and teacher embeddings of the corpora, computed once.

One shard holds the features of a few tracks by one extractor (the front end, or one teacher). Its
name is a digest of everything that they depend on: the audio's content, the augmentation, the
extractor's revision, layers and windowing. A shard is complete or absent, carries a checksum, and
is read slice by slice, so that a corpus larger than memory can be trained on.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import soxr
import torch
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, Track
from distill.config import CacheConfig
from distill.features.augment import augment
from distill.features.shards import EMPTY, CacheError, Shard, is_valid, write_shard
from distill.teachers.base import Teacher
from student import FeelprintConfig
from student.frontend import SILENCE_RATIO, LogMel

AUGMENTATION_VERSION = 4  # raise it with any change of distill/features/augment.py
EXCERPT_SEGMENTS = 6  # length of the excerpts that an augmented copy consists of, in segments
DECODE_RATE = 44_100  # Hz; tracks are augmented at this rate, extractors resample from it
STALE_S = 3_600  # a temporary file of this age was left by a killed process; one is written in ~1 s


T = TypeVar("T")


class FeatureExtractor(Protocol):
    """Computes named arrays from one track's audio; `key` is everything that they depend on."""

    name: str
    sample_rate: int  # Hz
    outputs: tuple[str, ...]  # names of the arrays
    uses_coded_audio: bool  # whether it gets the augmented copies after the mp3 codec

    def key(self) -> dict[str, Any]:
        """Everything that the arrays depend on, besides the audio."""
        ...

    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,) at `sample_rate` -> arrays, the first axis being time."""
        ...


def segment_samples(student: FeelprintConfig, cache: CacheConfig) -> int:
    """Samples per segment, at the student's sample rate."""
    return student.window_length * cache.segment_windows


class MelExtractor:
    """The student's front end: `mel` (windows, n_mels, frames), `nonsilent_ratio` (windows,)."""

    name = "logmel"
    outputs: tuple[str, ...] = ("mel", "nonsilent_ratio")
    uses_coded_audio = True

    def __init__(self, student: FeelprintConfig, cache: CacheConfig):
        self.config = student
        self.segment = segment_samples(student, cache)
        self.sample_rate = student.sample_rate
        self.front_end = LogMel(student)

    def key(self) -> dict[str, Any]:
        """The front end's settings, and the length of a segment."""
        c = self.config
        return {
            "frontend": [c.sample_rate, c.n_fft, c.hop_length, c.window_frames, c.n_mels],
            "range": [c.f_min, c.f_max, c.floor, SILENCE_RATIO],
            "segment": self.segment,
        }

    @torch.inference_mode()
    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,) -> float16 arrays of every window of its complete segments."""
        segments = len(audio) // self.segment
        windows = torch.from_numpy(audio[: segments * self.segment])
        mels, nonsilent_ratios = [], []
        for chunk in windows.view(-1, self.config.window_length).split(64):
            mel, nonsilent_ratio = self.front_end(chunk)
            mels.append(mel.half().numpy())
            nonsilent_ratios.append(nonsilent_ratio.half().numpy())
        return {"mel": np.concatenate(mels), "nonsilent_ratio": np.concatenate(nonsilent_ratios)}


class TeacherExtractor:
    """A teacher: `teacher` (segments, dim), the embedding of the window that covers each segment.

    A window of about n segments, n > 1, starts at every n-th segment, and its embedding stands for
    all of them. The last window ends with the audio; a shorter track is one shorter window.
    """

    outputs: tuple[str, ...] = ("teacher",)
    uses_coded_audio = False

    def __init__(self, teacher: Teacher, student: FeelprintConfig, cache: CacheConfig, batch: int):
        self.teacher = teacher
        self.name = teacher.name.replace("/", "-")
        self.sample_rate = teacher.sample_rate
        self.segment_s = segment_samples(student, cache) / student.sample_rate
        self.level = 10 ** (teacher.level_db / 20)
        self.batch = batch
        # a window may be a few percent shorter than the segments that it covers
        self.segments_per_window = max(
            1, int(teacher.window / (0.98 * self.segment_s * self.sample_rate))
        )

    def key(self) -> dict[str, Any]:
        """The teacher, the length of a segment, and the level that the audio is brought to."""
        return {
            **self.teacher.key(),
            "segment_s": round(self.segment_s, 6),
            "level": round(self.level, 6),
        }

    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,), not silent -> one embedding per segment, float16.

        Raises CacheError where float16 cannot hold a value.
        """
        audio = audio * (self.level / np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
        segments = round(len(audio) / self.sample_rate / self.segment_s)
        last = max(0, len(audio) - self.teacher.window)
        starts = [
            min(last, round(i * self.segment_s * self.sample_rate))
            for i in range(0, segments, self.segments_per_window)
        ]
        if self.segments_per_window == 1:  # networks of a fixed input length
            audio = np.pad(audio, (0, self.teacher.window))
        windows = torch.from_numpy(
            np.stack([audio[s : s + self.teacher.window] for s in starts]).astype(np.float32)
        )
        chunks = [self.teacher(chunk) for chunk in windows.split(self.batch)]
        embeddings = torch.cat(chunks).half().cpu().numpy()
        embeddings = np.repeat(embeddings, self.segments_per_window, axis=0)[:segments]
        if not np.isfinite(embeddings).all():
            raise CacheError(
                f"{self.teacher.name} made a value that float16 cannot hold; take another layer"
            )
        return {"teacher": embeddings}


@dataclass(frozen=True)
class ShardJob:
    """One shard's tracks, and which of their augmentations it holds (0: the tracks as they are)."""

    corpus: Corpus
    tracks: tuple[Track, ...]
    augmentation: int

    def path(self, folder: Path, extractor: FeatureExtractor) -> Path:
        """Where the shard of ``extractor`` is, or will be."""
        key = json.dumps(extractor.key(), sort_keys=True)
        contents = [track.sha256 for track in self.tracks]
        if (
            self.augmentation
        ):  # "variant", "recipe": earlier terms, kept so that existing shards stay valid
            contents += [f"variant {self.augmentation} of recipe {AUGMENTATION_VERSION}"]
        extractor_digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:24]
        return folder / f"{extractor.name}-{extractor_digest}" / f"{digest}.safetensors"

    def is_complete(self, folder: Path, extractor: FeatureExtractor) -> bool:
        """Whether the shard of ``extractor`` is undamaged, with every track accounted for."""
        path = self.path(folder, extractor)
        if not is_valid(path):
            return False
        shard = Shard(path)
        kept = [track.id for track in self.tracks if track.id not in shard.rejects]
        names = {f"{track_id}/{name}" for track_id in kept for name in extractor.outputs}
        known = {track.id for track in self.tracks}
        return names == set(shard.arrays) - {EMPTY} and known.issuperset(shard.rejects)


def plan(corpora: Sequence[Corpus], config: CacheConfig) -> list[ShardJob]:
    """All shards that a run needs: every track as it is, and the training tracks augmented."""
    jobs = []
    for corpus in corpora:
        for split in ("train", "validation"):  # the test split is only embedded as excerpts
            tracks = sorted((t for t in corpus.tracks if t.split == split), key=lambda t: t.id)
            groups = group_tracks(tracks, config.tracks_per_shard)
            copies = config.augmentations if split in config.train_splits else 1
            jobs += [ShardJob(corpus, group, n) for group in groups for n in range(copies)]
    # the tracks as they are come first, so that an unfinished cache holds all of them once
    return sorted(jobs, key=lambda job: job.augmentation)


def group_tracks(tracks: Sequence[Track], mean_size: int) -> list[tuple[Track, ...]]:
    """Groups of about ``mean_size`` consecutive tracks; a hash of its id makes a track the last.

    Adding or removing a track thus changes its own group, and not all that follow.
    """
    groups: list[list[Track]] = [[]]
    for track in tracks:
        groups[-1].append(track)
        if zlib.crc32(track.id.encode()) % mean_size == 0:
            groups.append([])
    return [tuple(group) for group in groups if group]


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of killed processes; nothing reads them, but they take space."""
    for part in folder.glob("*/*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE_S:
                part.unlink()


AudioPair = tuple[np.ndarray, np.ndarray]  # audio at DECODE_RATE, before and after the codec


def _job_audio(job: ShardJob, segment_s: float) -> Iterator[tuple[Track, AudioPair | AudioError]]:
    """The job's tracks as audio, augmented where the job says so, or why one cannot be used."""
    previous: np.ndarray | None = None
    excerpt_samples = round(EXCERPT_SEGMENTS * segment_s * DECODE_RATE)
    for track in job.tracks:
        try:
            audio = decode(job.corpus.audio_bytes(track.id), DECODE_RATE)
            if int(len(audio) / DECODE_RATE / segment_s) == 0:
                raise AudioError(f"shorter than {segment_s:.1f} s")
            if not np.any(audio):
                raise AudioError("silent")
        except AudioError as error:
            yield track, error
            continue
        if not job.augmentation:
            yield track, (audio, audio)
            continue
        digest = hashlib.sha256(
            f"{track.sha256} {job.augmentation} {AUGMENTATION_VERSION}".encode()
        ).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        yield track, augment(audio, previous, DECODE_RATE, excerpt_samples, rng)
        previous = audio


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """``items``, the next one computed in a second thread: decoding runs beside the teacher."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def make_shards(
    job: ShardJob, extractors: Sequence[FeatureExtractor], folder: Path, segment_s: float
) -> float:
    """Write one shard per extractor, of the same tracks; returns the hours of audio processed."""
    arrays: list[dict[str, np.ndarray]] = [{} for _ in extractors]
    rejects: dict[str, str] = {}
    seconds = 0.0
    for track, pair in prefetch(_job_audio(job, segment_s)):
        if isinstance(pair, AudioError):
            rejects[track.id] = str(pair)
            continue
        segments = int(len(pair[0]) / DECODE_RATE / segment_s)
        # complete segments alone, so that all extractors agree on their number
        samples = int(np.ceil(segments * segment_s * DECODE_RATE)) + 8
        audio, coded = (version[:samples] for version in pair)
        if not np.any(audio):  # all but the incomplete last segment is silent
            rejects[track.id] = "silent"
            continue
        seconds += len(audio) / DECODE_RATE
        for extractor, shard_arrays in zip(extractors, arrays, strict=True):
            version = coded if extractor.uses_coded_audio else audio
            resampled = soxr.resample(version, DECODE_RATE, extractor.sample_rate, quality="MQ")
            for name, array in extractor(resampled).items():
                shard_arrays[f"{track.id}/{name}"] = array
    for extractor, shard_arrays in zip(extractors, arrays, strict=True):
        write_shard(job.path(folder, extractor), shard_arrays, rejects)
    return seconds / 3600


def build_cache(
    corpora: Sequence[Corpus],
    extractors: Sequence[FeatureExtractor],
    config: CacheConfig,
    segment_s: float,
    rank: int = 0,
    world: int = 1,
) -> float:
    """Write the shards that are missing or damaged; returns the hours of audio processed.

    ``segment_s`` is in seconds. Process ``rank`` of ``world`` takes every ``world``-th shard of
    the plan, and not of the missing ones: which are missing changes while other processes write.
    """
    folder = Path(config.folder)
    remove_stale(folder)
    todo = []
    own_jobs = plan(corpora, config)[rank::world]
    for job in tqdm(own_jobs, desc="checking the cache", unit="shard", disable=rank > 0):
        missing = [e for e in extractors if not job.is_complete(folder, e)]
        if missing:
            todo.append((job, missing))
    hours, started = 0.0, time.monotonic()
    with tqdm(todo, desc="cache", unit="shard", disable=rank > 0) as bar:
        for job, missing in bar:
            hours += make_shards(job, missing, folder, segment_s)
            rate = hours * 3600 / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate * world:.0f} hours of audio an hour")
    return hours


def skipped_tracks(
    corpora: Sequence[Corpus], extractor: FeatureExtractor, config: CacheConfig
) -> dict[str, str]:
    """The tracks that a complete cache does not hold, by id, each with the reason."""
    return {
        track_id: reason
        for job in plan(corpora, config)
        for track_id, reason in Shard(job.path(Path(config.folder), extractor)).rejects.items()
    }
