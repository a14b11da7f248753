"""The answers read back: the quality of raters, their agreement, and the current model's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import exp, log

import numpy as np
import sqlalchemy as sa
from scipy.special import betaln

from datasets_scripts.statistics import PERCENTILES
from datasets_scripts.triplets.table import Triplet
from survey.database.schema import answers, raters, rounds, triplets
from survey.database.store import Store
from survey.rounds.active import odd_probabilities

STREAMS = ("active", "random_train", "random")  # exported; the other kinds measure the raters
ATTENTIVE_GOLD, ATTENTIVE_REPEATS = (9.0, 1.0), (6.0, 3.0)  # means 0.9 and 0.67
GOLD_ODD = 2  # a gold triplet is (track, the same track, distractor)


@dataclass(frozen=True)
class Answered:
    """One answer; `odd` is 0, 1 or 2 for the tracks `abc`, or None for "can't tell"."""

    round: int
    rater: str
    kind: str
    abc: tuple[str, str, str]
    odd: int | None
    place: int | None
    response_time_s: float
    when: datetime
    repeats: int | None


@dataclass
class Quality:
    """One rater's counts of answers, of gold rounds, and of hidden repeats."""

    gold: int = 0
    gold_correct: int = 0
    repeats: int = 0
    repeats_consistent: int = 0
    answers: int = 0

    @property
    def gold_accuracy(self) -> float | None:
        """Share of gold rounds answered correctly; None before the first."""
        return self.gold_correct / self.gold if self.gold else None

    @property
    def consistency(self) -> float | None:
        """Share of repeats answered as before; None before the first."""
        return self.repeats_consistent / self.repeats if self.repeats else None

    @property
    def attentive(self) -> float:
        """The posterior probability that the rater listens and does not click at random.

        Prior: one half. A random clicker is right in a third of the gold rounds and repeats; a
        listener's rates are unknown, with Beta priors (`ATTENTIVE_GOLD`, `ATTENTIVE_REPEATS`).
        """
        counts = ((self.gold, self.gold_correct, ATTENTIVE_GOLD),
                  (self.repeats, self.repeats_consistent, ATTENTIVE_REPEATS))  # fmt: skip
        log_odds = 0.0
        for n, k, (a, b) in counts:
            log_odds += betaln(k + a, n - k + b) - betaln(a, b)  # beta-binomial likelihood
            log_odds -= k * log(1 / 3) + (n - k) * log(2 / 3)
        return 1 / (1 + exp(-log_odds))


def all_answers(store: Store) -> list[Answered]:
    """Every stored answer, in the order in which they were stored."""
    query = (
        sa.select(
            rounds.c.id,
            raters.c.name,
            rounds.c.kind,
            triplets.c.a,
            triplets.c.b,
            triplets.c.c,
            answers.c.odd,
            answers.c.place,
            answers.c.response_time_s,
            answers.c.answered,
            rounds.c.repeats,
        )
        .join_from(rounds, answers)
        .join(triplets)
        .join(raters)
        .order_by(answers.c.id)
    )
    with store.read() as db:
        return [
            Answered(i, name, kind, (a, b, c), odd, place, time_s, when, repeats)
            for i, name, kind, a, b, c, odd, place, time_s, when, repeats in db.execute(query)
        ]


def qualities(given: Iterable[Answered]) -> dict[str, Quality]:
    """Quality by rater; a repeat whose first answer was undone does not count."""
    given = list(given)
    first = {answer.round: answer.odd for answer in given}
    found: dict[str, Quality] = defaultdict(Quality)
    for answer in given:
        quality = found[answer.rater]
        quality.answers += 1
        if answer.kind == "gold":
            quality.gold += 1
            quality.gold_correct += answer.odd == GOLD_ODD
        elif answer.kind == "repeat" and answer.repeats in first:
            quality.repeats += 1
            quality.repeats_consistent += answer.odd == first[answer.repeats]
    return dict(found)


def repeat_hits(given: Sequence[Answered]) -> list[bool]:
    """Whether each repeat was answered as the round that it repeats, in order."""
    first = {a.round: a.odd for a in given}
    return [a.odd == first[a.repeats] for a in given if a.kind == "repeat" and a.repeats in first]


