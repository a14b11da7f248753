"""Confidence intervals of shares and means, for every folder that reports one."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95  # of every interval
PERCENTILES = (2.5, 97.5)  # the same level, two-sided


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
    low, high = np.percentile(group_bootstrap(values, groups, resamples, seed), PERCENTILES)
    return float(low), float(high)


def paired_difference(
    ours: np.ndarray,
    baseline: np.ndarray,
    groups: np.ndarray,
    resamples: int = 1_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of ``ours - baseline``, and its 95 % interval by bootstrap over groups.

    ``ours`` and ``baseline`` (n,) are scores of the same items in the same order, ``groups`` (n,)
    the group of each item. Pairing removes the spread between items that both have in common.

    Raises:
        ValueError: the lengths differ.
    """
    if not len(ours) == len(baseline) == len(groups):
        raise ValueError(
            f"{len(ours)} and {len(baseline)} scores of {len(groups)} items cannot be paired"
        )
    differences = ours - baseline
    return (
        float(differences.mean()),
        *bootstrap_interval(differences, groups, resamples, seed),
    )
