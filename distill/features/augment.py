"""Augmented copies of tracks; the teacher embeds each copy, so that every one has its own target.

The mp3 codec is the exception: the embedding must not change with it. The student gets the copy
after mp3, the teacher the copy before it.
"""

from __future__ import annotations

import io

import numpy as np
import scipy.signal
import soundfile
import soxr

MAX_EXCERPTS = 5  # of one track, each augmented in its own way
SPEED_SEMITONES = 4.0  # at most, up or down; the tempo changes with the pitch
MIX_DB = (-9.0, 3.0)  # level of the second track under the first
MP3_SHARE = 0.3  # of the excerpts that the student gets as a low-bitrate mp3


def augment(
    audio: np.ndarray,
    other: np.ndarray | None,
    sample_rate: int,
    excerpt_samples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Up to MAX_EXCERPTS excerpts of ``audio``, each changed in a way drawn from ``rng``.

    ``audio`` and ``other`` (samples,) at ``sample_rate`` in Hz. Returns the excerpts concatenated,
    (excerpts * excerpt_samples,), and the same with some of them through mp3. Each is played at
    another speed; then, each with a probability of its own, an excerpt of ``other`` is mixed in,
    two equaliser bands change the spectrum, it is saturated, convolved with a room's reverberation,
    or low-pass filtered at a few kHz.
    """
    source_samples = int(np.ceil(excerpt_samples * 2 ** (SPEED_SEMITONES / 12))) + 1
    count = int(np.clip(len(audio) // source_samples, 1, MAX_EXCERPTS))
    parts, mp3_parts = [], []
    for _ in range(count):
        part = _speed(_excerpt(audio, source_samples, rng), rng)[:excerpt_samples]
        if other is not None and rng.random() < 0.5:
            part = _mix(part, _speed(_excerpt(other, source_samples, rng), rng), rng)
        if rng.random() < 0.7:
            part = _equalise(part, sample_rate, rng)
        if rng.random() < 0.2:
            part = _saturate(part, rng)
        if rng.random() < 0.2:
            part = _reverberate(part, sample_rate, rng)
        if rng.random() < 0.15:
            sos = scipy.signal.butter(4, rng.uniform(2_500, 7_000), fs=sample_rate, output="sos")
            part = scipy.signal.sosfilt(sos, part)
        parts.append(part)
        mp3_parts.append(_mp3(part, sample_rate, rng) if rng.random() < MP3_SHARE else part)
    return np.concatenate(parts).astype(np.float32), np.concatenate(mp3_parts).astype(np.float32)


def _excerpt(audio: np.ndarray, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """``n_samples`` from a random place in ``audio``, which is repeated if it is shorter."""
    if len(audio) <= n_samples:
        return np.resize(audio, n_samples)
    start = int(rng.integers(len(audio) - n_samples))
    return audio[start : start + n_samples]


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio)) + 1e-12))


def _speed(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resample, and play at the old rate: tempo and pitch change together."""
    ratio = 2 ** (rng.uniform(-SPEED_SEMITONES, SPEED_SEMITONES) / 12)
    return soxr.resample(audio, ratio, 1.0, quality="LQ")


def _mix(audio: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    other = other[: len(audio)]
    gain = 10 ** (rng.uniform(*MIX_DB) / 20) * _rms(audio) / _rms(other)
    return audio + gain * other


def _equalise(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Two peaking bands of up to 12 dB (R. Bristow-Johnson, "Audio EQ cookbook")."""
    sections = []
    for _ in range(2):
        centre = 2 * np.pi * np.exp(rng.uniform(np.log(60), np.log(7_000))) / sample_rate
        amplitude = 10 ** (rng.uniform(-12, 12) / 40)
        alpha = np.sin(centre) / (2 * rng.uniform(0.4, 1.5))
        b = (1 + alpha * amplitude, -2 * np.cos(centre), 1 - alpha * amplitude)
        a = (1 + alpha / amplitude, -2 * np.cos(centre), 1 - alpha / amplitude)
        sections.append([*np.divide(b, a[0]), *np.divide(a, a[0])])
    return scipy.signal.sosfilt(np.array(sections), audio)


def _saturate(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    level = _rms(audio)
    return np.tanh(audio / level * rng.uniform(0.5, 3.0)) * level


def _reverberate(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Convolution with noise that decays by 60 dB in 0.3 to 2 s."""
    decay_s = rng.uniform(0.3, 2.0)
    n = int(decay_s * sample_rate)
    room = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    wet = scipy.signal.oaconvolve(audio, room)[: len(audio)]
    return audio + rng.uniform(0.2, 0.8) * wet * _rms(audio) / _rms(wet)


def _mp3(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Encode and decode at 32 to 64 kbit/s, mono: comparable to twice that in stereo."""
    peak = np.abs(audio).max() + 1e-9
    with io.BytesIO() as file:
        level = rng.uniform(0.88, 0.99)  # libsndfile's scale: 0 is the largest file, 1 the smallest
        soundfile.write(
            file,
            (audio / peak).astype(np.float32),
            sample_rate,
            format="MP3",
            bitrate_mode="CONSTANT",
            compression_level=level,
        )
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
    return np.resize(decoded, len(audio)) * peak
