"""Robustness: how far an alteration moves an excerpt's embedding, and self-retrieval after it."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from tqdm import tqdm

from datasets_scripts.audio import decode, open_audio
from datasets_scripts.corpora.corpus import Corpus
from distill.evaluation.excerpts import SAMPLE_RATE, EmbedFn

OFFSET_S = 0.5  # of the excerpt that starts later
SHORT_S = 20.0  # compared with the whole track
ZEROS_S = 10.0  # appended
# what an alteration is compared with; the clean excerpt where it is not named here
REFERENCES = {"MECOMP's resampling": "torchaudio", "20 s of the track": "whole"}


@dataclass(frozen=True)
class Excerpt:
    """An excerpt of a track: its start and its length, in seconds."""

    track: str
    start_s: float
    length_s: float


def mono(native: np.ndarray, rate: int) -> np.ndarray:
    """The project's own decoding: (frames, channels) at ``rate`` Hz -> (samples,), soxr HQ."""
    with io.BytesIO() as file:
        soundfile.write(file, native, rate, format="WAV", subtype="FLOAT")
        return decode(file.getvalue(), SAMPLE_RATE)


def by_torchaudio(native: np.ndarray, rate: int) -> np.ndarray:
    """(frames, channels) at ``rate`` Hz -> (samples,): mean of the channels, torchaudio's sinc."""
    audio = torch.from_numpy(native.mean(axis=1, dtype=np.float32))
    return torchaudio.functional.resample(audio, rate, SAMPLE_RATE).numpy()


def by_mecomp(native: np.ndarray, rate: int) -> np.ndarray:
    """(frames, channels) at ``rate`` Hz -> (samples,) as MECOMP makes them.

    Stereo becomes (left + right) times 0.707; each output sample is the cubic through the four
    input samples around it (Lagrange's, as rubato's polynomial resampler), without a low-pass
    filter before it.
    """
    x = native[:, 0] if native.shape[1] == 1 else native[:, :2].sum(axis=1) * np.sqrt(0.5)
    at = np.arange(int(len(x) * SAMPLE_RATE / rate)) * (rate / SAMPLE_RATE)
    whole = at.astype(np.int64)
    t = at - whole
    padded = np.pad(x.astype(np.float64), (1, 3))
    y0, y1, y2, y3 = (padded[whole + i] for i in range(4))  # y1 lies at `whole`
    a1 = -y0 / 3 - y1 / 2 + y2 - y3 / 6
    a2 = (y0 + y2) / 2 - y1
    a3 = (y1 - y2) / 2 + (y3 - y0) / 6
    return (y1 + t * (a1 + t * (a2 + t * a3))).astype(np.float32)