def scored_answers(given: Iterable[Answered], ids: Iterable[str]) -> list[Answered]:
    """The answers of the random stream that name an odd one among three tracks of `ids`."""
    known = set(ids)
    return [
        a for a in given
        if a.kind == "random" and a.odd is not None and known.issuperset(a.abc)
    ]  # fmt: skip


def model_hits(
    given: Sequence[Answered], embeddings: tuple[list[str], np.ndarray], temperature: float
) -> list[bool]:
    """Whether the model picks the rater's odd one out, for each of `scored_answers`.

    embeddings: ids and (members, tracks, dim); an ensemble picks by its mean probability. "Can't
    tell" is skipped, and so are triplets with a track that has no embedding.
    """
    ids, vectors = embeddings
    index = {track: i for i, track in enumerate(ids)}
    rows = [([index[t] for t in a.abc], a.odd) for a in scored_answers(given, ids)]
    if not rows:
        return []
    indices, odd = np.asarray([r[0] for r in rows]), np.asarray([r[1] for r in rows])
    picked = odd_probabilities(vectors, indices, temperature).mean(axis=0).argmax(axis=-1)
    return [bool(hit) for hit in picked == odd]


def as_triplets(given: Iterable[Answered]) -> list[Triplet]:
    """The answers of the exported streams, as rows of a triplet table: no repeats, no gold."""
    return [
        Triplet(
            *answer.abc,
            odd=None if answer.odd is None else answer.abc[answer.odd],
            source=f"survey-{answer.kind}",
            rater=answer.rater,
            when=answer.when,
        )
        for answer in given
        if answer.kind in STREAMS
    ]


def vote_counts(given: Iterable[Answered]) -> np.ndarray:
    """How often each track was chosen, of every triplet with two answers or more: (triplets, 3).

    "Can't tell" is no answer.
    """
    counts: dict[tuple[str, str, str], list[int]] = {}
    for answer in given:
        if answer.odd is not None:
            counts.setdefault(answer.abc, [0, 0, 0])[answer.odd] += 1
    found = np.asarray(list(counts.values()), np.int64).reshape(-1, 3)
    return found[found.sum(axis=1) > 1]


def alpha_of(counts: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha, nominal, of vote counts (..., triplets, 3): (...).

    Every triplet must have two votes or more; a triplet with no vote is skipped. Where all votes
    are for one value, for which the formula is not defined, alpha is 1.
    """
    votes = counts.sum(axis=-1)  # (..., triplets)
    pairs = (counts * (counts - 1)).sum(axis=-1)  # ordered pairs that agree
    observed = (votes - pairs / np.maximum(votes - 1, 1)).sum(axis=-1)  # disagreement
    totals = counts.sum(axis=-2)  # (..., 3)
    n = totals.sum(axis=-1)
    expected = (n**2 - (totals**2).sum(axis=-1)) / np.maximum(n - 1, 1)
    return np.where(expected > 0, 1 - observed / np.where(expected > 0, expected, 1), 1.0)


def ceilings(counts: np.ndarray) -> np.ndarray:
    """How often a rater agrees with the majority of the others, by triplet: (triplets, 3) -> (n,).

    The same as `datasets_scripts.triplets.agreement.ceiling`, of counts.
    """
    total = np.zeros(len(counts))
    for own in range(3):
        others = counts - np.eye(3, dtype=np.int64)[own]  # without one vote for `own`
        top = others.max(axis=1, keepdims=True)
        winners = (others == top).sum(axis=1)
        total += counts[:, own] * (others[:, own] == top[:, 0]) / winners
    return total / counts.sum(axis=1)


def alpha_interval(counts: np.ndarray, resamples: int = 1000) -> tuple[float, float] | None:
    """The 95 % interval of Krippendorff's alpha, by bootstrap over triplets.

    counts: (triplets, 3) as of `vote_counts`. None for fewer than two triplets.
    """
    if len(counts) < 2:
        return None
    drawn = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    low, high = np.percentile([alpha_of(counts[rows]) for rows in drawn], PERCENTILES)
    return float(low), float(high)
