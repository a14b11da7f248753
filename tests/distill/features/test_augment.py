"""Augmented copies: their length, their dependence on the seed alone, and the codec."""

from __future__ import annotations

import numpy as np
import pytest

from distill.features.augment import MAX_EXCERPTS, augment

RATE = 44_100
EXCERPT = 4 * RATE  # samples


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """Notes with overtones, each fading."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(0.5 * RATE)) / RATE
    notes = [
        sum(np.sin(2 * np.pi * k * f * t) / k for k in range(1, 6)) * np.exp(-4 * t) * 0.2
        for f in rng.uniform(110, 880, int(np.ceil(seconds / 0.5)))
    ]
    return np.concatenate(notes)[: int(seconds * RATE)].astype(np.float32)


def made(seed: int, seconds: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    return augment(music(seconds), music(30.0, 1), RATE, EXCERPT, np.random.default_rng(seed))


@pytest.mark.parametrize(("seconds", "excerpts"), [(60.0, MAX_EXCERPTS), (11.0, 2), (1.5, 1)])
def test_as_many_excerpts_as_the_track_has(seconds: float, excerpts: int) -> None:
    plain, coded = made(0, seconds)
    assert plain.shape == coded.shape == (excerpts * EXCERPT,)
    assert plain.dtype == coded.dtype == np.float32
    assert np.isfinite(plain).all() and np.isfinite(coded).all()


def test_the_result_depends_on_the_seed_alone() -> None:
    first, again, other = made(3), made(3), made(4)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.slow
def test_some_excerpts_are_coded_and_keep_their_spectrum() -> None:
    changed, spectra = 0, []
    for seed in range(6):
        plain, coded = (one.reshape(-1, EXCERPT) for one in made(seed))
        for before, after in zip(plain, coded, strict=True):
            if np.array_equal(before, after):
                continue
            changed += 1
            one, two = (np.abs(np.fft.rfft(x)).astype(np.float64) for x in (before, after))
            low = slice(0, 3_000 * EXCERPT // RATE)
            spectra.append(np.corrcoef(one[low], two[low])[0, 1])
    assert 0 < changed < 6 * MAX_EXCERPTS
    assert min(spectra) > 0.8


def test_a_track_can_be_augmented_without_another() -> None:
    plain, _ = augment(music(20.0), None, RATE, EXCERPT, np.random.default_rng(0))
    assert np.any(plain)
