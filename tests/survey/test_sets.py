"""The end of a set: agreement, streak and map; the link to share; the poster."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from survey.clips import ClipLibrary
from survey.database.rows import Rater
from survey.database.schema import raters, rounds, triplets
from survey.database.store import Store
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.sets import (
    MAX_DOTS,
    Agreement,
    Given,
    TrackMap,
    agreement,
    given_answers,
    last_answer,
    streak_days,
)
from survey.web.site import Survey

from .conftest import CONFIG
from .test_app import Person, app, make

__all__ = ["app", "make"]  # fixtures

LISTENED_S = [4.0, 5.0, 6.0]


def give(store: Store, rater: Rater, triplet: int, odd: int | None, kind: str = "random") -> None:
    """Stores an answer by the odd track's index, with the clips in the order a, b, c."""
    with store.write() as db:
        store.add_round(db, rater, triplet, kind)
        newest = sa.select(sa.func.max(rounds.c.id)).where(rounds.c.rater == rater.id)
        key = db.execute(newest).scalar()
        db.execute(sa.update(rounds).where(rounds.c.id == key).values(places="012"))
    current = next(r for r in _open(store, rater) if r.id == key)
    store.show(current)
    store.answer(rater, current.token, odd, LISTENED_S)


def _open(store: Store, rater: Rater) -> list[Any]:
    with store.read() as db:
        return store.open_rounds(db, rater)


@pytest.fixture
def three(lite: Store) -> list[int]:
    """The ids of three triplets."""
    from survey.database.rows import now

    keys = []
    with lite.write() as db:
        for number in range(3):
            row = {"a": f"a{number}", "b": f"b{number}", "c": f"c{number}"}
            more = {"stream": "random", "quota": 9, "taken": 0, "created": now()}
            made = db.execute(sa.insert(triplets).values(row | more)).inserted_primary_key
            assert made is not None
            keys.append(made[0])
    return keys


def test_agreement_counts_the_majority_of_the_others(lite: Store, three: list[int]) -> None:
    me, *others = (lite.add_rater("", "", "") for _ in range(4))
    for triplet in three:
        give(lite, me, triplet, 0)
    assert agreement(lite, me.id, given_answers(lite, me.id)) == Agreement(0, 0)
    for rater, odd in zip(others, (0, 0, 1), strict=True):
        give(lite, rater, three[0], odd)  # two of three agree
    give(lite, others[0], three[1], 2)  # nobody agrees
    give(lite, others[0], three[2], None)  # "can't tell" is no vote
    give(lite, others[1], three[2], 0, "repeat")  # and neither is a repeat
    assert agreement(lite, me.id, given_answers(lite, me.id)) == Agreement(1, 2)
    give(lite, others[1], three[1], 0)  # a tie
    assert agreement(lite, me.id, given_answers(lite, me.id)) == Agreement(2, 2)


def test_last_answer_is_what_an_undo_brings_back(lite: Store, three: list[int]) -> None:
    me = lite.add_rater("", "", "")
    assert last_answer(lite, me) is None
    give(lite, me, three[0], 1)
    give(lite, me, three[1], None)
    newest = last_answer(lite, me)
    assert newest is not None
    assert (newest["place"], newest["listened_s"]) == (None, LISTENED_S)
    assert newest["round"] == lite.last_answered(me)
    lite.undo(me, newest["round"])
    before = last_answer(lite, me)
    assert before is not None and before["place"] == 1


def answer_on(day: date, tracks: tuple[str, str, str] = ("a", "b", "c"), place: int = 0) -> Given:
    return Given(1, "random", tracks, place, 0, (4.0, 4.0, 4.0), "t", day)


@pytest.mark.parametrize(
    ("ago", "streak"), [([], 0), ([0], 1), ([1], 1), ([2], 0), ([0, 1, 2, 4], 3), ([1, 2, 3], 3)]
)
def test_streak(ago: list[int], streak: int) -> None:
    today = date(2026, 3, 1)
    given = [answer_on(today - timedelta(days=n)) for n in ago for _ in range(2)]
    assert streak_days(given, today) == streak


