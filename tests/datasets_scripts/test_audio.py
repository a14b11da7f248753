"""Decoding: the same samples from every format; a clear reason for a file that cannot be read."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets_scripts.audio import AudioError, decode, duration, measure
from tests.datasets_scripts.sounds import coded, wave

RATE = 22_050
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_tone_survives_every_format(format: str, tmp_path: Path) -> None:
    data = coded(TONE, format, RATE)
    found = decode(data, RATE)
    assert found.dtype == np.float32 and found.ndim == 1
    assert len(found) == pytest.approx(len(TONE), abs=RATE // 10)
    inside = found[RATE // 2 : RATE]
    assert np.sqrt(np.mean(inside**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    spectrum = np.abs(np.fft.rfft(inside * np.hanning(len(inside))))
    assert spectrum.argmax() * RATE / len(inside) == pytest.approx(440, abs=RATE / len(inside))
    file = tmp_path / "tone"
    file.write_bytes(data)
    assert np.array_equal(decode(file, RATE), found)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("opus", "libopus")])
def test_formats_by_ffmpeg_are_read(suffix: str, codec: str, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    soundfile.write(tmp_path / "in.wav", TONE, RATE)
    file = tmp_path / f"out.{suffix}"
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "in.wav"), "-c:a", codec, str(file)]
    subprocess.run(command, check=True)
    for source in (file, file.read_bytes()):
        found = decode(source, RATE)
        assert len(found) == pytest.approx(len(TONE), abs=RATE // 5)
        assert np.abs(found).max() == pytest.approx(0.5, abs=0.06)


def test_channels_are_averaged_and_rates_changed() -> None:
    left, right = TONE, 0 * TONE
    stereo = coded(np.stack([left, right], axis=1), "WAV", RATE)
    assert np.abs(decode(stereo, RATE) - TONE / 2).max() < 1e-4
    down = decode(stereo, 16_000)
    assert len(down) == pytest.approx(2 * 16_000, abs=2)
    assert np.sqrt(np.mean(down[4000:20000] ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


def test_result_does_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coded(wave(1, 5.0, RATE), "FLAC", RATE)
    whole = decode(data, 16_000), measure(data)
    monkeypatch.setattr("datasets_scripts.audio.BLOCK", 1000)
    assert np.abs(decode(data, 16_000) - whole[0]).max() < 1e-6
    assert np.allclose(measure(data).envelope, whole[1].envelope)


def test_measure_length_and_envelope() -> None:
    samples = np.concatenate([np.full(RATE, 0.25), np.full(RATE // 4, -0.5)]).astype(np.float32)
    found = measure(coded(samples, "WAV", RATE))
    assert found.duration_s == pytest.approx(1.25, abs=1e-3)
    assert found.envelope == pytest.approx([0.25, 0.25, 0.5], abs=1e-3)
    assert duration(coded(samples, "WAV", RATE)) == pytest.approx(1.25, abs=1e-4)


@pytest.mark.parametrize("format", ["WAV", "OGG", "FLAC"])
def test_truncated_file_is_refused(format: str, tmp_path: Path) -> None:
    data = coded(wave(2, 20.0, RATE), format, RATE)
    with pytest.raises(AudioError, match=r"truncated|damaged|cannot be read"):
        decode(data[: len(data) // 2], RATE)
    decode(data, RATE)


def test_a_wav_written_without_its_length_is_read() -> None:
    data = bytearray(coded(TONE, "WAV", RATE))
    data[4:8] = b"\xff\xff\xff\xff"  # a recorder that could not seek back
    assert len(decode(bytes(data), RATE)) == len(TONE)


def test_reasons_of_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"there\.ogg: no such file"):
        decode(tmp_path / "there.ogg", RATE)
    (tmp_path / "empty.mp3").touch()
    with pytest.raises(AudioError, match=r"empty\.mp3: empty file"):
        decode(tmp_path / "empty.mp3", RATE)
    (tmp_path / "text.mp3").write_text("no music " * 1000)
    with pytest.raises(AudioError, match=r"text\.mp3: not audio"):
        decode(tmp_path / "text.mp3", RATE)
    with pytest.raises(AudioError, match="nothing but silence"):
        measure(coded(0 * TONE, "WAV", RATE))
    with pytest.raises(AudioError, match="no samples"):
        decode(coded(TONE[:0], "WAV", RATE), RATE)
    out = io.BytesIO()
    bad = TONE.copy()
    bad[100] = np.nan
    soundfile.write(out, bad, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        decode(out.getvalue(), RATE)


def test_without_ffmpeg_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(AudioError, match="apt install ffmpeg"):
        decode(b"no audio that libsndfile knows", RATE)
