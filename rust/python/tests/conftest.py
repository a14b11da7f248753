"""Signals and files for the tests of the wheel, which run in an environment with the wheel."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).parents[3]

# Programs that a shell runs in the background ignore SIGINT, and so would the commands that these
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

RATE = 22_050

Samples = npt.NDArray[np.float32]


def noise(samples: int) -> Samples:
    """As in rust/tests/make_reference.py."""
    state, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    values = np.empty(samples)
    for i in range(samples):
        state ^= (state << 13) & mask
        state ^= state >> 7
        state ^= (state << 17) & mask
        values[i] = (state >> 40) - (1 << 23)
    return (values / (1 << 25)).astype(np.float32)


def chirp_saw(samples: int) -> Samples:
    """As in rust/tests/make_reference.py."""
    i = np.arange(samples, dtype=np.int64)
    phase = (i * 256 + (i * i >> 11) * 3) % (1 << 16)
    return ((phase - (1 << 15)) / (1 << 18)).astype(np.float32)


def reference_signals(window: int) -> dict[str, Samples]:
    """As in rust/tests/make_reference.py; `window` is in samples."""
    return {
        "one_sample": noise(1),
        "short": chirp_saw(2_047),
        "one_window": noise(window),
        "one_window_and_a_sample": chirp_saw(window + 1),
        "three_and_a_half_windows": noise(7 * window // 2) + chirp_saw(7 * window // 2),
        "sound_then_silence": np.concatenate([chirp_saw(window), np.zeros(2 * window, "f4")]),
        "silence_then_sound": np.concatenate([np.zeros(window, "f4"), noise(2 * window)]),
        "silence": np.zeros(2 * window, np.float32),
        "twenty_windows": chirp_saw(20 * window),
        "every_window_and_some": chirp_saw(41 * window) + noise(41 * window),
    }


def piece(seed: int, seconds: float = 3.0, rate: int = RATE) -> Samples:
    """A chord with a beat, different for each seed, (samples,)."""
    time = np.arange(int(seconds * rate)) / rate
    root = 110.0 * 1.19 ** (seed * 7 % 11)
    tones = [np.sin(2 * np.pi * root * it * time) for it in (1.0, 1.26, 1.5, 2.0)]
    beat = 1 / (2 + seed % 3)
    return (np.mean(tones, axis=0) * (1 - time % beat / beat) / 2).astype(np.float32)


def write_wav(path: Path, samples: Samples, rate: int = RATE) -> Path:
    """Write float samples, (samples,) or (samples, channels), as a WAV file."""
    samples = samples.reshape(len(samples), -1).astype("<f4")
    channels, data = samples.shape[1], samples.tobytes()
    path.write_bytes(wav_header(3, channels, rate, 4, len(data)) + data)
    return path


def write_silence(path: Path, hours: float, rate: int = RATE) -> Path:
    """Write silence as a 16-bit WAV file that takes no space on the disk, to work on for long."""
    size = int(hours * 3600 * rate) * 2
    header = wav_header(1, 1, rate, 2, size)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    return path


def wav_header(kind: int, channels: int, rate: int, width: int, size: int) -> bytes:
    """The header of a WAV file.

    `kind` is 1 for integers, 3 for floats; `width` of a sample and `size` of the data are in bytes.
    """
    fields = [
        (kind, 2), (channels, 2), (rate, 4), (rate * channels * width, 4), (channels * width, 2),
        (8 * width, 2),
    ]  # fmt: skip
    format_ = b"".join(value.to_bytes(length, "little") for value, length in fields)
    chunk = (
        b"WAVEfmt " + (16).to_bytes(4, "little") + format_ + b"data" + size.to_bytes(4, "little")
    )
    return b"RIFF" + (len(chunk) + size).to_bytes(4, "little") + chunk


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "song.wav", piece(1))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of six pieces, one of them twice, and a file that is no audio."""
    folder = tmp_path / "music"
    folder.mkdir()
    for seed in range(6):
        write_wav(folder / f"{seed}.wav", piece(seed))
    shutil.copy(folder / "3.wav", folder / "copy of 3.wav")
    (folder / "broken.mp3").write_bytes(b"no audio" * 100)
    return folder


@pytest.fixture(scope="session")
def command() -> str:
    """The command as Cargo built it, not that of the wheel."""
    built = ROOT / "rust" / "target" / "release" / "feelprint"
    path = Path(os.environ.get("FEELPRINT_COMMAND", built)).resolve()
    assert path.is_file(), f"{path}: run `cargo build --release`, or set FEELPRINT_COMMAND"
    return str(path)


@pytest.fixture
def vectors() -> list[dict]:
    path = ROOT / "rust" / "tests" / "reference" / "vectors.json"
    return json.loads(path.read_text(encoding="utf-8"))["cases"]