def test_the_map_keeps_neighbours_and_joins_what_was_left_together() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(-5, 0.1, (20, 8)), rng.normal(5, 0.1, (20, 8))])
    ids = [f"t{n}" for n in range(40)]
    made = TrackMap((ids, vectors[None].astype(np.float32)))
    points = np.array([made.places[i] for i in ids])
    assert points.min() >= 3 and points.max() <= 97
    near = np.linalg.norm(points[0] - points[:20], axis=1).max()
    far = np.linalg.norm(points[0] - points[20:], axis=1).min()
    assert far > 60 and near < far / 2
    day = date(2026, 3, 1)
    given = [
        answer_on(day, ("t0", "t1", "t2"), place=1),
        answer_on(day, ("t0", "unknown", "t2"), place=0),
        replace(answer_on(day, ("t0", "t1", "t2")), place=None),
        replace(answer_on(day, ("t0", "t0", "t2")), kind="gold"),
    ]
    assert made.taste(given).pairs == [(*made.places["t0"], *made.places["t2"])]
    many = TrackMap(([str(n) for n in range(5000)], rng.normal(size=(2, 5000, 4))))
    assert len(many.dots) <= MAX_DOTS


@pytest.fixture
def mapped(lite: Store, library: ClipLibrary) -> Any:
    """The application with sets of two answers, and embeddings."""
    config = replace(CONFIG, goal=2)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, len(library.tracks), 8)).astype(np.float32)
    assigner = Assigner(lite, library, config, (list(library.tracks), vectors), seed=0)
    return create_app(Survey(config, lite, library, assigner))


def test_a_sets_end(mapped: Any, library: ClipLibrary) -> None:
    person = Person(mapped)
    assert person.http.get("/sets/1").headers["location"] == "/"
    person.start()
    person.answer(person.rounds()[0]["token"], 0)
    assert person.http.get("/sets/1").headers["location"] == "/round"  # it is not done
    person.answer(person.rounds()[0]["token"], 1)
    page = person.text("/sets/1")
    assert "Set 1 is done" in page and "2 of 2 answered" in page
    assert page.count("CC0-1.0") == 6 and page.count('class="odd"') == 2
    assert page.count('<circle class="dot"') == len(library.tracks)
    assert "Set 1</a>" in person.text("/me")
    shared = re.search(r'value="http://testserver(/s/[^"]+)"', page)
    assert shared
    guest = Person(mapped)
    seen = guest.text(shared[1])
    assert '<circle class="dot"' in seen and 'property="og:image"' in seen
    name = person.http.get("/me.json").json()["rater"]["name"]
    assert name not in seen and "Song " not in seen
    assert guest.http.get("/round").headers["location"] == "/"  # nobody was signed in
    assert guest.http.get(shared[1][:-3] + "abc").status_code == 404
    private = re.search(r'value="http://testserver/back/([^"]+)"', person.text("/me"))
    assert private and guest.http.get(f"/s/{private[1]}").status_code == 404
    assert guest.http.get(shared[1].replace("/s/", "/back/")).status_code == 404
    form = {"csrf": person.csrf("/me"), "sure": "yes"}
    person.http.post("/me/delete", data=form)
    assert guest.http.get(shared[1]).status_code == 404


