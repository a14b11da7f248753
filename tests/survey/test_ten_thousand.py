"""Ten thousand answers: the owner's page, the shares and quotas, and how fast rounds are given."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from survey.clips import ClipLibrary, LibraryTrack
from survey.config import Shares
from survey.database.rows import now
from survey.database.schema import answers, rounds, triplets
from survey.database.store import Store
from survey.results.quality import all_answers
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.site import Survey

from .conftest import CONFIG
from .simulated import answer_rounds
from .test_app import Person

SONGS, RATERS, ANSWERS = 1000, 50, 10_000
OWNER = "the-owner-of-these-tests"
QUOTAS = {"active": 2, "random": 3, "gold": 4}


@pytest.fixture
def wide(library: ClipLibrary) -> ClipLibrary:
    """A thousand tracks of two hundred artists, without clips: four fifths train, a tenth tests."""
    made = ClipLibrary(library.folder)
    ids = [f"{n:016x}" for n in range(SONGS)]
    split = ["train"] * 8 + ["unused", "test"]
    made.tracks = {
        i: LibraryTrack(i, i, f"Artist {n // 5}", "", frozenset(), "", "", split[n // 5 % 10])
        for n, i in enumerate(ids)
    }
    made.two_excerpt_tracks = ids[:50]
    return made


@pytest.fixture
def vectors() -> np.ndarray:
    """(1, tracks, 32), of length about 1."""
    return np.random.default_rng(0).normal(size=(1, SONGS, 32)) / np.sqrt(32)


def fill(store: Store, library: ClipLibrary) -> None:
    """Writes ANSWERS answers of RATERS raters in the default shares, four minutes apart."""
    rng = np.random.default_rng(0)
    raters = [store.add_rater("headphones", "", "", "choir").id for _ in range(RATERS)]
    tracks = {s: [i for i, t in library.tracks.items() if t.split == s] for s in ("train", "test")}
    kinds = rng.choice(list(QUOTAS), p=[0.63, 0.32, 0.05], size=ANSWERS)
    begun = now() - timedelta(minutes=4 * ANSWERS)
    asked: set[tuple[str, ...]] = set()
    rows: dict[sa.Table, list[dict[str, Any]]] = {triplets: [], rounds: [], answers: []}
    for kind in kinds:
        pool = tracks["test" if kind == "random" else "train"]
        a, b, c = sorted(str(i) for i in rng.choice(pool, 3, replace=False))
        abc = (a, a, c) if kind == "gold" else (a, b, c)
        if abc in asked:
            continue
        asked.add(abc)
        quota, number = QUOTAS[kind], len(asked)
        names = dict(zip("abc", abc, strict=True))
        state = {"stream": kind, "quota": quota, "taken": quota, "created": begun}
        rows[triplets].append({"id": number, **names, **state})
        for rater in rng.choice(raters, quota, replace=False):
            key = len(rows[rounds]) + 1
            when = begun + timedelta(minutes=4 * key)
            rows[rounds].append(
                {"id": key, "token": f"r{key}", "clips_token": f"c{key}", "rater": int(rater),
                 "triplet": number, "kind": kind, "places": "012", "assigned": begun,
                 "shown": begun, "fetched": 7}
            )  # fmt: skip
            place = int(rng.choice(3, p=[0.2, 0.2, 0.6]))
            rows[answers].append(
                {"round": key, "odd": place, "place": place, "listened_0_s": 4.0,
                 "listened_1_s": 4.0, "listened_2_s": 4.0, "answered": when,
                 "response_time_s": float(rng.gamma(4, 8))}
            )  # fmt: skip
        if len(rows[answers]) >= ANSWERS:
            break
    with store.write() as db:
        for table, values in rows.items():
            db.execute(sa.insert(table), values)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the processor's seconds: other programs of the machine do not count."""
    begun = time.process_time()
    found = action()
    return found, time.process_time() - begun


@pytest.mark.slow
def test_the_owners_page_of_ten_thousand_answers_takes_less_than_a_second(
    lite: Store, wide: ClipLibrary, vectors: np.ndarray
) -> None:
    fill(lite, wide)
    assigner = Assigner(lite, wide, CONFIG, (list(wide.tracks), vectors), seed=0)
    site = create_app(Survey(CONFIG, lite, wide, assigner, OWNER))
    owner = Person(site)
    owner.http.post("/owner", data={"csrf": owner.csrf("/owner"), "token": OWNER})
    taken = []
    for _ in range(3):
        site.state.site.reports.forget()
        begun = time.perf_counter()
        page, seconds = timed(lambda: owner.text("/owner"))
        taken.append(seconds)
        print(f"{seconds:.2f} s of the processor, {time.perf_counter() - begun:.2f} s in all")
    assert min(taken) < 1.0
    found = len(all_answers(lite))
    assert ANSWERS <= found < ANSWERS + 4 and f"<strong>{found}</strong>" in page
    for text in ("Krippendorff", "Ceiling", "Current model", "Coverage", "Forecast", "choir"):
        assert text in page
    assert page.count('name="rater"') == RATERS


@pytest.mark.slow
def test_shares_and_quotas_of_many_raters(
    lite: Store, wide: ClipLibrary, vectors: np.ndarray
) -> None:
    """After ten thousand answers by others, ten raters answer two hundred rounds each."""
    fill(lite, wide)
    with lite.read() as db:
        last = int(db.execute(sa.select(sa.func.max(rounds.c.id))).scalar_one())
    config = replace(CONFIG, shares=Shares(), repeat_after=8)
    assigner = Assigner(lite, wide, config, (list(wide.tracks), vectors), seed=0)
    latent = dict(zip(wide.tracks, vectors[0], strict=True))
    rng = np.random.default_rng(0)
    raters = [lite.add_rater("", "", "") for _ in range(10)]

    taken = []
    for _ in range(200):
        for rater in raters:
            count, seconds = timed(lambda r=rater: answer_rounds(lite, assigner, r, 1, latent, rng))
            assert count == 1
            taken.append(seconds)
    median, most = 1000 * np.quantile(taken, [0.5, 0.99])
    print(f"a round and its answer: median {median:.1f} ms of the processor, p99 {most:.1f} ms")
    assert most < 50
    given = [a for a in all_answers(lite) if a.round > last]
    kinds = Counter(a.kind for a in given)
    for kind, share in (("active", 0.6), ("random", 0.3), ("repeat", 0.05), ("gold", 0.05)):
        assert kinds[kind] / len(given) == pytest.approx(share, abs=0.03), kind
    times = Counter((a.rater, a.abc) for a in given if a.kind != "repeat")
    assert max(times.values()) == 1
    for kind in ("active", "random"):
        counts = Counter(a.abc for a in given if a.kind == kind)
        assert max(counts.values()) <= QUOTAS[kind]
        finished = sum(n == QUOTAS[kind] for n in counts.values())
        assert finished > 0.9 * len(counts), (kind, finished, len(counts))
