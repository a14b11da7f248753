"""The map of a corpus: a projection of the embeddings, nearest tracks, attention and clips."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
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
from distill.evaluation.metrics import distances, nearest
from distill.features.shards import Shard, is_valid, write_shard
from student import Feelprint

N_NEAREST = 10
CLIP_S = 5.0
CLIP_RATE = 24_000  # Hz, a rate that Opus supports
CLIP_COMPRESSION = 0.9  # of libsndfile: about 25 kbit/s for one channel
CHUNK_WINDOWS = 64  # per call of the CNN
N_BARS = 48  # of the attention chart
N_TOP_ATTENTION = 3
CLIP_URL = "data:audio/ogg;base64,"
MAP_GRID = 65_535  # coordinates in the page are integers from 0 to this
HELP = (
    f"Click a song to play {CLIP_S:g} seconds from where the attention is highest, and to see its "
    "nearest songs. On the map, the arrow keys go to the next song in a direction, Enter plays it, "
    "+ and − zoom, Escape deselects."
)

TrackParts = dict[str, np.ndarray]  # embedding, attention, clip (bytes) and clip_start_s


def select_tracks(tracks: Sequence[Track], split: str, limit: int) -> list[Track]:
    """At most ``limit`` tracks: those of the evaluated split, then the others, evenly spread."""
    first = sorted((t for t in tracks if t.split == split), key=lambda t: t.id)
    rest = sorted((t for t in tracks if t.split != split), key=lambda t: (t.album, t.id))
    for chosen, room in ((first, limit), (rest, max(0, limit - len(first)))):
        if len(chosen) > room:
            indices = np.linspace(0, len(chosen) - 1, room).round().astype(int)
            chosen[:] = [chosen[i] for i in indices]
    return first + rest


@torch.inference_mode()
def embed_track(model: Feelprint, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A whole track (samples,) -> its embedding (32,) and attention (windows,), summing to one.

    The attention is the mean over the queries; that of a window which stands for several is divided
    among them. The CNN runs on CHUNK_WINDOWS windows at a time, to limit the memory.
    """
    windows, spans = (one[0] for one in model.windows(torch.from_numpy(audio)[None]))
    log_mels = [model.log_mel(chunk) for chunk in windows.split(CHUNK_WINDOWS)]
    tokens = torch.cat([model.cnn(log_mel) for log_mel, _ in log_mels])
    weights = torch.cat([nonsilent_ratio for _, nonsilent_ratio in log_mels]) * spans
    embedding, attention = model.pool(tokens[None], weights[None])
    shares = (attention[0].mean(dim=0) / spans).repeat_interleave(spans.int())
    shares = shares[: -(-len(audio) // model.config.window_length)]
    return embedding[0].numpy(), (shares / shares.sum()).numpy()


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


def track_parts(model: Feelprint, source: bytes) -> TrackParts:
    """Embedding, attention, and a clip around the window of highest attention, of one file.

    Raises AudioError for a file that cannot be decoded.
    """
    audio = decode(source, model.config.sample_rate)
    embedding, attention = embed_track(model, audio)
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


def cached_track_parts(
    model: Feelprint, corpus: Corpus, tracks: Sequence[Track], folder: Path, version: str
) -> list[tuple[Track, TrackParts]]:
    """`track_parts` of every track, kept in ``folder``; tracks that cannot be decoded are skipped.

    ``version`` identifies the model's weights.
    """
    decoded = []
    for track in tqdm(tracks, desc="map", unit="track"):
        key = json.dumps(["song 2", version, track.sha256, CLIP_S])
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        if not is_valid(path):
            parts: TrackParts = {}
            rejects: dict[str, str] = {}
            try:
                parts = track_parts(model, corpus.audio_bytes(track.id))
            except AudioError as error:
                rejects = {track.id: str(error)}
            write_shard(path, parts, rejects)
        shard = Shard(path)
        if not shard.rejects:
            decoded.append((track, {name: np.array(a) for name, a in shard.arrays.items()}))
    return decoded


def project_2d(vectors: np.ndarray) -> np.ndarray:
    """(tracks, dim) -> coordinates (tracks, 2) in 0 to 1, by t-SNE (L. van der Maaten, 2008)."""
    if len(vectors) < 4:
        return np.stack([np.linspace(0, 1, len(vectors)), np.full(len(vectors), 0.5)], axis=1)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / np.maximum(high - low, 1e-9)


def _group(label: str, names: Sequence[str]) -> dict[str, Any]:
    """A way to colour the tracks: the distinct names, most frequent first, and each track's."""
    counts = Counter(names)
    distinct = sorted(counts, key=lambda name: (-counts[name], name))
    index = {name: position for position, name in enumerate(distinct)}
    return {"label": label, "names": distinct, "of": [index[name] for name in names]}


def map_data(
    tracks: Sequence[tuple[Track, TrackParts]], window_s: float, max_clip_bytes: int
) -> dict[str, Any]:
    """The data of the map's page, as `feelprint::map::page_data` of the crate describes it.

    The page plays clips, until they exceed ``max_clip_bytes`` together, and shows the attention
    over time and the licence of each track. ``window_s`` is the duration of a window.
    """
    vectors = np.stack([parts["embedding"] for _, parts in tracks])
    points, near, distance = project_2d(vectors), nearest(vectors, N_NEAREST), distances(vectors)
    n_near = min(N_NEAREST, len(tracks) - 1)
    files, notes, attentions = [], [], []
    remaining = max_clip_bytes
    for track, parts in tracks:
        clip = parts["clip"].tobytes()
        remaining -= len(clip)
        has_clip = remaining >= 0
        files.append(CLIP_URL + base64.b64encode(clip).decode() if has_clip else "")
        minutes, seconds = divmod(round(float(parts["clip_start_s"][0])), 60)
        clip_note = f"{CLIP_S:g} s from {minutes}:{seconds:02d}"
        notes.append(" · ".join(filter(None, [track.licence, clip_note if has_clip else ""])))
        attention = parts["attention"]
        bars = [
            float(part.max()) for part in np.array_split(attention, min(N_BARS, len(attention)))
        ]
        top_s = np.argsort(-attention, kind="stable")[:N_TOP_ATTENTION] * window_s
        attentions.append(
            {
                "bars": [round(bar / max(bars), 2) for bar in bars],
                "top_s": [round(float(start_s)) for start_s in top_s],
            }
        )
    grid = np.rint(points * MAP_GRID).astype(int)
    return {
        "help": HELP,
        "titles": [track.title or track.id for track, _ in tracks],
        "durations_s": [round(track.duration_s) for track, _ in tracks],
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "n_near": n_near,
        "near": [int(n) for row in near for n in row[:n_near]],
        "distances": [
            round(1000 * float(distance[index, n]))
            for index, row in enumerate(near)
            for n in row[:n_near]
        ],
        "groups": [
            _group("album", [track.album for track, _ in tracks]),
            _group("artist", [track.artist for track, _ in tracks]),
            _group("split", [track.split for track, _ in tracks]),
        ],
        "bases": [""],
        "base": [0] * len(tracks),
        "files": files,
        "notes": notes,
        "attention": attentions,
    }


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """The scalars of a tensorboard folder by name: [step, value] pairs.

    A run that was interrupted and resumed writes one file per start; their steps are merged, the
    later file's value replacing an earlier one.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, {}).update({e.step: e.value for e in events.Scalars(tag)})
    return {tag: [[s, v] for s, v in sorted(steps.items())] for tag, steps in scalars.items()}
