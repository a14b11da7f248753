"""Intervals: Wilson's, and the bootstrap over groups, whose numbers are fixed by the seed."""

import numpy as np
import pytest

from datasets_scripts.statistics import (
    bootstrap_interval,
    group_bootstrap,
    paired_difference,
    wilson_interval,
)

VALUES, BASELINE = np.sqrt(np.arange(40) % 7), np.sqrt(np.arange(40) % 5)
GROUPS = np.arange(40) % 9


def test_wilsons_interval_of_nine_in_twelve() -> None:
    # from Wilson's formula, by hand
    assert wilson_interval(9, 12) == (
        pytest.approx(0.4677, abs=5e-4),
        pytest.approx(0.9111, abs=5e-4),
    )
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_bootstrap_keeps_its_numbers() -> None:
    # recorded when these intervals were first published: the same seed, the same draws
    assert bootstrap_interval(VALUES, GROUPS) == (1.3791814849160746, 1.6492666603779258)
    assert paired_difference(VALUES, BASELINE, GROUPS) == (
        0.2783814965382724,
        0.16467804591568236,
        0.4022639993823616,
    )


def test_whole_groups_are_drawn() -> None:
    means = group_bootstrap(np.repeat([1.0, 0.0], 3), np.repeat(["a", "b"], 3), 200)
    assert set(means) == {0.0, 0.5, 1.0}


def test_scores_of_different_items_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="40 and 39 scores of 40 items cannot be paired"):
        paired_difference(VALUES, BASELINE[:39], GROUPS)