def mp3(native: np.ndarray, rate: int, kbits: int = 64) -> np.ndarray:
    """(frames, channels), encoded to mp3 by ffmpeg at ``kbits`` kbit/s and decoded again.

    Raises FileNotFoundError without ffmpeg, RuntimeError where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="feelprint-") as scratch:
        wav, coded, back = (Path(scratch) / name for name in ("in.wav", "a.mp3", "out.wav"))
        soundfile.write(wav, native, rate, subtype="FLOAT")
        base = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
        for command in (
            [*base, "-i", str(wav), "-c:a", "libmp3lame", "-b:a", f"{kbits}k", str(coded)],
            [*base, "-i", str(coded), "-c:a", "pcm_f32le", str(back)],
        ):
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode:
                raise RuntimeError(f"ffmpeg cannot make an mp3: {done.stderr.decode().strip()}")
        decoded, new_rate = soundfile.read(back, dtype="float32", always_2d=True)
    # an encoder may only know lower rates; the excerpt's length in seconds is what counts
    return mono(decoded, new_rate)[: int(len(native) * SAMPLE_RATE / rate)]


def select_excerpts(durations_s: Mapping[str, float], n: int, length_s: float) -> list[Excerpt]:
    """At most ``n`` excerpts, one per track, evenly spread over the tracks that are long enough."""
    needed_s = max(length_s, SHORT_S) + 2 * OFFSET_S
    fit = [(track, duration) for track, duration in durations_s.items() if duration >= needed_s]
    indices = np.linspace(0, len(fit) - 1, min(n, len(fit))).round().astype(int)
    return [Excerpt(fit[i][0], (fit[i][1] - length_s) / 3, length_s) for i in indices]


def altered(source: bytes, excerpt: Excerpt) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """References and alterations of one excerpt, (samples,) at 22,050 Hz each.

    The references are `clean` (the excerpt as the project decodes it), `torchaudio` (the excerpt
    resampled by torchaudio) and `whole` (the whole track).
    """
    with open_audio(source) as file:
        rate = file.samplerate
        file.seek(round(excerpt.start_s * rate))
        native = file.read(round((excerpt.length_s + OFFSET_S) * rate), "float32", always_2d=True)
    later, native = native[round(OFFSET_S * rate) :], native[: round(excerpt.length_s * rate)]
    clean = mono(native, rate)
    whole = decode(source, SAMPLE_RATE)
    short = round(SHORT_S * SAMPLE_RATE)
    middle = (len(whole) - short) // 2
    references = {"clean": clean, "torchaudio": by_torchaudio(native, rate), "whole": whole}
    return references, {
        "gain -12 dB": clean * np.float32(10 ** (-12 / 20)),
        "gain +12 dB": clean * np.float32(10 ** (12 / 20)),
        "mp3 64 kbit/s": mp3(native, rate),
        "MECOMP's resampling": by_mecomp(native, rate),
        "start +0.5 s": mono(later, rate),
        "first half": clean[: len(clean) // 2],
        "20 s of the track": whole[middle : middle + short],
        "zeros appended": np.pad(clean, (0, round(ZEROS_S * SAMPLE_RATE))),
    }


def robustness(
    embed_fns: Mapping[str, EmbedFn], corpus: Corpus, excerpts: Sequence[Excerpt]
) -> dict[str, dict[str, Any]]:
    """Per model and alteration: what `_compare` measures, over all ``excerpts``."""
    vectors: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in embed_fns}
    for excerpt in tqdm(excerpts, desc="robustness", unit="excerpt"):
        references, alterations = altered(corpus.audio_bytes(excerpt.track), excerpt)
        for name, embed_fn in embed_fns.items():
            for alteration, audio in (references | alterations).items():
                vectors[name].setdefault(alteration, []).append(embed_fn(audio))
    figures: dict[str, dict[str, Any]] = {}
    for name, of_model in vectors.items():
        stacked = {kind: np.stack(rows).astype(np.float64) for kind, rows in of_model.items()}
        figures[name] = {
            kind: _compare(rows, stacked[REFERENCES.get(kind, "clean")])
            for kind, rows in stacked.items()
            if kind not in ("clean", "torchaudio", "whole")
        }
    return figures


def _compare(vectors: np.ndarray, references: np.ndarray) -> dict[str, Any]:
    """Altered excerpts (n, dim) against their references (n, dim).

    mean_cosine, min_cosine: of an excerpt and its reference. self_retrieval: share of excerpts
    whose nearest reference is their own; a tie counts as wrong. max_abs_change: the largest
    absolute change of any value.
    """
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references, axis=1)
    cosine = (vectors * references).sum(axis=1) / norms
    distance = np.linalg.norm(vectors[:, None] - references[None], axis=2)
    own = distance.diagonal()
    retrieved = (distance <= own[:, None]).sum(axis=1) == 1
    return {
        "mean_cosine": float(cosine.mean()),
        "min_cosine": float(cosine.min()),
        "self_retrieval": float(retrieved.mean()),
        "max_abs_change": float(np.abs(vectors - references).max()),
        "n": len(vectors),
    }
