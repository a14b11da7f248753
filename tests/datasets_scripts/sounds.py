"""Short sounds for these tests, and corpus items with them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile

from datasets_scripts.corpora.corpus import Item, Track

RATE = 8000


def wave(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise whose level changes every half second: (samples,) float32."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.02, 0.5, int(np.ceil(seconds * 2)) + 1)
    level = np.repeat(steps, rate // 2)[: int(seconds * rate)]
    return (level * rng.uniform(-1, 1, len(level))).astype(np.float32)


def coded(samples: np.ndarray, format: str = "OGG", rate: int = RATE) -> bytes:
    """A music file of (samples,) or (samples, channels)."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format)
    return out.getvalue()


def track_of(data: bytes, **known: object) -> Track:
    """A track with these bytes; fields that are not given are unknown."""
    digest = hashlib.sha256(data).hexdigest()
    blank: dict = {
        "id": digest[:16],
        "title": "",
        "artist": "",
        "album": "",
        "genres": [],
        "source": "test",
        "licence": "CC0-1.0",
        "duration_s": 1.0,
        "sha256": digest,
        "split": "train",
    }
    return Track(**(blank | known))


def items(folder: Path, count: int, size: int = 0, **known: object) -> list[Item]:
    """Items with different bytes, about `size` each; real audio only if `size` is 0."""
    made = []
    for n in range(count):
        data = coded(wave(n, 1.0)) if size == 0 else n.to_bytes(4, "big") * (size // 4)
        file = folder / f"{n}.ogg"
        file.write_bytes(data)
        made.append(Item.of_file(track_of(data, title=f"track {n}", **known), file, file.name))
    return made
