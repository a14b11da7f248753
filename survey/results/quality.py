"""The answers read back: the quality of raters, their agreement, and the current model's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt

import numpy as np
import sqlalchemy as sa

from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.table import Triplet, grouped
from survey.database.schema import answers, raters, rounds, triplets
from survey.database.store import Store
from survey.rounds.active import odd_probabilities

STREAMS = ("active", "random_train", "random")  # exported; the other kinds measure the raters
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


def model_hits(
    given: Sequence[Answered], embeddings: tuple[list[str], np.ndarray], temperature: float
) -> list[bool]:
    """Whether the model picks the rater's odd one out, for each answer of the random stream.

    embeddings: ids and (members, tracks, dim); an ensemble picks by its mean probability. "Can't
    tell" is skipped, and so are triplets with a track that has no embedding.
    """
    ids, vectors = embeddings
    index = {track: i for i, track in enumerate(ids)}
    rows = [
        ([index[t] for t in answer.abc], answer.odd)
        for answer in given
        if answer.kind == "random"
        and answer.odd is not None
        and all(t in index for t in answer.abc)
    ]
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


def alpha_interval(table: Sequence[Triplet], blocks: int = 20) -> tuple[float, float] | None:
    """The 95 % interval of Krippendorff's alpha, by a jackknife over blocks of triplets.

    Each of at most `blocks` blocks is removed once (delete-a-group jackknife; Kott 2001). None
    where fewer than two triplets have two answers.
    """
    twice = [g for g in grouped(t for t in table if t.odd is not None) if len(g) > 1]
    if len(twice) < 2:
        return None
    count = min(blocks, len(twice))
    replicates: list[float] = []
    for block in range(count):
        rest = [t for i, group in enumerate(twice) if i % count != block for t in group]
        alpha = agreement(rest).alpha
        assert alpha is not None  # at least one triplet with two answers is in `rest`
        replicates.append(alpha)
    whole = agreement([t for group in twice for t in group]).alpha
    assert whole is not None
    half = 1.959964 * sqrt((count - 1) / count * sum((a - whole) ** 2 for a in replicates))
    return max(-1.0, whole - half), min(1.0, whole + half)
