"""Raters, rounds and answers: every read and write of the pages."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from survey.database.rows import (
    ALL_CLIPS,
    ANSWER_COLUMNS,
    SELECT_ROUND,
    UNANSWERED,
    Conflict,
    ListenedTooBriefly,
    NoSuchRound,
    Person,
    Rater,
    Round,
    StoredAnswer,
    count_answers,
    now,
    to_round,
)
from survey.database.schema import answers, ended_sessions, raters, rounds, settings, triplets


def _ended(nonce: str) -> sa.Select[tuple[str]]:
    return sa.select(ended_sessions.c.nonce).where(ended_sessions.c.nonce == nonce)


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in parts that stay within SQLite's limit of bound values."""
    for start in range(0, len(rows), 500):
        yield rows[start : start + 500]


class Store:
    """The database behind the pages.

    min_listened_s is the time in seconds for which each clip must have played before an answer
    counts. SQLite has one writer at a time: the writers of this process queue at a lock instead of
    polling the file; other processes wait by SQLite's own busy timeout.
    """

    def __init__(self, engine: sa.Engine, min_listened_s: float) -> None:
        self.engine = engine
        self.min_listened_s = min_listened_s
        self._writing = engine.execution_options(write=True)
        one_writer = engine.dialect.name == "sqlite"
        self._lock: Any = threading.Lock() if one_writer else nullcontext()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes; after the block it is on disk."""
        with self._lock, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    # -- settings and raters

    def secret(self) -> str:
        """The signing secret, made once and kept in the database beside the answers."""
        query = sa.select(settings.c.value).where(settings.c.key == "secret")
        with self.read() as db:
            found = db.execute(query).scalar()
        if found is None:
            try:
                with self.write() as db:
                    value = secrets.token_urlsafe(48)
                    db.execute(sa.insert(settings).values(key="secret", value=value))
            except sa.exc.IntegrityError:
                pass  # another process made it at the same time: theirs is used
            with self.read() as db:
                found = db.execute(query).scalar_one()
        return str(found)

    def add_rater(self, headphones: str, age: str, training: str, group: str = "") -> Rater:
        """A new rater, who has just consented; group: of their invite code."""
        name = secrets.token_hex(8)
        about = {"headphones": headphones, "age": age, "training": training, "group": group}
        with self.write() as db:
            row = sa.insert(raters).values(name=name, consented=now(), **about)
            key = db.execute(row).inserted_primary_key
        assert key is not None
        return Rater(key[0], name)

    def rater(self, name: str) -> Rater | None:
        """The rater called `name`; None when their data was deleted."""
        with self.read() as db:
            row = db.execute(sa.select(raters.c.id).where(raters.c.name == name)).first()
        return None if row is None else Rater(row.id, name)

    def rater_of_id(self, key: int) -> Rater | None:
        """The rater with this id; None when their data was deleted, until the id is used again."""
        with self.read() as db:
            name = db.execute(sa.select(raters.c.name).where(raters.c.id == key)).scalar()
        return None if name is None else Rater(key, name)

    def people(self) -> list[Person]:
        """Every rater, in the order of their consent."""
        columns = [raters.c[f.name] for f in fields(Person)]
        with self.read() as db:
            return [Person(*row) for row in db.execute(sa.select(*columns).order_by(raters.c.id))]

    def exclude(self, name: str, excluded: bool) -> bool:
        """Leaves a rater out of figures and exports, or takes them in again; False if unknown.

        The places of an excluded rater are given to others.
        """
        change = sa.update(raters).where(raters.c.name == name).values(excluded=excluded)
        who = sa.select(raters.c.id).where(raters.c.name == name)
        with self.write() as db:
            if db.execute(change).rowcount != 1:
                return False
            self._count_taken_of(db, db.execute(who).scalar_one())
        return True

    def free_excluded(self, db: sa.Connection, rater: Rater) -> None:
        """Frees the places of the rater's rounds, if the rater is excluded."""
        query = sa.select(raters.c.excluded).where(raters.c.id == rater.id)
        if db.execute(query).scalar():
            self._count_taken_of(db, rater.id)

    def _count_taken_of(self, db: sa.Connection, rater: int) -> None:
        given = sa.select(rounds.c.triplet).where(rounds.c.rater == rater).distinct()
        for part in _parts(db.execute(given).scalars().all()):
            self.count_taken(db, set(part))

    def end_session(self, nonce: str) -> None:
        """Makes the cookie of a session worthless; the rater's other sessions stay."""
        with self.write() as db:
            old = now() - timedelta(days=200)  # by then the cookie itself is too old
            db.execute(sa.delete(ended_sessions).where(ended_sessions.c.ended < old))
            if not db.execute(_ended(nonce)).first():
                db.execute(sa.insert(ended_sessions).values(nonce=nonce, ended=now()))

    def session_ended(self, nonce: str) -> bool:
        """Whether the session was ended by its rater."""
        with self.read() as db:
            return db.execute(_ended(nonce)).first() is not None

    def paused(self) -> bool:
        """Whether the owner has paused the survey."""
        query = sa.select(settings.c.value).where(settings.c.key == "paused")
        with self.read() as db:
            return db.execute(query).scalar() == "yes"

    def pause(self, paused: bool) -> None:
        """Pauses the survey, or resumes it; stored answers and private pages stay as they are."""
        with self.write() as db:
            db.execute(sa.delete(settings).where(settings.c.key == "paused"))
            if paused:
                db.execute(sa.insert(settings).values(key="paused", value="yes"))

    def coverage(self) -> tuple[int, int]:
        """How many triplets were begun, and how many of them have an answer of all their raters.

        Gold rounds, triplets whose tracks are gone, and excluded raters do not count.
        """
        given = sa.func.count(answers.c.id)
        query = (
            sa.select(triplets.c.quota, given)
            .join_from(triplets, rounds)
            .join(answers)
            .join(raters)
            .where(triplets.c.stream != "gold", triplets.c.quota > 0, rounds.c.kind != "repeat")
            .where(~raters.c.excluded)
            .group_by(triplets.c.id, triplets.c.quota)
        )
        with self.read() as db:
            rows = db.execute(query).all()
        return len(rows), sum(count >= quota for quota, count in rows)

    def delete_rater(self, rater: Rater) -> int:
        """Deletes everything stored about the rater; returns the number of deleted answers."""
        with self.write() as db:
            given = sa.select(rounds.c.id).where(rounds.c.rater == rater.id)
            deleted = db.execute(sa.delete(answers).where(answers.c.round.in_(given))).rowcount
            self._drop_rounds(db, rounds.c.rater == rater.id)
            db.execute(sa.delete(raters).where(raters.c.id == rater.id))
        return deleted

    # -- rounds

    def open_rounds(self, db: sa.Connection, rater: Rater) -> list[Round]:
        """The rater's rounds that have no answer yet; the first is the current one."""
        query = SELECT_ROUND.where(
            rounds.c.rater == rater.id, answers.c.id.is_(None), rounds.c.expired.is_(None)
        )
        return [to_round(row) for row in db.execute(query.order_by(rounds.c.id))]

    def add_round(
        self, db: sa.Connection, rater: Rater, triplet: int, kind: str, repeats: int | None = None
    ) -> None:
        """Gives the rater a round; its three clips are placed in random order."""
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
        """Records when the round appeared on the rater's screen; only the first time counts."""
        query = sa.select(rounds.c.shown).where(rounds.c.id == current.id)
        with self.read() as db:
            if db.execute(query).scalar() is not None:
                return
        with self.write() as db:
            not_shown = (rounds.c.id == current.id) & rounds.c.shown.is_(None)
            db.execute(sa.update(rounds).where(not_shown).values(shown=now()))

    def clip_of(
        self, clips_token: str, rater: Rater, place: int, sent: bool = True
    ) -> tuple[str, int] | None:
        """The (track, excerpt) at a place of one of the rater's own rounds; None if not theirs.

        sent: records that the clip was sent, because an answer counts only after all three were.
        """
        own = (rounds.c.clips_token == clips_token) & (rounds.c.rater == rater.id)
        query = SELECT_ROUND.add_columns(rounds.c.fetched).where(own)
        with self.read() as db:
            row = db.execute(query).first()
        if row is None:
            return None
        bit = 1 << place
        if sent and not row.fetched & bit:
            new = rounds.c.fetched.bitwise_or(bit)
            with self.write() as db:
                db.execute(sa.update(rounds).where(own).values(fetched=new))
        return to_round(row).clips[place]

    def expire(self, hours: float) -> int:
        """Frees the places of rounds that stayed unanswered for `hours`; returns their number.

        They are no longer open, but a late answer, which a browser may have kept without a
        connection, is still stored.
        """
        before = now() - timedelta(hours=hours)
        last_seen = sa.func.coalesce(rounds.c.shown, rounds.c.assigned)
        stale = (last_seen < before) & UNANSWERED & rounds.c.expired.is_(None)
        with self.write() as db:
            found = db.execute(sa.select(rounds.c.id, rounds.c.triplet).where(stale)).all()
            for part in _parts(found):
                ids = [row.id for row in part]
                db.execute(sa.update(rounds).where(rounds.c.id.in_(ids)).values(expired=now()))
                self.count_taken(db, {row.triplet for row in part})
        return len(found)

    def retire(self, missing: set[str], stream: str | None = None) -> None:
        """Closes every triplet with a track of `missing`, of one stream or of all."""
        used = triplets.c.a.in_(missing) | triplets.c.b.in_(missing) | triplets.c.c.in_(missing)
        if stream is not None:
            used &= triplets.c.stream == stream
        hit = sa.select(triplets.c.id).where(used)
        with self.write() as db:
            self._drop_rounds(db, rounds.c.triplet.in_(hit) & UNANSWERED)
            db.execute(sa.update(triplets).where(used).values(quota=0))

    def close_triplets(self, ids: Sequence[int]) -> None:
        """Gives these triplets to no further rater; rounds without an answer are dropped."""
        with self.write() as db:
            for part in _parts(ids):
                self._drop_rounds(db, rounds.c.triplet.in_(part) & UNANSWERED)
                db.execute(sa.update(triplets).where(triplets.c.id.in_(part)).values(quota=0))

    def streams_asked(self) -> dict[str, str]:
        """The stream, "train" or "test", of every track in an answered triplet.

        A track in both, of a survey with other splits, counts as one of the test stream.
        """
        query = (
            sa.select(triplets.c.stream, triplets.c.a, triplets.c.b, triplets.c.c)
            .join_from(triplets, rounds)
            .join(answers)
            .where(triplets.c.stream != "gold")
            .distinct()
        )
        found: dict[str, str] = {}
        with self.read() as db:
            for stream, *tracks in db.execute(query):
                for track in tracks:
                    if stream == "random" or track not in found:
                        found[track] = "test" if stream == "random" else "train"
        return found

    def tracks_asked(self) -> set[str]:
        """Every track in any triplet."""
        with self.read() as db:
            return {
                track
                for column in (triplets.c.a, triplets.c.b, triplets.c.c)
                for track in db.execute(sa.select(column).distinct()).scalars()
            }

    def _drop_rounds(self, db: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        """Deletes rounds, and counts again how many raters their triplets have been given to."""
        found = db.execute(sa.select(rounds.c.id, rounds.c.triplet).where(which)).all()
        for part in _parts(found):
            db.execute(sa.delete(rounds).where(rounds.c.id.in_([row.id for row in part])))
            self.count_taken(db, {row.triplet for row in part})
        return len(found)

    def count_taken(self, db: sa.Connection, changed: set[int]) -> None:
        """Counts again how many raters these triplets have been given to, but for excluded ones."""
        left = (
            sa.select(sa.func.count())
            .select_from(rounds.join(raters))
            .where(
                ~raters.c.excluded,
                rounds.c.triplet == triplets.c.id,
                rounds.c.kind != "repeat",
                rounds.c.expired.is_(None),
            )
            .scalar_subquery()
        )
        db.execute(sa.update(triplets).where(triplets.c.id.in_(changed)).values(taken=left))

    # -- answers

    def answer(
        self, rater: Rater, token: str, place: int | None, listened_s: Sequence[float]
    ) -> StoredAnswer:
        """Stores one answer once: the same answer sent again changes nothing.

        place: of the odd one out, 0 to 2, or None for "can't tell"; listened_s: seconds for which
        each clip played, by place. The round must be the rater's current one, and at least three
        times min_listened_s must have passed since it was shown, because clips play one at a time.
        Raises NoSuchRound, Conflict or ListenedTooBriefly, and then stores nothing.
        """
        try:
            with self.write() as db:
                self._insert_answer(db, rater, token, place, listened_s)
                return self._after_answer(db, rater)
        except sa.exc.IntegrityError:  # the same answer arrived twice at the same time
            with self.write() as db:
                self._insert_answer(db, rater, token, place, listened_s)
                return self._after_answer(db, rater)

    def _insert_answer(
        self,
        db: sa.Connection,
        rater: Rater,
        token: str,
        place: int | None,
        listened_s: Sequence[float],
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
        answered = now()
        response_time_s = (answered - row.shown).total_seconds()
        if min(listened_s) < self.min_listened_s or response_time_s < 3 * self.min_listened_s:
            raise ListenedTooBriefly(
                f"an answer counts once each clip was heard for {self.min_listened_s:g} seconds"
            )
        if self.min_listened_s > 0 and row.fetched != ALL_CLIPS:
            raise ListenedTooBriefly("an answer counts once all three clips were loaded")
        if row.expired is not None:  # a late answer: it counts, whoever has the place by now
            db.execute(sa.update(rounds).where(rounds.c.id == row.id).values(expired=None))
            self.count_taken(db, {row.triplet})
        db.execute(
            sa.insert(answers).values(
                round=row.id,
                odd=None if place is None else int(row.places[place]),
                place=place,
                listened_0_s=listened_s[0],
                listened_1_s=listened_s[1],
                listened_2_s=listened_s[2],
                response_time_s=response_time_s,
                answered=answered,
            )
        )
        following = db.execute(
            sa.select(sa.func.min(rounds.c.id))
            .join_from(rounds, answers, isouter=True)
            .where(rounds.c.rater == rater.id, answers.c.id.is_(None), rounds.c.expired.is_(None))
        ).scalar()
        if following is not None:
            db.execute(sa.update(rounds).where(rounds.c.id == following).values(shown=answered))

    def _after_answer(self, db: sa.Connection, rater: Rater) -> StoredAnswer:
        following = self.open_rounds(db, rater)
        return StoredAnswer(count_answers(db, rater), following[0] if following else None)

    def count(self, rater: Rater) -> int:
        """How many answers of the rater are stored."""
        with self.read() as db:
            return count_answers(db, rater)

    def last_answered(self, rater: Rater) -> str | None:
        """The token of the round that the rater answered last; None before the first answer."""
        query = sa.select(rounds.c.token).join_from(rounds, answers)
        newest = query.where(rounds.c.rater == rater.id).order_by(answers.c.id.desc()).limit(1)
        with self.read() as db:
            return db.execute(newest).scalar()

    def undo(self, rater: Rater, token: str) -> bool:
        """Deletes the rater's last answer, if it belongs to the round `token`.

        The round becomes the current one again, with new tokens, so that a late copy of the old
        answer is refused. Returns False when `token` is not the last answered round.
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
            still_open = (rounds.c.rater == rater.id) & UNANSWERED
            db.execute(sa.update(rounds).where(still_open).values(shown=None))
            fresh = {"token": secrets.token_urlsafe(16), "clips_token": secrets.token_urlsafe(16)}
            db.execute(sa.update(rounds).where(rounds.c.id == row.id).values(**fresh))
        return True

    def all_of(self, rater: Rater) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Everything stored about a rater: their details, and every answer."""
        who = sa.select(raters).where(raters.c.id == rater.id)
        given = (
            sa.select(rounds.c.kind, triplets.c.a, triplets.c.b, triplets.c.c, *ANSWER_COLUMNS)
            .join_from(rounds, answers)
            .join(triplets)
            .where(rounds.c.rater == rater.id)
            .order_by(answers.c.id)
        )
        with self.read() as db:
            person = db.execute(who).mappings().one()
            rows = [dict(row) for row in db.execute(given).mappings()]
        return {k: person[k] for k in person if k != "id"}, rows
