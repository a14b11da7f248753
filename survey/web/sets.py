"""What a rater sees after each set: agreement with others, the songs, the streak, a taste map."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa

from survey.database.rows import Rater, clips_by_place, now
from survey.database.schema import answers, rounds, triplets
from survey.database.store import Store

MAX_DOTS = 600  # tracks in the background of the map
MAX_PAIRS = 100  # newest pairs on the map


@dataclass(frozen=True)
class Given:
    """One stored answer; `tracks` are by place on the page, `place` is None for "can't tell"."""

    triplet: int
    kind: str
    tracks: tuple[str, str, str]
    place: int | None
    odd: int | None
    listened_s: tuple[float, float, float]
    token: str
    day: date


@dataclass(frozen=True)
class Agreement:
    """`of`: rounds that other raters answered too; `agreed`: those with the majority's choice."""

    agreed: int
    of: int


@dataclass(frozen=True)
class TasteMap:
    """Points in a box of 100 by 100: every track's, and the lines between pairs of them.

    dots: (x, y); pairs: (x1, y1, x2, y2) of the two tracks that the rater left together.
    """

    dots: list[tuple[float, float]]
    pairs: list[tuple[float, float, float, float]]


def given_answers(store: Store, rater_id: int) -> list[Given]:
    """All answers of a rater, oldest first."""
    query = (
        sa.select(
            rounds.c.triplet, rounds.c.kind, rounds.c.places, rounds.c.token, triplets, answers
        )
        .join_from(rounds, answers)
        .join(triplets)
        .where(rounds.c.rater == rater_id)
        .order_by(answers.c.id)
    )
    with store.read() as db:
        return [_given(row) for row in db.execute(query)]


def _given(row: Any) -> Given:
    first, second, third = clips_by_place(row.stream, (row.a, row.b, row.c), row.places)
    return Given(
        row.triplet,
        row.kind,
        (first[0], second[0], third[0]),
        row.place,
        row.odd,
        (row.listened_0_s, row.listened_1_s, row.listened_2_s),
        row.token,
        row.answered.date(),
    )


def last_answer(store: Store, rater: Rater) -> dict[str, Any] | None:
    """The newest answer, as the page needs it to show what an undo brings back."""
    query = (
        sa.select(rounds.c.token, answers)
        .join_from(rounds, answers)
        .where(rounds.c.rater == rater.id)
        .order_by(answers.c.id.desc())
        .limit(1)
    )
    with store.read() as db:
        row = db.execute(query).first()
    if row is None:
        return None
    listened_s = [row.listened_0_s, row.listened_1_s, row.listened_2_s]
    return {"round": row.token, "place": row.place, "listened_s": listened_s}


def agreement(store: Store, rater_id: int, given: list[Given]) -> Agreement:
    """How often the answers agree with the majority of other raters, ties included.

    Gold rounds and repeats do not count, and neither does "can't tell".
    """
    mine = {
        g.triplet: g.odd for g in given if g.odd is not None and g.kind not in ("gold", "repeat")
    }
    votes: dict[int, dict[int, int]] = defaultdict(dict)
    keys = list(mine)
    with store.read() as db:
        for start in range(0, len(keys), 500):  # within SQLite's limit of bound values
            query = (
                sa.select(rounds.c.triplet, answers.c.odd, sa.func.count().label("votes"))
                .join_from(rounds, answers)
                .where(rounds.c.triplet.in_(keys[start : start + 500]))
                .where(rounds.c.rater != rater_id, rounds.c.kind != "repeat")
                .where(answers.c.odd.is_not(None))
                .group_by(rounds.c.triplet, answers.c.odd)
            )
            for row in db.execute(query):
                votes[row.triplet][row.odd] = row.votes
    agreed = sum(votes[t].get(mine[t], 0) == max(votes[t].values()) for t in votes)
    return Agreement(agreed, len(votes))


def streak_days(given: list[Given], today: date | None = None) -> int:
    """Days in a row (UTC) with an answer, up to today or, before today's first, yesterday."""
    days = {g.day for g in given}
    day = today or now().date()
    if day not in days:
        day -= timedelta(days=1)
    length = 0
    while day in days:
        length += 1
        day -= timedelta(days=1)
    return length


class TrackMap:
    """Every track's place on a plane: the two principal axes of the first embedding table.

    embeddings: (ids, vectors (tables, tracks, dim)), as the assigner has them.
    """

    def __init__(self, embeddings: tuple[list[str], np.ndarray]) -> None:
        ids, vectors = embeddings
        centred = vectors[0] - vectors[0].mean(axis=0)  # (tracks, dim)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:2]  # (2, dim)
        flat = centred @ axes.T  # (tracks, 2)
        low, high = flat.min(axis=0), flat.max(axis=0)
        scale = 94 / max(float((high - low).max()), 1e-12)  # one for both axes keeps distances true
        flat = 50 + scale * (flat - (low + high) / 2)
        points = [(round(float(x), 1), round(float(y), 1)) for x, y in flat]
        self.places = dict(zip(ids, points, strict=True))
        self.dots = points[:: -(-len(points) // MAX_DOTS)]

    def taste(self, given: list[Given]) -> TasteMap:
        """The pairs that the newest of the answers left together, on the map."""
        pairs = []
        for answer in given:
            if answer.place is None or answer.kind == "gold":
                continue
            left = [t for place, t in enumerate(answer.tracks) if place != answer.place]
            if all(track in self.places for track in left):
                pairs.append((*self.places[left[0]], *self.places[left[1]]))
        return TasteMap(self.dots, pairs[-MAX_PAIRS:])
