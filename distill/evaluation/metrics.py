"""The fourth stage: two excerpts of every held-out track, seen by the student and its rivals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate
import librosa
import numpy as np
import soxr
import torch
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus
from distill.config import EvaluateConfig
from distill.features.cache import CacheError, Shard, is_valid, write_shard
from distill.features.recordings import Recording
from distill.teachers.base import Teacher
from distill.training.batches import Targets
from student import Feelprint

METRIC = Path(__file__).parents[2] / "metrics" / "triplet_accuracy"
TRIPLETS_A_TRACK = 40
SAMPLE_RATE = 22_050  # Hz, of the excerpts

EmbedFn = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Excerpts:
    """Two excerpts of every track: audio (tracks, 2, samples) float32 at 22,050 Hz."""

    audio: np.ndarray
    tracks: list[str]
    albums: np.ndarray  # (tracks,) numbers
    album_names: list[str]
    rejects: dict[str, str]


def excerpts(corpus: Corpus, split: str, seconds: float, folder: Path) -> Excerpts:
    """Cut two excerpts, around one and two thirds of each track of ``split``; kept in ``folder``.

    A track shorter than both excerpts together, or that cannot be decoded, is left out.
    """
    tracks = sorted((t for t in corpus.tracks if t.split == split), key=lambda t: t.id)
    key = json.dumps(["excerpts 1", seconds, [t.sha256 for t in tracks]])
    path = folder / "excerpts" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if not is_valid(path):
        length = round(seconds * SAMPLE_RATE)
        cut: dict[str, np.ndarray] = {}
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
            pair = np.stack([audio[at : at + length] for at in starts])
            cut[track.id] = pair
        write_shard(path, cut, rejects)
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


def embed_all(found: Excerpts, embed_fn: EmbedFn, what: str) -> np.ndarray:
    """Every excerpt's vector: (tracks, 2, dim). ``embed_fn`` takes (samples,) float32."""
    vectors = []
    for pair in tqdm(found.audio, desc=what, unit="track", leave=False):
        vectors.append(np.stack([embed_fn(one) for one in pair]))
    return np.stack(vectors)


def student_embedder(model: Feelprint) -> EmbedFn:
    """The student's embedding, (32,)."""
    model = model.eval()

    @torch.inference_mode()
    def embed_fn(audio: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(audio)[None])[0].numpy()

    return embed_fn


def teacher_embedder(teacher: Teacher, level_db: float) -> EmbedFn:
    """The mean of a teacher's embeddings over consecutive windows, (dim,)."""

    def embed_fn(audio: np.ndarray) -> np.ndarray:
        audio = soxr.resample(audio, SAMPLE_RATE, teacher.sample_rate)
        audio = audio * (10 ** (level_db / 20) / max(1e-9, float(np.sqrt(np.mean(audio**2)))))
        windows = max(1, len(audio) // teacher.window)
        padded = np.pad(audio, (0, max(0, teacher.window - len(audio))))
        cut = padded[: windows * teacher.window].reshape(windows, teacher.window)
        return teacher(torch.from_numpy(cut.astype(np.float32))).mean(dim=0).numpy()

    return embed_fn


def mfcc_embedder(audio: np.ndarray) -> np.ndarray:
    """Mean and deviation of 20 MFCCs, (40,): the baseline that anyone can have."""
    mfcc = librosa.feature.mfcc(y=audio, sr=SAMPLE_RATE, n_mfcc=20)
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)])


def standardised(vectors: np.ndarray) -> np.ndarray:
    """(tracks, 2, dim) scaled to unit deviation a dimension, then to unit length.

    For representations whose dimensions have no common unit (MFCC statistics, a teacher's raw
    features); an embedding that is meant to be compared as it is, is.
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    deviation = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return flat.reshape(vectors.shape)


@dataclass(frozen=True)
class Triplets:
    """Anchor, positive and negative, each as (track, excerpt) numbers (n, 2)."""

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


def album_triplets(albums: np.ndarray, seed: int = 0) -> Triplets:
    """Two tracks of one album and one of another, TRIPLETS_A_TRACK for every possible anchor."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int]] = []
    for anchor, album in enumerate(albums):
        mates = np.flatnonzero((albums == album) & (np.arange(len(albums)) != anchor))
        negatives = np.flatnonzero(albums != album)
        if len(mates) and len(negatives):
            for _ in range(TRIPLETS_A_TRACK):
                rows.append((anchor, int(rng.choice(mates)), int(rng.choice(negatives))))
    if not rows:
        raise CacheError("no album of the split has two tracks, so no triplet can be made")
    tracks = np.array(rows)
    excerpt = rng.integers(2, size=tracks.shape)
    return Triplets(*(np.stack([tracks[:, i], excerpt[:, i]], axis=1) for i in range(3)))


