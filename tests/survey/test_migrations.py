"""Databases of earlier versions: they migrate on both databases, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from survey.clips import ClipLibrary
from survey.config import SurveyError
from survey.database.schema import alembic_config, metadata, migrate, open_database
from survey.database.store import Store
from survey.results.quality import all_answers
from survey.rounds.assign import Assigner

from .conftest import CONFIG

START = datetime(2026, 1, 1, 8, tzinfo=UTC)
TABLES = ("settings", "raters", "triplets", "rounds", "answers")
ADDED: dict[str, dict[str, Any]] = {
    "raters": {"group": "", "excluded": False}, "rounds": {"fetched": 0, "expired": None},
}  # fmt: skip
RENAMED = {f"heard_{n}_s": f"listened_{n}_s" for n in range(3)} | {"taken_s": "response_time_s"}


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def old_rows(tracks: list[str]) -> dict[str, list[dict[str, Any]]]:
    """A survey of two raters as schema 0001 stores it, with rounds of every kind."""
    a, b, c, d = sorted(tracks)[:4]
    triplets = [("cold", a, b, c), ("active", a, b, d), ("random", a, c, d), ("gold", b, b, d)]
    rounds = [  # rater, triplet, kind, repeats
        (1, 1, "cold", None), (1, 2, "active", None), (1, 3, "random", None), (1, 4, "gold", None),
        (1, 1, "repeat", 1), (2, 1, "cold", None), (2, 3, "random", None),
    ]  # fmt: skip
    answered = [(1, 2), (2, 0), (3, None), (4, 2), (5, 1), (6, 2)]  # round, odd; the last is open
    return {
        "settings": [{"key": "secret", "value": "s" * 64}],
        "raters": [
            {"id": n, "name": f"{n:016x}", "consented": at(n), "headphones": "headphones",
             "age": "25-34", "training": ""}
            for n in (1, 2)
        ],
        "triplets": [
            {"id": n, "stream": stream, "a": x, "b": y, "c": z, "quota": 3,
             "taken": 2 if n in (1, 3) else 1, "created": at(n)}
            for n, (stream, x, y, z) in enumerate(triplets, 1)
        ],
        "rounds": [
            {"id": n, "token": f"round{n:017d}", "clips_token": f"clips{n:017d}", "rater": rater,
             "triplet": triplet, "kind": kind, "places": "201", "repeats": repeats,
             "assigned": at(n), "shown": at(n + 1)}
            for n, (rater, triplet, kind, repeats) in enumerate(rounds, 1)
        ],
        "answers": [
            {"id": n, "round": number, "odd": odd, "place": None if odd is None else (odd + 1) % 3,
             "heard_0_s": 3.5 + n, "heard_1_s": 4.25, "heard_2_s": 15.0, "taken_s": 40.0 + n,
             "answered": at(n + 2)}
            for n, (number, odd) in enumerate(answered, 1)
        ],
    }  # fmt: skip


@pytest.fixture
def old(database: str, library: ClipLibrary) -> Iterator[tuple[sa.Engine, dict[str, list[dict]]]]:
    """A database of schema 0001 with answers, and its rows."""
    engine = open_database(database)
    held = old_rows(list(library.tracks))
    with engine.execution_options(write=True).begin() as db:
        command.upgrade(alembic_config(db), "0001")
        tables = sa.MetaData()
        tables.reflect(db)
        for name in TABLES:
            for row in held[name]:
                db.execute(sa.insert(tables.tables[name]).values(row))
        if engine.dialect.name == "postgresql":
            for name in TABLES[1:]:
                sequence = f"pg_get_serial_sequence('{name}', 'id')"
                db.exec_driver_sql(f"SELECT setval({sequence}, {len(held[name])})")
    yield engine, held
    engine.dispose()


def rows(engine: sa.Engine, name: str) -> list[dict[str, Any]]:
    """The rows of a table in the newest schema."""
    table = metadata.tables[name]
    key = table.c.key if name == "settings" else table.c.id
    with engine.connect() as db:
        return [dict(row) for row in db.execute(sa.select(table).order_by(key)).mappings()]


def test_nothing_is_lost(old: tuple[sa.Engine, dict[str, list[dict]]]) -> None:
    engine, held = old
    migrate(engine)
    for name in TABLES:
        wanted = [
            {
                RENAMED.get(key, key): "random_train" if value == "cold" else value
                for key, value in row.items()
            }
            | ADDED.get(name, {})
            for row in held[name]
        ]
        assert rows(engine, name) == wanted, name
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    migrate(engine)  # once more changes nothing
    assert len(rows(engine, "answers")) == 6


def test_constraints_hold_after_the_migration(old: tuple[sa.Engine, dict[str, list[dict]]]) -> None:
    engine, held = old
    migrate(engine)
    triplets, rounds = metadata.tables["triplets"], metadata.tables["rounds"]
    again = {k: v for k, v in held["triplets"][1].items() if k != "id"}
    wrong = [
        sa.update(triplets).where(triplets.c.id == 1).values(taken=-1),
        sa.insert(triplets).values(again),
        sa.insert(rounds).values(held["rounds"][0] | {"id": 99, "clips_token": "other"}),
        sa.insert(rounds).values(held["rounds"][6] | {"id": 99, "token": "x", "rater": 7}),
        sa.delete(triplets).where(triplets.c.id == 1),
        sa.update(rounds).where(rounds.c.id == 7).values(repeats=1),
    ]
    for statement in wrong:
        with (
            pytest.raises(sa.exc.IntegrityError),
            engine.execution_options(write=True).begin() as db,
        ):
            db.execute(statement)


def test_the_survey_continues(
    old: tuple[sa.Engine, dict[str, list[dict]]], library: ClipLibrary
) -> None:
    """Answers are read and undone, and an open triplet of the old survey gets its third rater."""
    engine, _ = old
    migrate(engine)
    store = Store(engine, CONFIG.min_listened_s)
    given = all_answers(store)
    assert [a.kind for a in given] == [
        "random_train", "active", "random", "gold", "repeat", "random_train",
    ]  # fmt: skip
    assert [a.response_time_s for a in given] == [41.0, 42.0, 43.0, 44.0, 45.0, 46.0]
    one, two = store.rater(f"{1:016x}"), store.rater(f"{2:016x}")
    assert one is not None and two is not None
    token = store.last_answered(one)
    assert token is not None and store.undo(one, token) and store.count(one) == 4
    patient = replace(CONFIG, round_expires_h=1e6)  # the old rounds are of a fixed date
    assigner = Assigner(store, library, patient, seed=0)
    current = assigner.rounds(two, 1)[0]
    assert current.token == f"round{7:017d}"
    assert store.answer(two, current.token, 1, [4.0, 4.0, 4.0]).answered == 2
    third = store.add_rater("", "", "")
    assigner.rounds(third, 20)
    with store.read() as db:
        query = sa.text("SELECT count(*) FROM rounds WHERE triplet = 1 AND kind = 'random_train'")
        assert db.execute(query).scalar() == 3
    assert store.delete_rater(one) == 4
    assert store.count(two) == 2


def test_a_migration_that_would_break_references_changes_nothing(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_raters(config: Any, revision: str) -> None:
        config.attributes["connection"].exec_driver_sql("DELETE FROM raters")

    rater = lite.add_rater("", "", "")
    with lite.write() as db:
        db.exec_driver_sql(
            "INSERT INTO triplets VALUES (1, 'random', 'a', 'b', 'c', 3, 1, '2026-01-01 00:00:00')"
        )
        lite.add_round(db, rater, 1, "random")
    monkeypatch.setattr("survey.database.schema.command.upgrade", delete_raters)
    with pytest.raises(SurveyError, match="rows that do not exist"):
        migrate(lite.engine)
    assert lite.rater(rater.name) == rater
    with lite.read() as db:
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
