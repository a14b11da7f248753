"""Agreement between raters about the odd one out: an upper bound for the accuracy of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np

from datasets_scripts.triplets.table import ACTIVE_STREAM, Triplet, grouped


@dataclass(frozen=True)
class Agreement:
    """alpha: Krippendorff's, nominal; 1 full agreement, 0 chance. ceiling: see `ceiling`.

    triplets: the number of those with two answers or more. Without any, alpha and ceiling are None.
    active: answers to active rounds, which alpha, ceiling and triplets do not count.
    """

    alpha: float | None
    ceiling: float | None
    answers: int
    undecided: int
    raters: int
    triplets: int
    active: int = 0

    def summary(self) -> str:
        """One line for the report."""
        if self.alpha is None or self.ceiling is None:
            return f"{self.answers} answers, no triplet answered twice: no agreement to measure"
        without = f" without the {self.active} to active rounds" if self.active else ""
        return (
            f"{self.answers} answers of {self.raters} named raters ({self.undecided} more could "
            f"not tell), {self.triplets} triplets answered twice or more{without}: Krippendorff's "
            f"alpha {self.alpha:.3f}, leave-one-rater-out ceiling {self.ceiling:.3f}"
        )


def agreement(triplets: Sequence[Triplet]) -> Agreement:
    """Measure the agreement of a table. "Could not tell" is not an answer, and is only counted.

    The survey's active rounds are about the triplets on which people disagree most: they are left
    out of alpha and ceiling, unless the table has no other answers.
    """
    decided = [t for t in triplets if t.odd is not None]
    active = sum(t.source == ACTIVE_STREAM for t in decided)
    if active == len(decided):
        active = 0
    units = [
        [sorted(group[0].ids).index(t.odd) for t in group if t.odd is not None]
        for group in grouped(t for t in decided if not active or t.source != ACTIVE_STREAM)
    ]
    units = [unit for unit in units if len(unit) > 1]
    return Agreement(
        alpha=krippendorff_alpha(units) if units else None,
        ceiling=ceiling(units) if units else None,
        answers=len(decided),
        undecided=len(triplets) - len(decided),
        raters=len({t.rater for t in triplets if t.rater}),
        triplets=len(units),
        active=active,
    )


def krippendorff_alpha(units: Iterable[Sequence[int]]) -> float:
    """Krippendorff's alpha for nominal data (K. Krippendorff, Content Analysis, ch. 12).

    units: the answers to each question, from 0, in any order and number; those with fewer than two
    are not counted. Perfect agreement on a single answer throughout, for which the formula is not
    defined, is 1. Raises ValueError without a unit of two.
    """
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        raise ValueError("no unit has two answers")
    size = max(max(unit) for unit in units) + 1
    counts = np.stack([np.bincount(unit, minlength=size) for unit in units])  # (units, answers)
    if (counts.sum(axis=0) > 0).sum() == 1:
        return 1.0
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def ceiling(units: Iterable[Sequence[int]]) -> float:
    """How often one rater agrees with the majority of the others: the leave-one-rater-out ceiling.

    Where the others are split evenly between k answers, an answer among them counts 1 / k. The
    mean over a triplet's answers, then over triplets. Raises ValueError without a unit of two.
    """
    shares = []
    for unit in units:
        if len(unit) < 2:
            continue
        hits = []
        for n, answer in enumerate(unit):
            others = Counter(unit[:n]) + Counter(unit[n + 1 :])
            top = max(others.values())
            winners = [value for value, count in others.items() if count == top]
            hits.append((answer in winners) / len(winners))
        shares.append(float(np.mean(hits)))
    if not shares:
        raise ValueError("no unit has two answers")
    return float(np.mean(shares))
