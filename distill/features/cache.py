"""The first stage: what the teachers and the student's front end make of the corpus, written once.

One shard holds the features of a few tracks by one producer (the front end, or one teacher). Its
name is a digest of all that they depend on: the audio's content, the alteration, the producer's
revision, layer and windowing. A shard is complete or absent, carries a checksum, and is read slice
by slice, so that a corpus of any size is trained on without holding it.
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
from typing import Any, Protocol

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
from student.frontend import SILENCE, LogMel

AUGMENTATION_VERSION = 4  # of the alterations; a change of distill/augment.py raises it
STRETCH_SEGMENTS = 6  # segments of a track that are altered in one way
DECODE_RATE = 44_100  # Hz; alterations happen at this rate, producers resample from it
ABANDONED_S = 3_600  # seconds; a temporary file is written in one of them


class FeatureExtractor(Protocol):
    """Makes named arrays from one track's audio; `key` is all that they depend on."""

    name: str
    sample_rate: int  # Hz
    makes: tuple[str, ...]  # names of the arrays
    uses_coded_audio: bool  # whether it hears what a codec left of an altered copy

    def key(self) -> dict[str, Any]:
        """What the arrays depend on, beside the audio."""
        ...

    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,) at `sample_rate` -> arrays, the first axis being time."""
        ...


def segment_samples(student: FeelprintConfig, cache: CacheConfig) -> int:
    """Samples a segment, at the student's sample rate."""
    return student.window_length * cache.segment_windows


class MelExtractor:
    """The student's front end: `mel` (windows, n_mels, frames) and `nonsilent_ratio` (windows,)."""

    name = "logmel"
    makes: tuple[str, ...] = ("mel", "nonsilent_ratio")
    uses_coded_audio = True

    def __init__(self, student: FeelprintConfig, cache: CacheConfig):
        self.config = student
        self.segment = segment_samples(student, cache)
        self.sample_rate = student.sample_rate
        self.front_end = LogMel(student)

    def key(self) -> dict[str, Any]:
        """What the arrays depend on: the front end's settings, and the segments' length."""
        c = self.config
        return {
            "frontend": [c.sample_rate, c.n_fft, c.hop_length, c.window_frames, c.n_mels],
            "range": [c.f_min, c.f_max, c.floor, SILENCE],
            "segment": self.segment,
        }

    @torch.inference_mode()
    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,) -> log-mel of every window of its whole segments."""
        segments = len(audio) // self.segment
        windows = torch.from_numpy(audio[: segments * self.segment])
        mels, nonsilent_ratios = [], []
        for chunk in windows.view(-1, self.config.window_length).split(64):
            mel, nonsilent_ratio = self.front_end(chunk)
            mels.append(mel.half().numpy())
            nonsilent_ratios.append(nonsilent_ratio.half().numpy())
        return {"mel": np.concatenate(mels), "nonsilent_ratio": np.concatenate(nonsilent_ratios)}


class TeacherExtractor:
    """A teacher: `teacher` (segments, dim), one window at the start of each segment.

    A window longer than a segment reaches into the next; the last one ends with the audio.
    """

    makes: tuple[str, ...] = ("teacher",)
    uses_coded_audio = False

    def __init__(self, teacher: Teacher, student: FeelprintConfig, cache: CacheConfig, batch: int):
        self.teacher = teacher
        self.name = teacher.name.replace("/", "-")
        self.sample_rate = teacher.sample_rate
        self.segment_s = segment_samples(student, cache) / student.sample_rate
        self.level = 10 ** (cache.teacher_level_db / 20)
        self.batch = batch
        if teacher.window > self.segment_s * self.sample_rate * 2:
            raise CacheError(
                f"{teacher.name} hears {teacher.window / self.sample_rate:.1f} s at once; raise "
                f"cache.segment_windows until a segment ({self.segment_s:.1f} s) comes near"
            )

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on: the teacher, the segments, the level it hears."""
        return {
            **self.teacher.key(),
            "segment_s": round(self.segment_s, 6),
            "level": round(self.level, 6),
        }

    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Mono audio (samples,), not silent -> one embedding a segment, float16."""
        audio = audio * (self.level / np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
        segments = round(len(audio) / self.sample_rate / self.segment_s)
        last = max(0, len(audio) - self.teacher.window)
        starts = [min(last, round(i * self.segment_s * self.sample_rate)) for i in range(segments)]
        padded = np.pad(audio, (0, self.teacher.window)).astype(np.float32)
        windows = torch.from_numpy(
            np.stack([padded[start : start + self.teacher.window] for start in starts])
        )
        made = [self.teacher(chunk) for chunk in windows.split(self.batch)]
        embeddings = torch.cat(made).half().cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise CacheError(
                f"{self.teacher.name} made a value that float16 cannot hold; take another layer"
            )
        return {"teacher": embeddings}


@dataclass(frozen=True)
class Job:
    """One shard's tracks, and which of their variants it holds (0: the music as it is)."""

    corpus: Corpus
    tracks: tuple[Track, ...]
    augmentation: int

    def path(self, folder: Path, producer: FeatureExtractor) -> Path:
        """Where the shard of ``producer`` is, or will be."""
        key = json.dumps(producer.key(), sort_keys=True)
        what = [track.sha256 for track in self.tracks]
        if self.augmentation:
            what += [f"variant {self.augmentation} of recipe {AUGMENTATION_VERSION}"]
        producer_digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
        return folder / f"{producer.name}-{producer_digest}" / f"{digest}.safetensors"

    def is_made(self, folder: Path, producer: FeatureExtractor) -> bool:
        """Whether the shard of ``producer`` is there, undamaged, with every track accounted for."""
        path = self.path(folder, producer)
        if not is_valid(path):
            return False
        shard = Shard(path)
        kept = [track.id for track in self.tracks if track.id not in shard.rejects]
        names = {f"{track_id}/{name}" for track_id in kept for name in producer.makes}
        known = {track.id for track in self.tracks}
        return names == set(shard.arrays) - {EMPTY} and known.issuperset(shard.rejects)