def test_a_shared_link_ends_with_its_rater(mapped: Any, lite: Store) -> None:
    """SQLite gives the id of a deleted rater to the next one."""
    found = []
    for _ in range(2):
        person = Person(mapped)
        person.start()
        for place in range(2):
            person.answer(person.rounds()[0]["token"], place)
        found.append(re.search(r'value="http://testserver(/s/[^"]+)"', person.text("/sets/1")))
        with lite.read() as db:
            assert db.execute(sa.select(raters.c.id)).scalars().all() == [1]
        if len(found) == 1:
            person.http.post("/me/delete", data={"csrf": person.csrf("/me"), "sure": "yes"})
    first, second = found
    assert first and second
    assert Person(mapped).http.get(second[1]).status_code == 200
    assert Person(mapped).http.get(first[1]).status_code == 404
    site = mapped.state.site
    for payload in ([1, 1], [1, 1, "x"], [2, 1, "x"]):  # of an earlier version, and of no rater
        assert site.shared_set(site._shares.dumps(payload)) is None


def test_addresses_of_sets_that_cannot_be(mapped: Any) -> None:
    person = Person(mapped)
    person.start()
    assert person.http.get("/sets/0").status_code == 422
    assert person.http.get("/sets/x").status_code == 422
    assert person.http.get("/sets/7").headers["location"] == "/round"


def test_practice_is_two_of_one_track_and_another_artist(app: Any, library: ClipLibrary) -> None:
    clips = app.state.site.practice
    (first, second, odd) = (track for track, _ in clips)
    assert first == second and [excerpt for _, excerpt in clips] == [0, 1, 0]
    assert library.tracks[first].artist_key != library.tracks[odd].artist_key
    assert not library.tracks[first].genres & library.tracks[odd].genres
    person = Person(app)
    assert person.http.get("/practice/0.ogg").status_code == 401
    person.start()
    assert 'data-practice="{' in person.text("/round")
    contents = [person.http.get(f"/practice/{place}.ogg").content for place in range(3)]
    assert len(set(contents)) == 3 and min(map(len, contents)) > 10_000
    assert person.http.get("/practice/3.ogg").status_code == 422
    person.answer(person.rounds()[0]["token"])
    assert 'data-practice=""' in person.text("/round")  # only before the first answer


def test_a_round_counts_as_shown_after_the_practice(app: Any, lite: Store) -> None:
    person = Person(app)
    person.start()
    person.text("/round")
    with lite.read() as db:
        assert db.execute(sa.select(rounds.c.shown)).scalars().all() == [None]
    person.rounds()
    with lite.read() as db:
        assert db.execute(sa.select(rounds.c.shown).order_by(rounds.c.id)).scalars().first()


def test_practice_without_a_second_excerpt(lite: Store, library: ClipLibrary) -> None:
    plain = ClipLibrary(library.folder)
    plain.two_excerpt_tracks = []
    site = create_app(Survey(CONFIG, lite, plain, Assigner(lite, plain, CONFIG))).state.site
    assert [excerpt for _, excerpt in site.practice] == [0, 0, 0]
    assert site.practice[0] == site.practice[1] != site.practice[2]


def test_the_poster_shows_the_public_address(make: Callable[..., Any], tmp_path: Any) -> None:
    person = Person(make(replace(CONFIG, public_url="https://music.example/")))
    assert '<p class="address">https://music.example</p>' in person.text("/poster")
    reply = person.http.get("/qr.svg")
    assert reply.headers["content-type"] == "image/svg+xml"
    assert reply.text.lstrip().startswith("<?xml") and "<path" in reply.text
    other = Person(make()).http.get("/qr.svg")
    assert other.text != reply.text
    assert "script" not in reply.text
    invited = person.http.get("/qr.svg?invite=open%20day%26")
    assert invited.text not in (reply.text, person.http.get("/qr.svg?invite=open").text)
    page = person.text("/poster?invite=open%20day%26")
    assert '<p class="address">https://music.example/?invite=open+day%26</p>' in page
    (image,) = re.findall(r'src="(/qr.svg[^"]*)"', page)
    assert person.http.get(image).text == invited.text
    assert person.http.get("/poster?invite=" + "x" * 41).status_code == 422
    long = Person(make(), base="http://" + "a" * 3000)
    assert long.http.get("/qr.svg").status_code == 400
