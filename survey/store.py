"""Raters, rounds and answers in the database: every read and write that the pages need."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from survey.schema import answers, raters, rounds, settings, triplets


class NoSuchRound(Exception):
    """The rater has no such round: it expired, was undone, or is somebody else's."""


class Conflict(Exception):
    """The round was answered differently before, or it is not the rater's current one."""


class HeardTooLittle(Exception):
    """The answer does not count: a clip was not heard long enough."""


@dataclass(frozen=True)
class Rater:
    """One person who consented; `name` is random and is all that an export says of them."""

    id: int
    name: str


@dataclass(frozen=True)
class Round:
    """One round of a rater; `songs` are the (track, excerpt) pairs by place on the page."""

    id: int
    token: str
    clips_token: str
    kind: str
    songs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Stored:
    """What an answer led to: the rater's number of answers, and the round that is now current."""

    answered: int
    current: Round | None


def now() -> datetime:
    """The present moment, UTC."""
    return datetime.now(UTC)


def songs_by_place(stream: str, abc: Sequence[str], places: str) -> tuple[tuple[str, int], ...]:
    """(track, excerpt) by place; the second song of a gold triplet is the twin excerpt, 1."""
    excerpt = (0, 1, 0) if stream == "gold" else (0, 0, 0)
    return tuple((abc[int(p)], excerpt[int(p)]) for p in places)


