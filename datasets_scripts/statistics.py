"""Intervals of accuracies and means: one module for every room that reports one."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95  # of every interval


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (E. B. Wilson, 1927); (0, 1) where ``n`` is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def group_bootstrap(
    values: np.ndarray, groups: np.ndarray, resamples: int = 1_000, seed: int = 0
) -> np.ndarray:
    """Means of ``values`` (n,) over resamples of whole groups, (resamples,).

    Items of one group (an album, a rater, a triplet) are not independent, so groups are drawn with
    replacement instead of items: the cluster bootstrap (A. C. Davison and D. V. Hinkley, 1997,
    section 3.8). ``groups`` (n,) are numbers or names.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    sums = np.bincount(group_of, weights=values)
    counts = np.bincount(group_of).astype(float)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of `group_bootstrap`."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(group_bootstrap(values, groups, resamples, seed), [tail, 100 - tail])
    return float(low), float(high)