def plan(corpora: Sequence[Corpus], config: CacheConfig) -> list[Job]:
    """All shards that a run needs: every track as it is, and those that are learned altered."""
    jobs = []
    for corpus in corpora:
        for split in ("train", "validation"):  # the test split is only ever heard as excerpts
            tracks = sorted((t for t in corpus.tracks if t.split == split), key=lambda t: t.id)
            groups = cut(tracks, config.tracks_per_shard)
            variants = config.augmentations if split in config.train_splits else 1
            jobs += [Job(corpus, group, v) for group in groups for v in range(variants)]
    # the music as it is first: a run that is cut short can then train on what is there
    return sorted(jobs, key=lambda job: job.augmentation)


def cut(tracks: Sequence[Track], mean_size: int) -> list[tuple[Track, ...]]:
    """Groups of about ``mean_size`` consecutive tracks, ended where a track's own id says so.

    A track that comes or goes changes the one group that it is in, and not all that follow.
    """
    groups: list[list[Track]] = [[]]
    for track in tracks:
        groups[-1].append(track)
        if zlib.crc32(track.id.encode()) % mean_size == 0:
            groups.append([])
    return [tuple(group) for group in groups if group]


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written; nothing reads it, but it takes room."""
    for part in folder.glob("*/*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


Sound = tuple[np.ndarray, np.ndarray]  # audio at DECODE_RATE, and the same after a codec


def _heard(job: Job, segment_s: float) -> Iterator[tuple[Track, Sound | AudioError]]:
    """The job's tracks as audio, altered and coded where the job's variant says so."""
    before: np.ndarray | None = None
    stretch = round(STRETCH_SEGMENTS * segment_s * DECODE_RATE)
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
        yield track, augment(audio, before, DECODE_RATE, stretch, rng)
        before = audio


def _ahead(job: Job, segment_s: float) -> Iterator[tuple[Track, Sound | AudioError]]:
    """`_heard`, one track ahead in a second thread: decoding beside the teacher."""
    tracks = _heard(job, segment_s)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, tracks, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, tracks, None)
            yield item


def make_shards(
    job: Job, producers: Sequence[FeatureExtractor], folder: Path, segment_s: float
) -> float:
    """Make one shard a producer, of the same tracks; returns the hours of audio heard."""
    arrays: list[dict[str, np.ndarray]] = [{} for _ in producers]
    rejects: dict[str, str] = {}
    seconds = 0.0
    for track, sound in _ahead(job, segment_s):
        if isinstance(sound, AudioError):
            rejects[track.id] = str(sound)
            continue
        segments = int(len(sound[0]) / DECODE_RATE / segment_s)
        # a whole number of segments, so that all producers agree on their number
        samples = int(np.ceil(segments * segment_s * DECODE_RATE)) + 8
        audio, coded = (one[:samples] for one in sound)
        if not np.any(audio):  # what sounds is in the rest that was cut off
            rejects[track.id] = "silent"
            continue
        seconds += len(audio) / DECODE_RATE
        for producer, made in zip(producers, arrays, strict=True):
            heard = coded if producer.uses_coded_audio else audio
            resampled = soxr.resample(heard, DECODE_RATE, producer.sample_rate, quality="MQ")
            for name, array in producer(resampled).items():
                made[f"{track.id}/{name}"] = array
    for producer, made in zip(producers, arrays, strict=True):
        write_shard(job.path(folder, producer), made, rejects)
    return seconds / 3600


def fill(
    corpora: Sequence[Corpus],
    producers: Sequence[FeatureExtractor],
    config: CacheConfig,
    segment_s: float,
    rank: int = 0,
    world: int = 1,
) -> float:
    """Make the shards that are missing or damaged; returns the hours of audio heard.

    This process takes every ``world``-th shard of the plan, and not of what is missing: that
    changes while others write, and they would no longer agree on who makes what.
    """
    folder = Path(config.folder)
    _sweep(folder)
    todo = []
    mine = plan(corpora, config)[rank::world]
    for job in tqdm(mine, desc="checking the cache", unit="shard", disable=rank > 0):
        lacking = [p for p in producers if not job.is_made(folder, p)]
        if lacking:
            todo.append((job, lacking))
    hours, started = 0.0, time.monotonic()
    with tqdm(todo, desc="cache", unit="shard", disable=rank > 0) as bar:
        for job, lacking in bar:
            hours += make_shards(job, lacking, folder, segment_s)
            rate = hours * 3600 / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate * world:.0f} hours of audio an hour")
    return hours


def left_out(
    corpora: Sequence[Corpus], producer: FeatureExtractor, config: CacheConfig
) -> dict[str, str]:
    """The tracks that a filled cache does not hold, by id, with the reason."""
    return {
        track_id: reason
        for job in plan(corpora, config)
        for track_id, reason in Shard(job.path(Path(config.folder), producer)).rejects.items()
    }
