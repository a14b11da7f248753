"""A back-up of the database, and the answers of another survey merged into it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from datasets_scripts.files import atomic_path
from survey.config import SurveyError
from survey.database.schema import answers, raters, rounds, triplets
from survey.database.store import Store


def backup(store: Store, out: Path) -> str:
    """Copies the database to the file `out`, as it is at one moment, also while it is served.

    Returns a line for the owner. Raises SurveyError for PostgreSQL, or where `out` exists.
    """
    if store.engine.dialect.name != "sqlite":
        raise SurveyError("a PostgreSQL database is backed up by its own pg_dump")
    if out.exists():
        raise SurveyError(f"{out} exists already; name a new file")
    with atomic_path(out) as part, closing(sqlite3.connect(part)) as copy:
        source: Any = store.engine.raw_connection()
        try:
            source.driver_connection.backup(copy)
        finally:
            source.close()
        (count,) = copy.execute("SELECT count(*) FROM answers").fetchone()
    return f"{out}: {count} answers, and the secret of the cookies: keep it private"


def merge(store: Store, other: sa.Engine) -> list[str]:
    """Copies the raters, rounds and answers of `other`, a database of the newest schema.

    Of a rater whom both know, because the surveys were merged before, only new answers are copied,
    and none to a triplet that they have answered here. Where a triplet is of the test stream in one
    survey and of a training stream in the other, it becomes a training triplet, because it may have
    been trained on. Open rounds are not copied. Returns lines for the owner, also on the training
    answers that the other survey's test stream makes useless.
    """
    with other.connect() as db:
        rows = {
            table.name: [dict(row) for row in db.execute(sa.select(table)).mappings()]
            for table in (raters, triplets, rounds, answers)
        }
    answered = {row["round"] for row in rows["answers"]}
    with store.write() as db:
        known = {name: key for name, key in db.execute(sa.select(raters.c.name, raters.c.id))}
        new = [row for row in rows["raters"] if row["name"] not in known]
        rater_ids = {row["id"]: known.get(row["name"]) or _insert(db, raters, row)
                     for row in rows["raters"]}  # fmt: skip
        here, useless = _rounds_here(db), _useless_answers(db)
        copied = [r for r in rows["rounds"] if r["id"] in answered]
        used = {row["triplet"] for row in copied}
        triplet_ids: dict[int, int] = {}
        changed: set[int] = set()
        for row in rows["triplets"]:
            if row["id"] in used:
                triplet_ids[row["id"]], has_changed = _take_triplet(db, row)
                changed |= {row["id"]} if has_changed else set()
        round_ids: dict[int, int] = {}
        new_rounds: set[int] = set()
        for row in sorted(copied, key=lambda r: r["id"]):  # a repeat comes after its first round
            again = row["repeats"]
            if again is not None and again not in round_ids:
                continue  # its first round was undone
            values = {
                "rater": rater_ids[row["rater"]],
                "triplet": triplet_ids[row["triplet"]],
                "repeats": None if again is None else round_ids[again],
            }
            same = values["rater"], values["triplet"], again is not None
            if same not in here:
                round_ids[row["id"]] = _insert(db, rounds, row | values)
                new_rounds.add(row["id"])
                continue
            round_ids[row["id"]], is_answered = here[same]
            if not is_answered:  # it is open here
                seen = {name: row[name] for name in ("places", "shown", "fetched")}
                change = sa.update(rounds).where(rounds.c.id == round_ids[row["id"]])
                db.execute(change.values(expired=None, **seen))
                new_rounds.add(row["id"])
        kept = [row for row in rows["answers"] if row["round"] in new_rounds]
        for row in kept:
            _insert(db, answers, row | {"round": round_ids[row["round"]]})
        _follow_stream(db)
        useless = _useless_answers(db) - useless
        store.count_taken(db, set(triplet_ids.values()))
    demoted = len(changed & {row["triplet"] for row in copied if row["id"] in new_rounds})
    rater_of = {row["id"]: row["rater"] for row in copied}
    merged = {row["id"] for row in new} | {rater_of[row["round"]] for row in kept}
    lines = [f"merged {len(kept)} answers of {len(merged)} raters"]
    skipped = len(rows["raters"]) - len(merged)
    if skipped:
        lines.append(f"skipped {skipped} raters who are here already")
    if demoted:
        lines.append(f"{demoted} triplets of a test stream were training ones in the other survey")
    if useless > 0:
        lines.append(
            f"{useless} training answers share a song with the test stream of the other survey, so "
            "that they cannot be trained on"
        )
    return lines


def _useless_answers(db: sa.Connection) -> int:
    """How many training answers are about a track that the test stream asks about too."""
    query = sa.select(triplets.c.stream, triplets.c.a, triplets.c.b, triplets.c.c)
    rows = [tuple(row) for row in db.execute(query.join(rounds).join(answers))]
    tested = {track for stream, *tracks in rows if stream == "random" for track in tracks}
    return sum(
        stream in ("active", "random_train") and not tested.isdisjoint(tracks)
        for stream, *tracks in rows
    )


def _rounds_here(db: sa.Connection) -> dict[tuple[int, int, bool], tuple[int, bool]]:
    """(id, whether it is answered) of every round, by (rater, triplet, whether it repeats)."""
    query = sa.select(rounds, answers.c.id.label("answer")).join_from(rounds, answers, isouter=True)
    return {
        (row.rater, row.triplet, row.repeats is not None): (row.id, row.answer is not None)
        for row in db.execute(query)
    }


def _insert(db: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    values = {key: value for key, value in row.items() if key != "id"}
    key = db.execute(sa.insert(table).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _take_triplet(db: sa.Connection, row: Mapping[str, Any]) -> tuple[int, bool]:
    """The id of the same triplet here, and whether it left the test stream."""
    same = [triplets.c[name] == row[name] for name in "abc"]
    found = db.execute(sa.select(triplets).where(*same)).first()
    if found is None:
        return _insert(db, triplets, row), False
    streams = {found.stream, row["stream"]}
    if "random" not in streams or len(streams) == 1:
        return int(found.id), False
    training = (streams - {"random"}).pop()
    db.execute(sa.update(triplets).where(triplets.c.id == found.id).values(stream=training))
    return int(found.id), True


def _follow_stream(db: sa.Connection) -> None:
    """Test rounds of triplets that left the test stream become training rounds, drawn at random."""
    left = sa.select(triplets.c.id).where(triplets.c.stream.in_(["active", "random_train"]))
    change = sa.update(rounds).where(rounds.c.kind == "random", rounds.c.triplet.in_(left))
    db.execute(change.values(kind="random_train"))