def compact(vectors: np.ndarray) -> np.ndarray:
    """(tracks, 2, dim) in coordinates of their own span: the same distances in fewer numbers."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    if flat.shape[1] <= len(flat):
        return vectors
    upper = np.asarray(np.linalg.qr(flat.T, mode="r"))
    return upper.T.reshape(*vectors.shape[:2], -1)


def score(
    vectors: np.ndarray, albums: np.ndarray, triplets: Triplets, resamples: int, metric: Any
) -> dict[str, Any]:
    """All figures of one representation, (tracks, 2, dim), each with its 95 % interval."""
    vectors = compact(vectors)
    picked = [
        vectors[rows[:, 0], rows[:, 1]]
        for rows in (triplets.anchor, triplets.positive, triplets.negative)
    ]
    groups = albums[triplets.anchor[:, 0]]
    figures: dict[str, Any] = {}
    for definition in ("triplet", "odd_one_out"):
        figures[definition] = metric.compute(
            a=picked[0],
            b=picked[1],
            c=picked[2],
            odd=np.full(len(groups), 2),
            definition=definition,
            groups=groups,
            bootstrap=resamples,
        )
    figures |= retrieval(vectors, albums, resamples)
    return figures


def retrieval(vectors: np.ndarray, albums: np.ndarray, resamples: int) -> dict[str, Any]:
    """Nearest neighbours: the track's other excerpt, and a track of the same album."""
    tracks, dim = len(vectors), vectors.shape[-1]
    flat = vectors.reshape(-1, dim).astype(np.float64)  # excerpts of a track side by side
    squares = (flat**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    of_track = np.repeat(np.arange(tracks), 2)
    nearest = of_track[distance.argmin(axis=1)]
    itself = (nearest == of_track).astype(float)
    distance[of_track[:, None] == of_track[None]] = np.inf
    other = of_track[distance.argmin(axis=1)]
    same_album = (albums[other] == albums[of_track]).astype(float)
    has_mate = np.bincount(albums)[albums[of_track]] > 1
    return {
        "track_recall@1": interval(itself, albums[of_track], resamples),
        "album_precision@1": interval(same_album[has_mate], albums[of_track][has_mate], resamples),
    }


def interval(right: np.ndarray, groups: np.ndarray, resamples: int) -> dict[str, Any]:
    """Mean and 95 % interval by bootstrap over groups."""
    number = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(number, right), np.bincount(number)
    drawn = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    share = float(right.mean())
    return {"accuracy": share, "low": float(low), "high": float(high), "n": len(right)}


@torch.inference_mode()
def cosine_to_teacher(
    model: Feelprint, found: Sequence[Recording], targets: Targets, clip_segments: int = 6
) -> dict[str, float]:
    """Mean cosine between the student's directions and the teacher's space.

    One clip from the middle of every unaltered recording. On tracks that no training step saw
    this tells whether the student learned the teacher or its corpus by heart.
    """
    model = model.eval()
    cosines = []
    for recording in (r for r in found if r.augmentation == 0):
        length = min(clip_segments, recording.segments)
        start = (recording.segments - length) // 2
        mel, nonsilent_ratio = recording.clip(start, length)
        tokens = model.tokens(torch.from_numpy(mel).float()[None])
        heard = torch.from_numpy(nonsilent_ratio).float()[None]
        made = model.head.unit_embedding(tokens, heard)[0][0].numpy()
        wanted = targets.space(recording.teacher_embedding(start, length)[None], len(made))[0]
        cosines.append(float(made @ wanted))
    return {"mean": float(np.mean(cosines)), "clips": len(cosines)}


def evaluate_model(
    model: Feelprint,
    teachers: Sequence[tuple[Teacher, float]],
    corpus: Corpus,
    config: EvaluateConfig,
    cache: Path,
) -> dict[str, Any]:
    """Figures of the student, an untrained one of its shape, MFCC statistics and the teachers."""
    found = excerpts(corpus, config.split, config.excerpt_s, cache)
    metric = evaluate.load(str(METRIC))
    triplets = album_triplets(found.albums)
    torch.manual_seed(0)
    untrained = Feelprint(model.config)
    rows = {
        "student": embed_all(found, student_embedder(model), "student"),
        "untrained": embed_all(found, student_embedder(untrained), "untrained student"),
        "mfcc": standardised(embed_all(found, mfcc_embedder, "MFCC")),
    }
    for teacher, level_db in teachers:
        made = embed_all(found, teacher_embedder(teacher, level_db), teacher.name)
        rows[teacher.name] = standardised(made)
    figures = {
        name: score(vectors, found.albums, triplets, config.bootstrap, metric)
        for name, vectors in rows.items()
    }
    return {
        "split": config.split,
        "excerpt_s": config.excerpt_s,
        "tracks": len(found.tracks),
        "albums": len(found.album_names),
        "left_out": found.rejects,
        "figures": figures,
    }
