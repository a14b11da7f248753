"""The same clip, altered: does its embedding stay where it was, and does it still find itself?"""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
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

SAMPLE_RATE = 22_050  # Hz, of the model's input
MOVED_S = 0.5
SHORT_S = 20.0  # against the whole song
ZEROS_S = 10.0

EmbedFn = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Clip:
    """A track, and where its clip lies: seconds from its start."""

    track: str
    start_s: float
    length_s: float


def mono(native: np.ndarray, rate: int) -> np.ndarray:
    """What the project feeds a model: (frames, channels) at ``rate`` Hz -> (samples,), soxr HQ."""
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
    # an encoder may only know lower rates; the clip's length in seconds is what counts
    return mono(decoded, new_rate)[: int(len(native) * SAMPLE_RATE / rate)]


def choose(durations_s: Mapping[str, float], n: int, length_s: float) -> list[Clip]:
    """At most ``n`` clips, one a track, spread evenly over the tracks long enough for all tests."""
    need = max(length_s, SHORT_S) + 2 * MOVED_S
    fit = [(track, duration) for track, duration in durations_s.items() if duration >= need]
    at = np.linspace(0, len(fit) - 1, min(n, len(fit))).round().astype(int)
    return [Clip(fit[i][0], (fit[i][1] - length_s) / 3, length_s) for i in at]


def altered(source: bytes, clip: Clip) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """References and alterations of one clip, (samples,) at 22,050 Hz each.

    The references are `clean` (the clip as the project hears it), `torchaudio` (the clip
    resampled by it) and `whole` (the whole song).
    """
    with open_audio(source) as file:
        rate = file.samplerate
        file.seek(round(clip.start_s * rate))
        native = file.read(round((clip.length_s + MOVED_S) * rate), "float32", always_2d=True)
    moved, native = native[round(MOVED_S * rate) :], native[: round(clip.length_s * rate)]
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
        "start +0.5 s": mono(moved, rate),
        "first half": clean[: len(clean) // 2],
        "20 s of the song": whole[middle : middle + short],
        "zeros appended": np.pad(clean, (0, round(ZEROS_S * SAMPLE_RATE))),
    }


REFERENCE = {"MECOMP's resampling": "torchaudio", "20 s of the song": "whole"}  # else: clean


def robustness(
    represents: dict[str, EmbedFn], corpus: Corpus, clips: Sequence[Clip]
) -> dict[str, dict[str, Any]]:
    """For each representation and alteration: mean cosine, lowest, self-retrieval, largest move.

    found: share of altered clips whose nearest reference, among those of all ``clips``, is their
    own. moved: the largest absolute change of any value.
    """
    made: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in represents}
    for clip in tqdm(clips, desc="robustness", unit="clip"):
        references, alterations = altered(corpus.audio_bytes(clip.track), clip)
        for name, embed_fn in represents.items():
            for kind, audio in (references | alterations).items():
                made[name].setdefault(kind, []).append(embed_fn(audio))
    figures: dict[str, dict[str, Any]] = {}
    for name, kinds in made.items():
        stacked = {kind: np.stack(vectors).astype(np.float64) for kind, vectors in kinds.items()}
        figures[name] = {
            kind: _compare(vectors, stacked[REFERENCE.get(kind, "clean")])
            for kind, vectors in stacked.items()
            if kind not in ("clean", "torchaudio", "whole")
        }
    return figures


def _compare(vectors: np.ndarray, references: np.ndarray) -> dict[str, Any]:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references, axis=1)
    cosine = (vectors * references).sum(axis=1) / norms
    between = np.linalg.norm(vectors[:, None] - references[None], axis=2)
    own = between.diagonal()
    # a tie with another clip counts as not found
    found = (between <= own[:, None]).sum(axis=1) == 1
    return {
        "cosine": float(cosine.mean()),
        "lowest": float(cosine.min()),
        "found": float(found.mean()),
        "moved": float(np.abs(vectors - references).max()),
        "n": len(vectors),
    }
