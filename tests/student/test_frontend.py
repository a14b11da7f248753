"""The front end in numbers: against librosa, against numpy's FFT, and what it promises of audio."""

import dataclasses

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student import FeelprintConfig
from student.config import DFT_RADIX
from student.frontend import LogMel, MelPower, hann_window, slaney_mel_filters

DEFAULT = FeelprintConfig()
SHAPES = [
    DEFAULT,
    FeelprintConfig(hop_length=512, f_max=11_025.0),
    FeelprintConfig(n_fft=512, hop_length=256, n_mels=48, f_max=4_000.0),
    FeelprintConfig(n_fft=2_048, hop_length=1_024, f_min=0.0, f_max=6_000.0),
    FeelprintConfig(sample_rate=16_000, n_fft=768, hop_length=512, f_max=7_600.0),
]


def windows(config: FeelprintConfig, count: int = 2) -> np.ndarray:
    """Chords with noise of very different loudness: (count, window_length) float32."""
    rng = np.random.default_rng(0)
    t = np.arange(config.window_length) / config.sample_rate
    tones = [
        np.sin(2 * np.pi * f * t + f) / (1 + i) for i, f in enumerate((110.0, 1_760.0, 3_900.0))
    ]
    noise = rng.standard_normal((count, config.window_length))
    return (0.2 * np.sum(tones, axis=0) + 0.001 * noise).astype(np.float32)


def frames(window: np.ndarray, config: FeelprintConfig) -> np.ndarray:
    """(window_frames, n_fft): frame f is centred on hop f, zeros outside the window."""
    pad = (config.n_fft - config.hop_length) // 2
    padded = np.pad(window.astype(np.float64), (pad, pad))
    starts = np.arange(config.window_frames) * config.hop_length
    return np.stack([padded[start : start + config.n_fft] for start in starts])


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.n_fft}-{c.hop_length}")
def test_the_two_stage_dft_is_the_dft(config: FeelprintConfig) -> None:
    module = MelPower(config)
    part_of = module._columns_dft(config.n_fft // DFT_RADIX)[1]
    order = np.unique(part_of)
    every = torch.from_numpy(order[:, None] == part_of).float()  # every bin comes out, summed
    module.mel = every[:, :, None, None]
    window = windows(config, 1)
    with torch.inference_mode():
        got = module(torch.from_numpy(window))[0].numpy()  # (bins, frames)
    spectrum = np.fft.rfft(frames(window[0], config) * hann_window(config.n_fft), axis=1)
    want = np.abs(spectrum.T[order]) ** 2
    assert np.abs(got - want).max() < 1e-6 * want.max()
    filters = slaney_mel_filters(
        config.sample_rate, config.n_fft, config.n_mels, config.f_min, config.f_max
    )
    assert set(np.flatnonzero(filters.any(axis=0))) <= set(order)


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.n_fft}-{c.hop_length}")
def test_the_mel_power_is_librosas(config: FeelprintConfig) -> None:
    audio = windows(config)
    pad = (config.n_fft - config.hop_length) // 2
    with torch.inference_mode():
        got = MelPower(config)(torch.from_numpy(audio)).numpy()
    for window, made in zip(audio, got, strict=True):
        want = (
            librosa.feature.melspectrogram(
                y=np.pad(window.astype(np.float64), (pad, pad)),
                sr=config.sample_rate,
                n_fft=config.n_fft,
                hop_length=config.hop_length,
                center=False,
                n_mels=config.n_mels,
                fmin=config.f_min,
                fmax=config.f_max,
            )
            / (config.n_fft / 2) ** 2
        )  # librosa's Hann window sums to n_fft / 2, ours to one
        assert made.shape == want.shape
        assert np.abs(made - want).max() < 3e-6 * want.max()
        loud = want > 1e-6 * want.max()  # within 60 dB of the loudest
        assert np.abs(made[loud] / want[loud] - 1).max() < 2e-2


@pytest.mark.parametrize("f_range", [(0.0, 11_025.0), (30.0, 8_000.0), (200.0, 2_000.0)])
def test_the_mel_filters_are_librosas(f_range: tuple[float, float]) -> None:
    want = librosa.filters.mel(sr=22_050, n_fft=1_024, n_mels=64, fmin=f_range[0], fmax=f_range[1])
    assert np.abs(slaney_mel_filters(22_050, 1_024, 64, *f_range) - want).max() < 1e-8


@pytest.mark.parametrize("gain", [1e-3, 0.1, 30.0])
def test_a_gain_changes_nothing(gain: float) -> None:
    audio = torch.from_numpy(windows(DEFAULT))
    with torch.inference_mode():
        plain, loud = LogMel(DEFAULT)(audio)[0], LogMel(DEFAULT)(audio * gain)[0]
    assert (plain - loud).abs().max() < 1e-3  # of values near the floor, by rounding


def test_silence_is_flat_finite_and_has_no_nonsilent_frame() -> None:
    with torch.inference_mode():
        log_mel, nonsilent_ratio = LogMel(DEFAULT)(torch.zeros(1, DEFAULT.window_length))
    assert nonsilent_ratio.tolist() == [0.0]
    assert torch.allclose(log_mel, torch.full_like(log_mel, np.log(DEFAULT.floor)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, DEFAULT.window_length - 1), st.sampled_from([1e-4, -0.5, 1.0]))
def test_any_single_sample_counts_as_sound(place: int, value: float) -> None:
    audio = torch.zeros(1, DEFAULT.window_length)
    audio[0, place] = value
    with torch.inference_mode():
        log_mel, nonsilent_ratio = LogMel(DEFAULT)(audio)
    assert 1 <= 32 * nonsilent_ratio.item() <= 3  # the frames that hold it
    assert torch.isfinite(log_mel).all()


def test_noise_below_the_floor_has_no_effect() -> None:
    config = dataclasses.replace(DEFAULT, floor=1e-4)
    rng = np.random.default_rng(1)
    tone = np.sin(2 * np.pi * 440 * np.arange(config.window_length) / config.sample_rate)
    hiss = 10 ** (-90 / 20) * rng.standard_normal((2, config.window_length))
    with torch.inference_mode():
        one, other = LogMel(config)(torch.from_numpy((tone + hiss).astype(np.float32)))[0]
        one_lower, other_lower = LogMel(dataclasses.replace(config, floor=1e-12))(
            torch.from_numpy((tone + hiss).astype(np.float32))
        )[0]
    assert (one - other).abs().max() < 0.02
    assert (one_lower - other_lower).abs().max() > 1.0