class Store:
    """The database behind the pages.

    min_heard_s is the time in seconds that each clip must be heard before an answer counts.
    SQLite has one writer at a time: writers queue here, on a lock of this process, rather than
    by polling the file; other processes wait on SQLite's own busy timeout.
    """

    def __init__(self, engine: sa.Engine, min_heard_s: float) -> None:
        self.engine = engine
        self.min_heard_s = min_heard_s
        self._writing = engine.execution_options(write=True)
        one_writer = engine.dialect.name == "sqlite"
        self._lock: Any = threading.Lock() if one_writer else nullcontext()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes; on leaving, it is on disk."""
        with self._lock, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    # -- settings and raters

    def secret(self) -> str:
        """The signing secret, made once and kept with the answers that it protects."""
        query = sa.select(settings.c.value).where(settings.c.key == "secret")
        with self.read() as db:
            found = db.execute(query).scalar()
        if found is None:
            try:
                with self.write() as db:
                    value = secrets.token_urlsafe(48)
                    db.execute(sa.insert(settings).values(key="secret", value=value))
            except sa.exc.IntegrityError:
                pass  # another process made it in this moment: theirs is the one
            with self.read() as db:
                found = db.execute(query).scalar_one()
        return str(found)

    def add_rater(self, headphones: str, age: str, training: str) -> Rater:
        """A new rater, who has just consented."""
        name = secrets.token_hex(8)
        with self.write() as db:
            row = sa.insert(raters).values(
                name=name, consented=now(), headphones=headphones, age=age, training=training
            )
            key = db.execute(row).inserted_primary_key
        assert key is not None
        return Rater(key[0], name)

    def rater(self, name: str) -> Rater | None:
        """The rater called `name`; None when their data was deleted."""
        with self.read() as db:
            row = db.execute(sa.select(raters.c.id).where(raters.c.name == name)).first()
        return None if row is None else Rater(row.id, name)

    def delete_rater(self, rater: Rater) -> int:
        """Deletes all that is stored of the rater; the number of answers that were deleted."""
        with self.write() as db:
            mine = sa.select(rounds.c.id).where(rounds.c.rater == rater.id)
            deleted = db.execute(sa.delete(answers).where(answers.c.round.in_(mine))).rowcount
            self._drop_rounds(db, rounds.c.rater == rater.id)
            db.execute(sa.delete(raters).where(raters.c.id == rater.id))
        return deleted

    # -- rounds

    def open_rounds(self, db: sa.Connection, rater: Rater) -> list[Round]:
        """The rater's rounds that have no answer yet; the first is the current one."""
        query = _ROUND.where(rounds.c.rater == rater.id, answers.c.id.is_(None))
        return [_round(row) for row in db.execute(query.order_by(rounds.c.id))]

    def add_round(
        self, db: sa.Connection, rater: Rater, triplet: int, kind: str, repeats: int | None = None
    ) -> None:
        """Gives the rater a round; its three songs stand in shuffled places."""
        places = [0, 1, 2]
        secrets.SystemRandom().shuffle(places)
        db.execute(
            sa.insert(rounds).values(
                token=secrets.token_urlsafe(16),
                clips_token=secrets.token_urlsafe(16),
                rater=rater.id,
                triplet=triplet,
                kind=kind,
                places="".join(map(str, places)),
                repeats=repeats,
                assigned=now(),
            )
        )

    def show(self, current: Round) -> None:
        """Notes that the round is on the rater's screen, from when its clips can be heard."""
        query = sa.select(rounds.c.shown).where(rounds.c.id == current.id)
        with self.read() as db:
            if db.execute(query).scalar() is not None:
                return
        with self.write() as db:
            unseen = (rounds.c.id == current.id) & rounds.c.shown.is_(None)
            db.execute(sa.update(rounds).where(unseen).values(shown=now()))

    def clip_of(self, clips_token: str, rater: Rater, place: int) -> tuple[str, int] | None:
        """The (track, excerpt) at a place of one of the rater's own rounds; None if not theirs."""
        query = _ROUND.where(rounds.c.clips_token == clips_token, rounds.c.rater == rater.id)
        with self.read() as db:
            row = db.execute(query).first()
        return None if row is None else _round(row).songs[place]

    def expire(self, hours: float) -> int:
        """Takes back the rounds that nobody answered for `hours`; how many there were."""
        before = now() - timedelta(hours=hours)
        last_seen = sa.func.coalesce(rounds.c.shown, rounds.c.assigned)
        with self.write() as db:
            return self._drop_rounds(db, (last_seen < before) & _UNANSWERED)

    def retire(self, missing: set[str]) -> None:
        """Asks no more about the tracks `missing`: their clips are gone from the corpus."""
        used = triplets.c.a.in_(missing) | triplets.c.b.in_(missing) | triplets.c.c.in_(missing)
        hit = sa.select(triplets.c.id).where(used)
        with self.write() as db:
            self._drop_rounds(db, rounds.c.triplet.in_(hit) & _UNANSWERED)
            db.execute(sa.update(triplets).where(used).values(quota=0))

    def tracks_asked(self) -> set[str]:
        """Every track that any triplet names."""
        with self.read() as db:
            return {
                track
                for column in (triplets.c.a, triplets.c.b, triplets.c.c)
                for track in db.execute(sa.select(column).distinct()).scalars()
            }

    def _drop_rounds(self, db: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        """Deletes rounds and gives their triplets' places back."""
        found = list(db.execute(sa.select(rounds.c.id, rounds.c.triplet).where(which)))
        for start in range(0, len(found), 500):  # within SQLite's limit of bound values
            part = found[start : start + 500]
            db.execute(sa.delete(rounds).where(rounds.c.id.in_([row.id for row in part])))
            left = (
                sa.select(sa.func.count())
                .where(rounds.c.triplet == triplets.c.id, rounds.c.kind != "repeat")
                .scalar_subquery()
            )
            touched = triplets.c.id.in_({row.triplet for row in part})
            db.execute(sa.update(triplets).where(touched).values(taken=left))
        return len(found)

    # -- answers

    def answer(
        self, rater: Rater, token: str, place: int | None, heard_s: Sequence[float]
    ) -> Stored:
        """Stores one answer, once: the same answer sent again changes nothing.

        place: of the odd one out, 0 to 2, or None for "can't tell"; heard_s: seconds that each
        clip was heard, by place. The round must be the rater's current one, and at least three
        times min_heard_s must have passed since it was shown, for clips play one at a time.
        Raises NoSuchRound, Conflict or HeardTooLittle, and then stores nothing.
        """
        try:
            with self.write() as db:
                self._store(db, rater, token, place, heard_s)
                return self._stored(db, rater)
        except sa.exc.IntegrityError:  # the same answer arrived twice in one moment
            with self.write() as db:
                self._store(db, rater, token, place, heard_s)
                return self._stored(db, rater)

    def _store(
        self,
        db: sa.Connection,
        rater: Rater,
        token: str,
        place: int | None,
        heard_s: Sequence[float],
    ) -> None:
        query = (
            sa.select(rounds, answers.c.id.label("answer"), answers.c.place)
            .join_from(rounds, answers, isouter=True)
            .where(rounds.c.token == token, rounds.c.rater == rater.id)
        )
        row = db.execute(query).first()
        if row is None:
            raise NoSuchRound("this round is no longer open")
        if row.answer is not None:
            if row.place != place:
                raise Conflict("this round was answered already, and differently")
            return
        if row.shown is None:
            raise Conflict("this round is not the current one")
        moment = now()
        taken_s = (moment - row.shown).total_seconds()
        if min(heard_s) < self.min_heard_s or taken_s < 3 * self.min_heard_s:
            raise HeardTooLittle(
                f"an answer counts once each clip was heard for {self.min_heard_s:g} seconds"
            )
        db.execute(
            sa.insert(answers).values(
                round=row.id,
                odd=None if place is None else int(row.places[place]),
                place=place,
                heard_0_s=heard_s[0],
                heard_1_s=heard_s[1],
                heard_2_s=heard_s[2],
                taken_s=taken_s,
                answered=moment,
            )
        )
        following = db.execute(
            sa.select(sa.func.min(rounds.c.id))
            .join_from(rounds, answers, isouter=True)
            .where(rounds.c.rater == rater.id, answers.c.id.is_(None))
        ).scalar()
        if following is not None:
            db.execute(sa.update(rounds).where(rounds.c.id == following).values(shown=moment))

    def _stored(self, db: sa.Connection, rater: Rater) -> Stored:
        following = self.open_rounds(db, rater)
        return Stored(_count(db, rater), following[0] if following else None)

    def count(self, rater: Rater) -> int:
        """How many answers are stored of the rater."""
        with self.read() as db:
            return _count(db, rater)

    def last_answered(self, rater: Rater) -> str | None:
        """The token of the round that the rater answered last."""
        query = sa.select(rounds.c.token).join_from(rounds, answers)
        newest = query.where(rounds.c.rater == rater.id).order_by(answers.c.id.desc()).limit(1)
        with self.read() as db:
            return db.execute(newest).scalar()

    def undo(self, rater: Rater, token: str) -> bool:
        """Takes the rater's last answer back, if it is the one of round `token`.

        The round gets new tokens, so that a late copy of the old answer cannot come back, and is
        the current one again. False when `token` is not the last answered round.
        """
        with self.write() as db:
            newest = (
                sa.select(rounds.c.id, rounds.c.token, answers.c.id.label("answer"))
                .join_from(rounds, answers)
                .where(rounds.c.rater == rater.id)
                .order_by(answers.c.id.desc())
                .limit(1)
            )
            row = db.execute(newest).first()
            if row is None or row.token != token:
                return False
            db.execute(sa.delete(answers).where(answers.c.id == row.answer))
            mine = (rounds.c.rater == rater.id) & _UNANSWERED
            db.execute(sa.update(rounds).where(mine).values(shown=None))
            fresh = {"token": secrets.token_urlsafe(16), "clips_token": secrets.token_urlsafe(16)}
            db.execute(sa.update(rounds).where(rounds.c.id == row.id).values(**fresh))
        return True

    def all_of(self, rater: Rater) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """All that is stored of a rater: what they said of themselves, and every answer."""
        who = sa.select(raters).where(raters.c.id == rater.id)
        given = (
            sa.select(rounds.c.kind, triplets.c.a, triplets.c.b, triplets.c.c, *_ANSWER_COLUMNS)
            .join_from(rounds, answers)
            .join(triplets)
            .where(rounds.c.rater == rater.id)
            .order_by(answers.c.id)
        )
        with self.read() as db:
            person = db.execute(who).mappings().one()
            rows = [dict(row) for row in db.execute(given).mappings()]
        return {k: person[k] for k in person if k != "id"}, rows


_UNANSWERED = ~sa.exists().where(answers.c.round == rounds.c.id)
_ANSWER_COLUMNS = [column for column in answers.c if column.name not in ("id", "round")]
_ROUND = (
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


def _round(row: Any) -> Round:
    songs = songs_by_place(row.stream, (row.a, row.b, row.c), row.places)
    return Round(row.id, row.token, row.clips_token, row.kind, songs)


def _count(db: sa.Connection, rater: Rater) -> int:
    query = sa.select(sa.func.count()).select_from(rounds.join(answers))
    return int(db.execute(query.where(rounds.c.rater == rater.id)).scalar_one())
