"""Simulated raters who answer by the survey's own assignment: for the pictures and for tests."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa

from survey.database.rows import Rater, Round
from survey.database.schema import answers, rounds
from survey.database.store import Store
from survey.rounds.active import odd_probabilities
from survey.rounds.assign import Assigner

LISTENED_S = [6.0, 6.0, 6.0]


def choose(
    current: Round, latent: dict[str, np.ndarray], rng: np.random.Generator, clicks: bool = False
) -> int | None:
    """The place of the odd one out: at random, or by the distances of the tracks' latent vectors.

    Four answers in a hundred are "can't tell".
    """
    if clicks:
        return int(rng.integers(3))
    if rng.random() < 0.04:
        return None
    vectors = np.stack([latent[track] + 0.01 * excerpt for track, excerpt in current.clips])
    p = odd_probabilities(vectors[None], np.array([[0, 1, 2]]), 0.1)[0, 0]
    return int(rng.choice(3, p=p))


def answer_rounds(
    store: Store,
    assigner: Assigner,
    rater: Rater,
    count: int,
    latent: dict[str, np.ndarray],
    rng: np.random.Generator,
    clicks: bool = False,
) -> int:
    """Answers up to `count` rounds of a rater; returns how many there were."""
    for number in range(count):
        open_rounds = assigner.rounds(rater, 2)
        if not open_rounds:
            return number
        store.show(open_rounds[0])
        place = choose(open_rounds[0], latent, rng, clicks)
        store.answer(rater, open_rounds[0].token, place, LISTENED_S)
    return count


def spread_over_days(store: Store, end: datetime, days: int, rng: np.random.Generator) -> None:
    """Gives the answers times of the last days, in their order, each after 20 to 60 seconds."""
    with store.write() as db:
        keys = list(db.execute(sa.select(answers.c.id, answers.c.round).order_by(answers.c.id)))
        ago_s = np.sort(rng.random(len(keys)))[::-1] * days * 86_400
        for (key, round_), seconds in zip(keys, ago_s, strict=True):
            taken_s = float(rng.gamma(4.0, 8.0) + 12)
            when = end - timedelta(seconds=float(seconds))
            shown = when - timedelta(seconds=taken_s)
            change = {"answered": when, "response_time_s": taken_s}
            db.execute(sa.update(answers).where(answers.c.id == key).values(change))
            db.execute(sa.update(rounds).where(rounds.c.id == round_).values(shown=shown))
