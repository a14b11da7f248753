"""Two excerpts of every track of a split, and the embedding functions that are applied to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soxr
import torch
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus
from distill.features.shards import CacheError, Shard, is_valid, write_shard
from distill.teachers.base import Teacher
from distill.teachers.musicnn import Musicnn
from student import Feelprint

SAMPLE_RATE = 22_050  # Hz, of the excerpts

EmbedFn = Callable[[np.ndarray], np.ndarray]  # (samples,) float32 at SAMPLE_RATE -> (dim,)


@dataclass(frozen=True)
class Excerpts:
    """Two excerpts of every track: audio (tracks, 2, samples) float32 at 22,050 Hz."""

    audio: np.ndarray
    tracks: list[str]
    albums: np.ndarray  # (tracks,) numbers
    album_names: list[str]
    rejects: dict[str, str]  # track -> why it was skipped


def excerpts(corpus: Corpus, split: str, seconds: float, folder: Path) -> Excerpts:
    """Cut two excerpts, around one and two thirds of each track of ``split``; kept in ``folder``.

    A track that is shorter than both excerpts together, or that cannot be decoded, is skipped and
    named in ``rejects``. Raises CacheError where fewer than three tracks remain.
    """
    tracks = sorted((t for t in corpus.tracks if t.split == split), key=lambda t: t.id)
    key = json.dumps(["excerpts 1", seconds, [t.sha256 for t in tracks]])
    path = folder / "excerpts" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if not is_valid(path):
        length = round(seconds * SAMPLE_RATE)
        pairs: dict[str, np.ndarray] = {}
        rejects: dict[str, str] = {}
        for track in tqdm(tracks, desc="excerpts", unit="track"):
            try:
                audio = decode(corpus.audio_bytes(track.id), SAMPLE_RATE)
            except AudioError as error:
                rejects[track.id] = str(error)
                continue
            if len(audio) < 2 * length:
                rejects[track.id] = f"shorter than two excerpts of {seconds:g} s"
                continue
            free = len(audio) - 2 * length
            starts = (free // 3, length + 2 * free // 3)
            pairs[track.id] = np.stack([audio[start : start + length] for start in starts])
        write_shard(path, pairs, rejects)
    shard = Shard(path)
    kept = [t for t in tracks if t.id in shard.arrays]
    if len(kept) < 3:
        raise CacheError(
            f"{corpus.folder}: {len(kept)} tracks of the {split} split are longer than two "
            f"excerpts of {seconds:g} s; at least 3 are needed"
        )
    names, numbers = np.unique([t.album or t.artist or t.id for t in kept], return_inverse=True)
    audio = np.stack([shard.arrays[t.id] for t in kept])
    return Excerpts(audio, [t.id for t in kept], numbers, list(names), shard.rejects)


def embed_all(pairs: Excerpts, embed_fn: EmbedFn, label: str) -> np.ndarray:
    """The embedding of every excerpt, (tracks, 2, dim); ``label`` is of the progress bar."""
    vectors = []
    for pair in tqdm(pairs.audio, desc=label, unit="track", leave=False):
        vectors.append(np.stack([embed_fn(audio) for audio in pair]))
    return np.stack(vectors)


def student_embedder(model: Feelprint) -> EmbedFn:
    """The student's embedding, (embedding_dim,)."""
    model = model.eval()

    @torch.inference_mode()
    def embed_fn(audio: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(audio)[None])[0].numpy()

    return embed_fn


def teacher_embedder(teacher: Teacher) -> EmbedFn:
    """The mean of a teacher's embeddings over consecutive windows, (dim,).

    The excerpt is first scaled to an RMS of the teacher's ``level_db`` dB of full scale.
    """

    def embed_fn(audio: np.ndarray) -> np.ndarray:
        audio = soxr.resample(audio, SAMPLE_RATE, teacher.sample_rate)
        rms = max(1e-9, float(np.sqrt(np.mean(audio**2))))
        audio = audio * (10 ** (teacher.level_db / 20) / rms)
        audio = np.pad(audio, (0, max(0, teacher.window - len(audio)))).astype(np.float32)
        starts = list(range(0, len(audio) - teacher.window + 1, teacher.window))
        rest = len(audio) - starts[-1] - teacher.window
        if rest > teacher.window / 2:  # one more, which ends with the excerpt
            starts.append(len(audio) - teacher.window)
        windows = np.stack([audio[start : start + teacher.window] for start in starts])
        return teacher(torch.from_numpy(windows)).mean(dim=0).numpy()

    return embed_fn


def musicnn_embedder(teacher: Musicnn) -> EmbedFn:
    """musicnn's embedding and its 50 tags as logits, concatenated: (1556,)."""
    return teacher_embedder(_WithTags(teacher))  # type: ignore[arg-type]


class _WithTags:
    """musicnn as a teacher whose embedding has the tags appended."""

    def __init__(self, teacher: Musicnn):
        self.teacher, self.level_db = teacher, teacher.level_db
        self.sample_rate, self.window = teacher.sample_rate, teacher.window

    @torch.inference_mode()
    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        pooled = self.teacher(windows)
        tags = self.teacher.network.tags(pooled.to(self.teacher.device)).cpu()
        return torch.cat([pooled, tags.logit(eps=1e-6)], dim=1)


def mfcc_embedder(audio: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of 20 MFCCs, (40,): a baseline that needs no training."""
    mfcc = librosa.feature.mfcc(y=audio, sr=SAMPLE_RATE, n_mfcc=20)
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)])
