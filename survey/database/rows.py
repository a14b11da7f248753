"""What the store reads and returns: raters, rounds, stored answers, and why one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from survey.database.schema import answers, rounds, triplets


class NoSuchRound(Exception):
    """The rater has no such round: it expired, was undone, or belongs to another rater."""


class Conflict(Exception):
    """The round was answered differently before, or it is not the rater's current one."""


class ListenedTooBriefly(Exception):
    """The answer does not count: a clip was not sent, or not listened to for long enough."""


@dataclass(frozen=True)
class Rater:
    """One person who consented; `name` is random, and exports name them only by it."""

    id: int
    name: str


@dataclass(frozen=True)
class Person:
    """What a rater said of themselves, for the owner; `group` is that of the invite code."""

    name: str
    group: str
    headphones: str
    age: str
    training: str
    excluded: bool


@dataclass(frozen=True)
class Round:
    """One round of a rater; `clips` are the (track, excerpt) pairs by place on the page."""

    id: int
    token: str
    clips_token: str
    kind: str
    clips: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class StoredAnswer:
    """The rater's number of answers after one was stored, and the round that is now current."""

    answered: int
    current: Round | None


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def clips_by_place(stream: str, abc: Sequence[str], places: str) -> tuple[tuple[str, int], ...]:
    """(track, excerpt) by place; the second track of a gold triplet plays its second excerpt, 1."""
    excerpt = (0, 1, 0) if stream == "gold" else (0, 0, 0)
    return tuple((abc[int(p)], excerpt[int(p)]) for p in places)


ALL_CLIPS = 0b111  # of `rounds.fetched`
UNANSWERED = ~sa.exists().where(answers.c.round == rounds.c.id)
ANSWER_COLUMNS = [column for column in answers.c if column.name not in ("id", "round")]
SELECT_ROUND = (
    sa.select(
        rounds.c.id,
        rounds.c.token,
        rounds.c.clips_token,
        rounds.c.kind,
        rounds.c.places,
        triplets.c.stream,
        triplets.c.a,
        triplets.c.b,
        triplets.c.c,
    )
    .join_from(rounds, triplets)
    .join(answers, isouter=True)
)


def to_round(row: Any) -> Round:
    """The round in a row of `SELECT_ROUND`."""
    clips = clips_by_place(row.stream, (row.a, row.b, row.c), row.places)
    return Round(row.id, row.token, row.clips_token, row.kind, clips)


def count_answers(db: sa.Connection, rater: Rater) -> int:
    """How many answers of the rater are stored."""
    query = sa.select(sa.func.count()).select_from(rounds.join(answers))
    return int(db.execute(query.where(rounds.c.rater == rater.id)).scalar_one())
