"""A back-up by one command, and two surveys merged into one."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from datasets_scripts.triplets.table import read_triplets
from survey.cli import main
from survey.clips import ClipLibrary
from survey.config import SurveyError
from survey.database.copies import backup, merge
from survey.database.rows import Rater
from survey.database.schema import answers, migrate, open_database, raters, rounds, triplets
from survey.database.store import Store
from survey.results.export import export
from survey.results.quality import all_answers, qualities
from survey.rounds.assign import Assigner

from .conftest import CONFIG, empty_database

LISTENED_S = [5.0, 5.0, 5.0]


def new_store(folder: Path) -> Store:
    folder.mkdir(parents=True, exist_ok=True)
    engine = open_database(f"sqlite:///{folder / 'survey.db'}")
    migrate(engine)
    return Store(engine, 0.0)


def survey_of(store: Store, library: ClipLibrary, people: int, each: int, seed: int) -> list[Rater]:
    """Raters who answer `each` rounds; the place chosen depends on the seed."""
    assigner = Assigner(store, library, CONFIG, seed=seed)
    found = []
    for number in range(people):
        rater = store.add_rater("headphones", "25-34", "some", f"group {seed}")
        for n in range(each):
            current = assigner.rounds(rater, 2)[0]
            store.show(current)
            store.answer(rater, current.token, (seed + number + n) % 3, LISTENED_S)
        found.append(rater)
    return found


def count(store: Store, table: sa.Table) -> int:
    with store.read() as db:
        return int(db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def facts(store: Store) -> list[tuple[object, ...]]:
    """What an export and a figure need of every answer, without the numbers of rows."""
    found = all_answers(store)
    first = {a.round: (a.abc, a.odd) for a in found}
    return sorted(
        (a.rater, a.when, a.kind, a.abc, a.odd, a.place, a.response_time_s, first.get(a.repeats))
        for a in found
    )


# -- back-up


def test_a_backup_holds_every_answer_and_opens(
    tmp_path: Path, library: ClipLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    store = new_store(tmp_path / "data")
    survey_of(store, library, people=2, each=6, seed=1)
    secret = store.secret()
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    assert main(["backup", str(copy), "--data", str(tmp_path / "data")]) == 0
    assert f"{copy}: 12 answers" in capsys.readouterr().out
    assert [p.name for p in copy.parent.iterdir()] == ["copy.db"]
    again = Store(open_database(f"sqlite:///{copy}"), 0.0)
    assert facts(again) == facts(store)
    assert again.secret() == secret  # private links and cookies still work
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert main(["backup", str(copy), "--data", str(tmp_path / "data")]) == 2
    assert "exists already; name a new file" in capsys.readouterr().err


def test_a_backup_under_way_is_of_one_moment(tmp_path: Path, library: ClipLibrary) -> None:
    """Of answers that arrive meanwhile, it holds the first n, each with its round and rater."""
    store = new_store(tmp_path / "data")
    survey_of(store, library, people=1, each=3, seed=0)
    done = threading.Event()

    def keep_answering() -> None:
        while not done.is_set():
            survey_of(store, library, people=1, each=3, seed=2)

    answering = threading.Thread(target=keep_answering)
    answering.start()
    try:
        for number in range(5):
            copy = tmp_path / f"copy{number}.db"
            backup(store, copy)
            with closing(sqlite3.connect(copy)) as db:
                assert db.execute("PRAGMA foreign_key_check").fetchall() == []
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (answered,) = db.execute("SELECT count(*) FROM answers").fetchone()
                ids = [i for (i,) in db.execute("SELECT id FROM answers ORDER BY id")]
            assert answered >= 3 and ids == list(range(1, answered + 1))
    finally:
        done.set()
        answering.join()


def test_there_is_nothing_to_back_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", str(tmp_path / "c.db"), "--data", str(tmp_path)]) == 2
    assert "there are no answers in" in capsys.readouterr().err
    assert not (tmp_path / "c.db").exists()


def test_postgresql_is_backed_up_by_its_own_program(tmp_path: Path, postgres: str) -> None:
    empty_database(postgres)
    engine = open_database(postgres)
    migrate(engine)
    with pytest.raises(SurveyError, match="pg_dump"):
        backup(Store(engine, 0.0), tmp_path / "copy.db")
    engine.dispose()


# -- merge


def test_two_surveys_become_one(
    tmp_path: Path, store: Store, library: ClipLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    other = new_store(tmp_path / "other")
    survey_of(store, library, people=2, each=9, seed=1)
    survey_of(other, library, people=3, each=9, seed=2)
    excluded = other.people()[0].name
    other.exclude(excluded, True)
    before, added = facts(store), facts(other)
    open_rounds = count(store, rounds) - count(store, answers)
    said = merge(store, other.engine)
    assert said[0] == "merged 27 answers of 3 raters"
    merged = facts(store)
    assert len(merged) == 45
    # Only a test round of a triplet that the other survey trained on changes its kind.
    assert [row[:2] + row[3:] for row in merged] == sorted(
        row[:2] + row[3:] for row in [*before, *added]
    )
    demoted = {"random", "random_train"}
    for row in [*before, *added]:
        now = next(m for m in merged if m[:2] == row[:2] and m[3] == row[3])
        assert now[2] == row[2] or {now[2], row[2]} == demoted
    assert count(store, rounds) - count(store, answers) == open_rounds  # open ones stay behind
    people = {p.name: p for p in store.people()}
    assert people[excluded].excluded and people[excluded].group == "group 2"
    theirs, ours = qualities(all_answers(other)), qualities(all_answers(store))
    assert all(ours[name] == theirs[name] for name in theirs)  # gold and repeats, too
    # No triplet is in both streams, and the exports agree on what may be trained on.
    export(store, tmp_path / "all.parquet")
    table = read_triplets(tmp_path / "all.parquet")
    streams: dict[frozenset[str], set[bool]] = {}
    for t in table:
        streams.setdefault(frozenset(t.ids), set()).add(t.source == "survey-random")
    assert all(len(found) == 1 for found in streams.values())
    assert not {t.rater for t in table} & {excluded}


def test_a_merge_says_which_training_answers_it_makes_useless(
    tmp_path: Path, store: Store, library: ClipLibrary
) -> None:
    other = new_store(tmp_path / "other")
    survey_of(store, library, people=1, each=9, seed=1)
    survey_of(other, library, people=1, each=2, seed=2)
    with store.read() as db:
        tested = db.execute(
            sa.select(triplets.c.a).join(rounds).join(answers).where(triplets.c.stream == "random")
        ).scalar()
    assert tested is not None
    with other.write() as db:  # two training answers; one is about a song that is tested here
        answered = sa.select(triplets.c.id).join(rounds).join(answers).order_by(triplets.c.id)
        for n, key in enumerate(db.execute(answered).scalars().all()):
            tracks = {"a": tested if n == 0 else f"{n}a", "b": f"{n}b", "c": f"{n}c"}
            change = sa.update(triplets).where(triplets.c.id == key)
            db.execute(change.values(stream="random_train", **tracks))
    assert merge(store, other.engine)[1:] == [
        "1 training answers share a song with the test stream of the other survey, so that they "
        "cannot be trained on"
    ]
    assert merge(store, other.engine)[1:] == ["skipped 1 raters who are here already"]


def test_a_second_merge_adds_nothing(tmp_path: Path, store: Store, library: ClipLibrary) -> None:
    other = new_store(tmp_path / "other")
    survey_of(other, library, people=2, each=5, seed=3)
    merge(store, other.engine)
    once = facts(store)
    assert merge(store, other.engine) == [
        "merged 0 answers of 0 raters",
        "skipped 2 raters who are here already",
    ]
    assert facts(store) == once
    survey_of(other, library, people=1, each=5, seed=4)
    assert merge(store, other.engine)[0] == "merged 5 answers of 1 raters"


def test_a_later_merge_brings_what_known_raters_answered_since(
    tmp_path: Path, store: Store, library: ClipLibrary
) -> None:
    other = new_store(tmp_path / "other")
    first, second = survey_of(other, library, people=2, each=5, seed=3)
    merge(store, other.engine)
    assigner = Assigner(other, library, CONFIG, seed=9)
    for n in range(6):
        current = assigner.rounds(first, 2)[0]
        other.show(current)
        other.answer(first, current.token, n % 3, LISTENED_S)
    assert merge(store, other.engine)[:2] == [
        "merged 6 answers of 1 raters",
        "skipped 1 raters who are here already",
    ]
    assert facts(store) == facts(other) and len(facts(store)) == 16
    for found in qualities(all_answers(store)), qualities(all_answers(other)):
        assert set(found) == {first.name, second.name}
    assert qualities(all_answers(store)) == qualities(all_answers(other))


def test_a_round_that_a_copy_left_open_is_answered_by_a_merge(
    tmp_path: Path, library: ClipLibrary
) -> None:
    """A backup is served in another place, while raters go on in the first."""
    store = new_store(tmp_path / "data")
    (rater,) = survey_of(store, library, people=1, each=3, seed=1)
    backup(store, tmp_path / "copy.db")
    copy = Store(open_database(f"sqlite:///{tmp_path / 'copy.db'}"), 0.0)
    assigner = Assigner(store, library, CONFIG, seed=1)
    for n in range(4):  # the first of them was open when the copy was made
        current = assigner.rounds(rater, 2)[0]
        store.show(current)
        store.answer(rater, current.token, n % 3, LISTENED_S)
    assert merge(copy, store.engine) == ["merged 4 answers of 1 raters"]
    assert facts(copy) == facts(store)
    assert merge(copy, store.engine)[0] == "merged 0 answers of 0 raters"


def test_the_survey_goes_on_after_a_merge(
    tmp_path: Path, store: Store, library: ClipLibrary
) -> None:
    """Merged answers count for the number of raters of a triplet."""
    other = new_store(tmp_path / "other")
    survey_of(other, library, people=2, each=8, seed=5)
    merge(store, other.engine)
    with store.read() as db:
        rows = db.execute(sa.select(triplets)).all()
        for row in rows:
            given = sa.select(sa.func.count()).where(
                rounds.c.triplet == row.id, rounds.c.kind != "repeat"
            )
            assert db.execute(given).scalar() == row.taken
    survey_of(store, library, people=1, each=8, seed=6)
    assert len(facts(store)) == 24


def test_the_command_merges_a_file_of_an_earlier_version(
    tmp_path: Path, library: ClipLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    survey_of(new_store(tmp_path / "one"), library, people=1, each=4, seed=1)
    survey_of(new_store(tmp_path / "two"), library, people=1, each=4, seed=2)
    file = str(tmp_path / "two" / "survey.db")
    assert main(["merge", file, "--data", str(tmp_path / "one")]) == 0
    assert "merged 4 answers of 1 raters" in capsys.readouterr().out
    assert main(["merge", str(tmp_path / "no.db"), "--data", str(tmp_path / "one")]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert not (tmp_path / "no.db").exists()
    (tmp_path / "x.db").write_text("not a database")
    assert main(["merge", str(tmp_path / "x.db"), "--data", str(tmp_path / "one")]) == 2
    assert "file is not a database" in capsys.readouterr().err
    with new_store(tmp_path / "one").read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(raters)).scalar() == 2
