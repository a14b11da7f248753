"""The store on both databases: each answer once, undo, deletion, expiry, and the schema."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from survey.clips import ClipLibrary
from survey.config import Shares, SurveyError
from survey.database import store as store_module
from survey.database.schema import answers, metadata, migrate, open_database, rounds, triplets
from survey.database.store import Conflict, ListenedTooBriefly, NoSuchRound, Rater, Store
from survey.rounds.assign import Assigner

from .conftest import CONFIG

LISTENED_S = [5.0, 5.0, 5.0]


def begin(store: Store, assigner: Assigner, count: int = 2) -> tuple[Rater, list]:
    """A rater with open rounds, the first of them shown."""
    rater = store.add_rater("headphones", "", "")
    found = assigner.rounds(rater, count)
    store.show(found[0])
    return rater, found


def rows(store: Store, table: sa.Table) -> list[dict]:
    """A table's rows."""
    with store.read() as db:
        return [dict(r) for r in db.execute(sa.select(table).order_by(table.c.id)).mappings()]


def test_an_answer_is_stored_with_what_was_chosen(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    stored = store.answer(rater, found[0].token, 2, [3.5, 4.0, 9.25])
    assert stored.answered == 1
    assert stored.current is not None and stored.current.token == found[1].token
    (row,) = rows(store, answers)
    first = rows(store, rounds)[0]
    triplet = next(t for t in rows(store, triplets) if t["id"] == first["triplet"])
    assert found[0].clips[2][0] == triplet["abc"[row["odd"]]]
    assert (row["place"], row["listened_0_s"], row["listened_2_s"]) == (2, 3.5, 9.25)
    assert row["answered"].tzinfo is not None


def test_sent_twice_is_stored_once(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    first = store.answer(rater, found[0].token, 0, LISTENED_S)
    again = store.answer(rater, found[0].token, 0, LISTENED_S)
    assert again == first
    assert len(rows(store, answers)) == 1
    with pytest.raises(Conflict, match="answered already"):
        store.answer(rater, found[0].token, None, LISTENED_S)


def test_sent_by_many_at_once_is_stored_once(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    gate = threading.Barrier(8)
    counts: list[int] = []

    def send() -> None:
        gate.wait()
        counts.append(store.answer(rater, found[0].token, 1, LISTENED_S).answered)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1] * 8
    assert len(rows(store, answers)) == 1


def test_only_the_current_round_of_its_own_rater(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    other = store.add_rater("", "", "")
    with pytest.raises(NoSuchRound):
        store.answer(other, found[0].token, 0, LISTENED_S)
    with pytest.raises(Conflict, match="not the current"):
        store.answer(rater, found[1].token, 0, LISTENED_S)
    assert store.clip_of(found[0].clips_token, other, 0) is None
    assert store.clip_of(found[0].clips_token, rater, 0) == found[0].clips[0]
    assert rows(store, answers) == []


def test_listened_too_briefly_does_not_count(
    store: Store, assigner: Assigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seconds each by the page's count, and nine on the server's own clock."""
    strict = Store(store.engine, min_listened_s=3.0)
    start = store_module.now()
    clock = [start]
    monkeypatch.setattr(store_module, "now", lambda: clock[0])
    rater, found = begin(strict, assigner)
    for current in found:
        for place in range(3):
            strict.clip_of(current.clips_token, rater, place)
    clock[0] = start + store_module.timedelta(seconds=60)
    with pytest.raises(ListenedTooBriefly):
        strict.answer(rater, found[0].token, 0, [9.0, 2.9, 9.0])
    clock[0] = start + store_module.timedelta(seconds=8.9)
    with pytest.raises(ListenedTooBriefly):
        strict.answer(rater, found[0].token, 0, [3.0, 3.0, 3.0])
    assert rows(store, answers) == []
    clock[0] = start + store_module.timedelta(seconds=9.1)
    strict.answer(rater, found[0].token, 0, [3.0, 3.0, 3.0])
    # The next round counts as shown from here on, although it was assigned with the first.
    clock[0] = start + store_module.timedelta(seconds=18)
    with pytest.raises(ListenedTooBriefly):
        strict.answer(rater, found[1].token, 0, [3.0, 3.0, 3.0])


def test_undo_reopens_the_round_and_refuses_a_late_copy(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    store.answer(rater, found[0].token, 0, LISTENED_S)
    assert store.last_answered(rater) == found[0].token
    assert store.undo(rater, found[1].token) is False
    assert store.undo(rater, found[0].token) is True
    assert store.undo(rater, found[0].token) is False
    assert rows(store, answers) == []
    with pytest.raises(NoSuchRound):
        store.answer(rater, found[0].token, 0, LISTENED_S)
    reopened = assigner.rounds(rater, 1)[0]
    assert (reopened.id, reopened.clips) == (found[0].id, found[0].clips)
    with pytest.raises(Conflict):  # it must be shown and listened to again
        store.answer(rater, reopened.token, 1, LISTENED_S)
    store.show(reopened)
    assert store.answer(rater, reopened.token, 1, LISTENED_S).answered == 1


def test_deleting_leaves_nothing_and_reopens_triplets(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    other, others = begin(store, assigner)
    store.answer(rater, found[0].token, 0, LISTENED_S)
    store.answer(other, others[0].token, 0, LISTENED_S)
    assert store.delete_rater(rater) == 1
    assert store.rater(rater.name) is None
    assert {r["rater"] for r in rows(store, rounds)} == {other.id}
    assert len(rows(store, answers)) == 1
    taken = {t["id"]: t["taken"] for t in rows(store, triplets)}
    for key, count in taken.items():
        assert count == sum(r["triplet"] == key for r in rows(store, rounds))


def test_what_is_stored_of_a_rater_can_be_read(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    store.answer(rater, found[0].token, None, LISTENED_S)
    person, given = store.all_of(rater)
    assert person["headphones"] == "headphones" and person["name"] == rater.name
    assert given[0]["odd"] is None and {given[0][k] for k in "abc"} == {
        track for track, _ in found[0].clips
    }


def test_unanswered_rounds_expire(store: Store, assigner: Assigner) -> None:
    rater, found = begin(store, assigner)
    store.answer(rater, found[0].token, 0, LISTENED_S)
    assert store.expire(hours=1) == 0
    assert store.expire(hours=-1) == 1  # the open one; the answered one stays
    with store.read() as db:
        assert store.open_rounds(db, rater) == []
    assert sum(t["taken"] for t in rows(store, triplets)) == 1
    assert store.expire(hours=-1) == 0
    # An answer that a browser kept without a connection is stored all the same.
    assert store.answer(rater, found[1].token, 1, LISTENED_S).answered == 2
    assert sum(t["taken"] for t in rows(store, triplets)) == 2


def test_an_answer_needs_the_clips_to_have_been_sent(
    store: Store, assigner: Assigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Store(store.engine, min_listened_s=3.0)
    start = store_module.now()
    clock = [start]
    monkeypatch.setattr(store_module, "now", lambda: clock[0])
    rater, found = begin(strict, assigner)
    clock[0] = start + store_module.timedelta(seconds=60)
    for place in (0, 1, 1):
        strict.clip_of(found[0].clips_token, rater, place)
        with pytest.raises(ListenedTooBriefly, match="clips were loaded"):
            strict.answer(rater, found[0].token, 0, LISTENED_S)
    strict.clip_of(found[0].clips_token, rater, 2)
    assert strict.answer(rater, found[0].token, 0, LISTENED_S).answered == 1


def test_exclusion_pause_and_ended_sessions(store: Store) -> None:
    rater = store.add_rater("headphones", "25-34", "none", "choir")
    (person,) = store.people()
    assert (person.name, person.group, person.excluded) == (rater.name, "choir", False)
    assert store.exclude(rater.name, True) and not store.exclude("nobody", True)
    assert store.people()[0].excluded
    assert not store.paused()
    for paused in (True, True, False):
        store.pause(paused)
        assert store.paused() == paused
    assert not store.session_ended("n")
    store.end_session("n")
    store.end_session("n")
    assert store.session_ended("n") and not store.session_ended("m")


def test_an_excluded_rater_takes_no_place(store: Store, library: ClipLibrary) -> None:
    config = replace(CONFIG, shares=Shares(0.0, 1.0, 0.0, 0.0))
    assigner = Assigner(store, library, config, seed=0)

    def answer_one(rater: Rater) -> int:
        current = assigner.rounds(rater, 1)[0]
        store.show(current)
        store.answer(rater, current.token, 0, LISTENED_S)
        return next(r["triplet"] for r in rows(store, rounds) if r["id"] == current.id)

    def taken() -> dict[int, int]:
        return {t["id"]: t["taken"] for t in rows(store, triplets)}

    clicker, *others = (store.add_rater("", "", "") for _ in range(4))
    first = answer_one(clicker)
    for other in others[:2]:
        assert answer_one(other) == first
    assert taken()[first] == 3 and store.coverage() == (1, 1)
    store.exclude(clicker.name, True)
    assert taken()[first] == 2 and store.coverage() == (1, 0)
    later = answer_one(clicker)
    assert taken()[later] == 0  # nor do rounds that are given later
    assert answer_one(others[2]) == first
    assert taken()[first] == 3 and store.coverage() == (1, 1)
    store.exclude(clicker.name, False)
    assert taken()[first] == 4 and store.coverage() == (2, 1)


def test_a_track_missing_from_the_corpus_is_not_asked_again(
    store: Store, assigner: Assigner, library: ClipLibrary
) -> None:
    rater, found = begin(store, assigner)
    gone = found[0].clips[0][0]
    smaller = ClipLibrary(library.folder)
    del smaller.tracks[gone]
    smaller.two_excerpt_tracks = [t for t in smaller.two_excerpt_tracks if t != gone]
    later = Assigner(store, smaller, CONFIG, seed=2)
    with pytest.raises(NoSuchRound):
        store.answer(rater, found[0].token, 0, LISTENED_S)
    for _ in range(5):
        current = later.rounds(rater, 1)[0]
        assert gone not in {track for track, _ in current.clips}
        store.show(current)
        store.answer(rater, current.token, 0, LISTENED_S)


def test_the_secret_is_made_once(store: Store) -> None:
    assert store.secret() == store.secret() == Store(store.engine, 0).secret()
    assert len(store.secret()) >= 64


def test_the_migrations_make_the_schema(store: Store) -> None:
    migrate(store.engine)  # once more changes nothing
    with store.engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_a_newer_schema_is_refused(store: Store) -> None:
    with store.write() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SurveyError, match=r"9999.*newer"):
        migrate(store.engine)


def test_sqlite_waits_for_the_disk(lite: Store) -> None:
    for _ in range(3):
        with lite.read() as db:
            found = {
                name: db.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
            }
        assert found == {
            "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1
        }  # fmt: skip


def test_a_database_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    for url, said in (
        ("mysql://localhost/x", "not on mysql"),
        ("sqlite://", "needs a database file"),
        ("nonsense", "cannot read the database URL"),
        (f"sqlite:///{tmp_path}/no/such/folder/x.db", "cannot open the database"),
    ):
        with pytest.raises(SurveyError, match=said):
            open_database(url)
    with pytest.raises(SurveyError) as caught:
        open_database("postgresql://me:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)


def test_configuration_limits_are_kept(library: ClipLibrary, lite: Store) -> None:
    one = ClipLibrary(library.folder)
    one.tracks = {i: replace(t, artist="One") for i, t in one.tracks.items()}
    with pytest.raises(SurveyError, match="three different artists; there are 1"):
        Assigner(lite, one, CONFIG)
