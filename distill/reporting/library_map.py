"""The map of a corpus: where each song lies, what is near it, what the model listened to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from sklearn.manifold import TSNE
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, Track
from distill.evaluation.figures import distances, nearest
from distill.features.cache import Shard, is_valid, write_shard
from student import Feelprint

NEAREST = 10
CLIP_S = 5.0
CLIP_RATE = 24_000  # Hz, one that Opus knows
CLIP_COMPRESSION = 0.9  # of libsndfile: about 25 kbit/s for one channel
CHUNK_WINDOWS = 64  # that the CNN sees at once
BARS = 48  # of the picture of a song's attention


def pick(tracks: Sequence[Track], split: str, most: int) -> list[Track]:
    """At most ``most`` tracks: all of the evaluated split, then the others, evenly spread."""
    first = sorted((t for t in tracks if t.split == split), key=lambda t: t.id)
    rest = sorted((t for t in tracks if t.split != split), key=lambda t: (t.album, t.id))
    for chosen, room in ((first, most), (rest, max(0, most - len(first)))):
        if len(chosen) > room:
            at = np.linspace(0, len(chosen) - 1, room).round().astype(int)
            chosen[:] = [chosen[i] for i in at]
    return first + rest


@torch.inference_mode()
def listen(model: Feelprint, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A whole song (samples,) -> its embedding (32,) and attention (windows,), summing to one.

    The attention is the mean over the queries. The CNN sees a few windows at a time, so that a
    song of an hour needs no more memory than a minute.
    """
    step = CHUNK_WINDOWS * model.config.window_length
    parts = [
        model.encode(torch.from_numpy(audio[at : at + step])[None])
        for at in range(0, len(audio), step)
    ]
    tokens, nonsilent_ratio = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    embedding, attention = model.pool(tokens, nonsilent_ratio)
    return embedding[0].numpy(), attention[0].mean(dim=0).numpy()


def opus(audio: np.ndarray, sample_rate: int) -> bytes:
    """Mono audio (samples,) as a small Ogg Opus file."""
    resampled = soxr.resample(audio, sample_rate, CLIP_RATE)
    with io.BytesIO() as file:
        soundfile.write(
            file,
            resampled,
            CLIP_RATE,
            format="OGG",
            subtype="OPUS",
            compression_level=CLIP_COMPRESSION,
        )
        return file.getvalue()


def hear_song(model: Feelprint, source: bytes) -> dict[str, np.ndarray]:
    """What the map keeps of one song: embedding, attention, and a clip from where that is highest.

    Raises AudioError for a file that cannot be decoded.
    """
    audio = decode(source, model.config.sample_rate)
    embedding, attention = listen(model, audio)
    length = round(CLIP_S * model.config.sample_rate)
    best = int(attention.argmax()) * model.config.window_length
    start = max(0, min(best - length // 2, len(audio) - length))
    clip = opus(audio[start : start + length], model.config.sample_rate)
    return {
        "embedding": embedding,
        "attention": attention,
        "clip": np.frombuffer(clip, np.uint8),
        "clip_start_s": np.array([start / model.config.sample_rate], np.float32),
    }


def songs(
    model: Feelprint, corpus: Corpus, tracks: Sequence[Track], folder: Path, version: str
) -> list[tuple[Track, dict[str, np.ndarray]]]:
    """``hear_song`` of every track, kept in ``folder``; what cannot be decoded is left out.

    ``version`` names the model's weights.
    """
    found = []
    for track in tqdm(tracks, desc="map", unit="song"):
        key = json.dumps(["song 1", version, track.sha256, CLIP_S])
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        if not is_valid(path):
            try:
                made, rejects = hear_song(model, corpus.audio_bytes(track.id)), {}
            except AudioError as error:
                made, rejects = {}, {track.id: str(error)}
            write_shard(path, made, rejects)
        shard = Shard(path)
        if not shard.rejects:
            found.append((track, {name: np.array(a) for name, a in shard.arrays.items()}))
    return found


def project_2d(vectors: np.ndarray) -> np.ndarray:
    """(songs, dim) -> places on a map (songs, 2) in 0 to 1, by t-SNE (L. van der Maaten, 2008)."""
    if len(vectors) < 4:
        return np.stack([np.linspace(0, 1, len(vectors)), np.full(len(vectors), 0.5)], axis=1)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-9)


def atlas(
    heard: Sequence[tuple[Track, dict[str, np.ndarray]]], window_s: float, clip_bytes: int
) -> list[dict[str, Any]]:
    """What the page shows of each song, as plain values; clips until ``clip_bytes`` are spent."""
    vectors = np.stack([parts["embedding"] for _, parts in heard])
    places, near, apart = project_2d(vectors), nearest(vectors, NEAREST), distances(vectors)
    left = clip_bytes
    made = []
    for at, (track, parts) in enumerate(heard):
        clip = parts["clip"].tobytes()
        left -= len(clip)
        attention = parts["attention"]
        bars = [float(part.max()) for part in np.array_split(attention, min(BARS, len(attention)))]
        seconds = np.argsort(-attention, kind="stable")[:3] * window_s
        made.append(
            {
                "title": track.title or track.id,
                "artist": track.artist,
                "album": track.album,
                "licence": track.licence,
                "split": track.split,
                "duration": round(track.duration_s),
                "x": round(float(places[at, 0]), 4),
                "y": round(float(places[at, 1]), 4),
                "near": [[int(n), round(float(apart[at, n]), 3)] for n in near[at]],
                "bars": [round(bar / max(bars), 2) for bar in bars],
                "heard": [round(float(second)) for second in seconds],
                "clip": base64.b64encode(clip).decode() if left >= 0 else "",
                "clip_start": round(float(parts["clip_start_s"][0])),
            }
        )
    return made


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """The scalars of a tensorboard folder by name: [step, value] pairs, the last run of each step.

    A run that was killed and resumed writes one file a start; their steps are joined.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, {}).update({e.step: e.value for e in events.Scalars(tag)})
    return {tag: [[s, v] for s, v in sorted(steps.items())] for tag, steps in found.items()}
