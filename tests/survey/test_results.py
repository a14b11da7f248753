"""The owner's figures on simulated answers with known rates, and the export with its filter."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from datasets_scripts.statistics import wilson_interval
from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.human import read_mecomp
from datasets_scripts.triplets.table import read_triplets
from survey.clips import ClipLibrary
from survey.config import RatersPerTriplet, Shares, SurveyError
from survey.database.store import Store
from survey.results import plots
from survey.results.export import export
from survey.results.quality import (
    Answered,
    Quality,
    all_answers,
    alpha_interval,
    alpha_of,
    as_triplets,
    ceilings,
    model_hits,
    qualities,
    vote_counts,
)
from survey.results.report import (
    Figure,
    ReportCache,
    _agreement,
    _coverage,
    _forecast,
    grouped_figure,
    report,
    share_figure,
)
from survey.rounds.assign import Assigner

from .conftest import CONFIG, make_item

MORNING = datetime(2026, 1, 1, 8, tzinfo=UTC)


def answered(
    number: int,
    rater: str = "r",
    kind: str = "random",
    odd: int | None = 0,
    repeats: int | None = None,
    abc: tuple[str, str, str] = ("a", "b", "c"),
) -> Answered:
    when = MORNING + timedelta(hours=number)
    return Answered(number, rater, kind, abc, odd, odd, 20.0 + number, when, repeats)


def test_quality_of_raters() -> None:
    given = [
        answered(1, "one", odd=0),
        answered(2, "one", odd=1),
        answered(3, "one", "repeat", odd=0, repeats=1),
        answered(4, "one", "repeat", odd=2, repeats=2),
        answered(5, "one", "repeat", odd=2, repeats=99),  # its first answer was undone
        answered(6, "one", "gold", odd=2),
        answered(7, "one", "gold", odd=0),
        answered(8, "one", "gold", odd=None),
        answered(9, "two", odd=None),
        answered(10, "two", "repeat", odd=None, repeats=9),
    ]
    found = qualities(given)
    assert (found["one"].gold_accuracy, found["one"].consistency) == (1 / 3, 0.5)
    assert (found["two"].gold_accuracy, found["two"].consistency) == (None, 1.0)


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (5, 5), (9, 12), (120, 300)])
def test_a_share_is_shown_with_its_wilson_interval(hits: int, total: int) -> None:
    """The interval by the formula of E. B. Wilson (1927), equation 5."""
    z = 1.959964
    p, zz = hits / total, z * z / total
    half = z * np.sqrt(p * (1 - p) / total + zz / (4 * total))
    low, high = (max(0.0, (p + zz / 2 + sign * half) / (1 + zz)) for sign in (-1, 1))
    note = f"{low:.0%} to {high:.0%}, {total} rounds"
    assert share_figure("Name", hits, total, "rounds") == Figure("Name", f"{p:.0%}", note)
    assert share_figure("Name", 0, 0, "rounds") == Figure("Name", "–", "rounds: none yet")


def test_the_model_is_scored_on_the_random_stream_alone() -> None:
    vectors = np.array([[[1.0, 0], [1, 0], [0, 1]]])  # c is the odd one
    given = [
        answered(1, odd=2),
        answered(2, odd=0),
        answered(3, odd=None),
        answered(4, kind="active", odd=2),
        answered(5, kind="gold", odd=2),
        answered(6, odd=2, abc=("a", "b", "unknown")),
    ]
    assert model_hits(given, (["a", "b", "c"], vectors), 0.1) == [True, False]
    assert model_hits([], (["a", "b", "c"], vectors), 0.1) == []


def made_answers(noise: float, triplets: int = 150, raters: int = 4, seed: int = 0) -> list:
    """Raters who give a triplet's true answer, or any of the three with probability `noise`."""
    rng = np.random.default_rng(seed)
    given = []
    for n in range(triplets):
        truth = int(rng.integers(3))
        for rater in range(raters):
            odd = int(rng.integers(3)) if rng.random() < noise else truth
            abc = (f"a{n}", f"b{n}", f"c{n}")
            given.append(answered(len(given), f"rater {rater}", odd=odd, abc=abc))
    return given


def test_alpha_and_its_interval_follow_the_noise() -> None:
    """With random answers at rate q, alpha is (1 - q)^2 in expectation."""
    for noise in (0.1, 0.4, 0.8):
        given = made_answers(noise)
        alpha = agreement(as_triplets(given)).alpha
        interval = alpha_interval(vote_counts(given))
        assert alpha is not None and interval is not None
        assert interval[0] < alpha < interval[1]
        assert interval[0] - 0.05 < (1 - noise) ** 2 < interval[1] + 0.05
        assert interval[1] - interval[0] < 0.25
    assert alpha_interval(vote_counts(made_answers(0.1, triplets=1))) is None


def test_the_interval_of_alpha_has_its_nominal_coverage() -> None:
    """40 surveys of 80 triplets: 38 are expected; fewer than 34 have a probability of 1 in 70."""
    held = 0
    for seed in range(40):
        interval = alpha_interval(vote_counts(made_answers(0.4, triplets=80, seed=seed)))
        assert interval is not None
        held += interval[0] <= 0.36 <= interval[1]
    assert held >= 34


# -- the owner's page and the export, on raters with known behaviour


@pytest.fixture
def surveyed(lite: Store, library: ClipLibrary) -> Store:
    """Four raters who answer by one order of the tracks, and one who does not listen."""
    config = replace(
        CONFIG,
        shares=Shares(0.4, 0.3, 0.15, 0.15),
        raters_per_triplet=RatersPerTriplet(active=5, random=5),
    )
    assigner = Assigner(lite, library, config, seed=3)
    order = {track: n for n, track in enumerate(sorted(library.tracks))}
    for person in range(5):
        rater = lite.add_rater("", "", "")
        for n in range(22):
            found = assigner.rounds(rater, 1)
            if not found:
                break
            lite.show(found[0])
            songs = found[0].clips
            tracks = [track for track, _ in songs]
            if len(set(tracks)) == 2:  # a gold round: the distractor
                place: int | None = next(p for p in range(3) if tracks.count(tracks[p]) == 1)
            else:
                place = max(range(3), key=lambda p: order[songs[p][0]])
            if person == 4:  # wrong in every gold round, the first place otherwise
                place = (place + 1) % 3 if len(set(tracks)) == 2 else 0
            elif n == 5 and person == 0:
                place = None
            lite.answer(rater, found[0].token, place, [4.0, 4.0, 4.0])
    return lite


def test_the_report_of_a_survey(surveyed: Store, library: ClipLibrary) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, len(library.tracks), 4))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    made = report(surveyed, (list(library.tracks), vectors), 0.1)
    figures = {f.name: f for f in made.figures}
    given = all_answers(surveyed)
    assert figures["Answers"].value == str(len(given))
    assert figures["Raters"].value == "5"
    assert figures["Krippendorff's alpha"].value != "–"
    assert "random-stream answers" in figures["Current model"].note
    assert {"Answers a day", "Time an answer", "Gold accuracy by rater"} <= {
        p.title for p in made.plots
    }
    empty = [p.title for p in made.plots if "nothing yet" in p.svg]
    assert empty == []


def test_the_report_is_made_anew_once_it_is_old(lite: Store) -> None:
    fresh = ReportCache(lite, None, 0.1)
    assert fresh.get() is fresh.get()
    lite.add_rater("", "", "")
    assert {f.name: f.value for f in fresh.get().figures}["Raters"] == "0"
    stale = ReportCache(lite, None, 0.1, max_age_s=-1)
    first = stale.get()
    lite.add_rater("", "", "")
    assert {f.name: f.value for f in first.figures}["Raters"] == "1"
    assert {f.name: f.value for f in stale.get().figures}["Raters"] == "2"


def test_export_is_the_triplet_table(surveyed: Store, tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    said = export(surveyed, out)
    table = read_triplets(out)
    given = all_answers(surveyed)
    wanted = [a for a in given if a.kind in ("random_train", "random")]
    assert len(table) == len(wanted) > 40
    assert {t.source for t in table} == {"survey-random_train", "survey-random"}
    for row, answer in zip(table, wanted, strict=True):
        assert row.ids == answer.abc and row.rater == answer.rater and row.when == answer.when
        assert row.odd == (None if answer.odd is None else answer.abc[answer.odd])
    assert sum(t.odd is None for t in table) == sum(a.odd is None for a in wanted)
    weights = Counter()
    for t in table:
        if t.odd is not None:
            weights[t.ids] += t.weight
    assert list(weights.values()) == pytest.approx([1.0] * len(weights))
    kinds = Counter(a.kind for a in given)
    assert any(f"{kinds['repeat']} repeats, {kinds['gold']} gold" in line for line in said)
    assert pq.read_schema(out).names == [
        "a", "b", "c", "odd", "source", "rater", "when", "weight"
    ]  # fmt: skip


def test_the_filter_says_what_it_left_out(surveyed: Store, tmp_path: Path) -> None:
    found = qualities(all_answers(surveyed))
    bad = [r for r, q in found.items() if q.gold_accuracy is not None and q.gold_accuracy < 0.9]
    assert len(bad) == 1
    said = export(surveyed, tmp_path / "a.parquet", min_gold_accuracy=0.9)
    table = read_triplets(tmp_path / "a.parquet")
    assert {t.rater for t in table} == set(found) - set(bad)
    (line,) = [s for s in said if "left out rater" in s]
    rows = [a for a in all_answers(surveyed) if a.rater == bad[0]]
    asked = sum(a.kind in ("random_train", "random") for a in rows)
    assert bad[0] in line and f"with {asked} rows" in line and "is below 0.9" in line
    with pytest.raises(SurveyError, match="nothing to export"):
        export(surveyed, tmp_path / "b.parquet", min_gold_accuracy=1.1, min_consistency=1.1)
    assert not (tmp_path / "b.parquet").exists()
    with pytest.raises(SurveyError, match=r"ends in \.parquet or \.csv"):
        export(surveyed, tmp_path / "a.txt")


def test_mecomp_layout(surveyed: Store, tmp_path: Path) -> None:
    export(surveyed, tmp_path / "a.parquet")
    said = export(surveyed, tmp_path / "a.csv")
    table = [t for t in read_triplets(tmp_path / "a.parquet") if t.odd is not None]
    for name, source in (("a.csv", "survey-random_train"), ("a.test.csv", "survey-random")):
        wanted = [t for t in table if t.source == source]
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["song1", "song2", "song3", "anchor", "positive"]
        for row, t in zip(rows, wanted, strict=True):
            songs = [row["song1"], row["song2"], row["song3"]]
            pair = {songs[int(row["anchor"]) - 1], songs[int(row["positive"]) - 1]}
            assert tuple(songs) == t.ids and pair == set(t.ids) - {t.odd}
        assert any(f"{name}: {len(rows)} answers" in line for line in said)
        # The project's own reader takes ids that are no FMA numbers.
        read = read_mecomp(tmp_path / name)
        assert [t.ids for t in read.triplets] == [t.ids for t in wanted] and not read.rejected
    assert any("1 can't tell" in line or "0 can't tell" in line for line in said)


def test_the_test_stream_of_an_earlier_export_does_not_stay(
    lite: Store, library: ClipLibrary, tmp_path: Path
) -> None:
    config = replace(CONFIG, shares=Shares(1.0, 0.0, 0.0, 0.0))
    rater = lite.add_rater("", "", "")
    current = Assigner(lite, library, config, seed=0).rounds(rater, 1)[0]
    lite.show(current)
    lite.answer(rater, current.token, 0, [4.0, 4.0, 4.0])
    (tmp_path / "a.test.csv").write_text("song1,song2,song3,anchor,positive\n")
    said = export(lite, tmp_path / "a.csv")
    assert not (tmp_path / "a.test.csv").exists()
    assert not any("a.test.csv" in line for line in said)


def test_raters_are_described_and_left_out_by_name_or_by_the_owner(
    surveyed: Store, tmp_path: Path
) -> None:
    said = export(surveyed, tmp_path / "a.parquet")
    with (tmp_path / "a.raters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = qualities(all_answers(surveyed))
    assert {r["rater"]: int(r["answers"]) for r in rows} == {n: q.answers for n, q in found.items()}
    assert "headphones" in rows[0] and any("a.raters.csv: what 5 raters" in line for line in said)
    one, two = sorted(found)[:2]
    surveyed.exclude(one, True)
    said = export(surveyed, tmp_path / "b.parquet", exclude=[two])
    assert {t.rater for t in read_triplets(tmp_path / "b.parquet")} == set(found) - {one, two}
    assert any(f"rater {one}" in line and "owner's page" in line for line in said)
    assert any(f"rater {two}" in line and "by name" in line for line in said)
    with pytest.raises(SurveyError, match="no rater 'nobody'"):
        export(surveyed, tmp_path / "c.parquet", exclude=["nobody"])
    times = [a.when for a in all_answers(surveyed)]
    export(surveyed, tmp_path / "d.parquet", since=times[50])
    assert all(t.when >= times[50] for t in read_triplets(tmp_path / "d.parquet"))


def test_a_random_clicker_is_recognised_after_twenty_answers() -> None:
    """Four gold rounds and one repeat, as the first twenty rounds have: exact probabilities."""
    passes = {"clicker": 0.0, "listener": 0.0}
    rates = {"clicker": (1 / 3, 1 / 3), "listener": (0.95, 0.7)}
    for who, (gold_rate, repeat_rate) in rates.items():
        for gold in range(5):
            for repeat in range(2):
                p = binom.pmf(gold, 4, gold_rate) * binom.pmf(repeat, 1, repeat_rate)
                quality = Quality(4, gold, 1, repeat, 20)
                passes[who] += p * (quality.attentive >= 0.9)
    assert passes["clicker"] < 0.02
    assert passes["listener"] > 0.75
    assert Quality().attentive == pytest.approx(0.5)


def test_a_figure_is_of_the_stream_that_it_names(lite: Store) -> None:
    """Random rounds with full agreement beside active ones with none."""
    random = made_answers(0.0, triplets=30)
    active = [replace(a, kind="active", abc=tuple(f"x{t}" for t in a.abc))
              for a in made_answers(1.0, triplets=60)]  # fmt: skip
    figures = {f.name: f for f in [*_agreement("", random), *_agreement(", active", active)]}
    assert figures["Ceiling"].value == "100%"
    assert "30 random" in figures["Krippendorff's alpha"].note
    assert figures["Krippendorff's alpha"].value == "1.00"
    assert abs(float(figures["Krippendorff's alpha, active"].value)) < 0.15


def test_the_forecast_comes_true() -> None:
    """After as many more answers as it said, the ceiling's interval is about as wide as it said."""
    few = made_answers(0.4, triplets=100, raters=3)
    figure = _forecast(few, few)
    assert "±3%" in figure.note
    more = int(figure.value)
    now_half = float(re.findall(r"now ±([\d.]+)%", figure.note)[0])
    assert more > 300 and now_half > 4
    later = made_answers(0.4, triplets=100 + more // 3, raters=3)
    then = _forecast(later, later)
    assert float(re.findall(r"now ±([\d.]+)%", then.note)[0]) == pytest.approx(3, abs=0.4)
    enough = made_answers(0.4, triplets=3 * (100 + more // 3), raters=3)
    assert _forecast(enough, enough).value == "0"
    assert _forecast(few[:9], few[:9]).value == "–"


def test_coverage_counts_triplets_with_all_their_raters(lite: Store, library: ClipLibrary) -> None:
    assert _coverage(lite).value == "–"
    config = replace(CONFIG, shares=Shares(0.0, 1.0, 0.0, 0.0))
    assigner = Assigner(lite, library, config, seed=0)
    for _ in range(2):  # of three raters for each triplet
        rater = lite.add_rater("", "", "")
        for _ in range(4):
            current = assigner.rounds(rater, 1)[0]
            lite.show(current)
            lite.answer(rater, current.token, 0, [4.0, 4.0, 4.0])
    begun, done = lite.coverage()
    assert done == 0 and _coverage(lite).value == "0%"
    third = lite.add_rater("", "", "")
    for _ in range(4):
        current = assigner.rounds(third, 1)[0]
        lite.show(current)
        lite.answer(third, current.token, None, [4.0, 4.0, 4.0])
    counts = Counter(a.abc for a in all_answers(lite))
    expected = sum(n >= 3 for n in counts.values())
    assert expected > 0 and lite.coverage() == (len(counts), expected)
    assert _coverage(lite).note == f"{expected} of {len(counts)} triplets are complete"
    assert begun <= len(counts)


def test_alpha_and_ceiling_of_counts_are_those_of_the_reference() -> None:
    given = made_answers(0.5, triplets=40, raters=3)
    found, counts = agreement(as_triplets(given)), vote_counts(given)
    assert alpha_of(counts) == pytest.approx(found.alpha)
    assert ceilings(counts).mean() == pytest.approx(found.ceiling)


def test_the_interval_of_a_share_counts_triplets_not_answers() -> None:
    """Three equal answers to each of 30 triplets: as wide as for 30 answers."""
    rng = np.random.default_rng(0)
    truth = rng.random(30) < 0.7
    hits, groups = np.repeat(truth, 3).tolist(), np.repeat(np.arange(30), 3).tolist()
    low, high = (
        float(x) for x in re.findall(r"(\d+)%", grouped_figure("n", hits, groups, "").note)
    )
    alone = wilson_interval(int(truth.sum()), 30)
    assert high - low == pytest.approx(100 * (alone[1] - alone[0]), abs=5)


@pytest.mark.slow
def test_mecomp_layout_with_the_numbers_of_fma(tmp_path: Path, lite: Store) -> None:
    from datasets_scripts.corpora.corpus import Corpus, write_corpus
    from survey.clips import prepare

    items = [make_item(tmp_path, n, seconds=11) for n in range(4)]
    items = [
        i._replace(track=replace(i.track, source=f"fma:{100 + n}")) for n, i in enumerate(items)
    ]
    write_corpus(items, tmp_path / "corpus", "# fma\n")
    made = prepare(Corpus(tmp_path / "corpus"), tmp_path / "clips", CONFIG, lambda _: None)
    config = replace(CONFIG, shares=Shares(1.0, 0, 0, 0))
    assigner = Assigner(lite, made, config, seed=0)
    rater = lite.add_rater("", "", "")
    current = assigner.rounds(rater, 1)[0]
    lite.show(current)
    lite.answer(rater, current.token, 1, [4.0, 4.0, 4.0])
    export(lite, tmp_path / "m.csv", corpus=tmp_path / "corpus")
    numbers = {i.track.id: i.track.source for i in items}
    (triplet,) = read_mecomp(tmp_path / "m.csv").triplets
    assert triplet.odd == numbers[current.clips[1][0]]
    assert set(triplet.ids) == {numbers[track] for track, _ in current.clips}


# -- plots


def test_plots_are_whole_svg_and_escape_their_text() -> None:
    from xml.etree import ElementTree

    evil = "<b>&\"'"
    line = plots.Series(evil, [(1, 0.5), (2, 0.75)], [(1, 0.4, 0.6), (2, 0.7, 0.8)])
    for svg in (
        plots.bars(evil, [evil, "y"], [3, 1], evil),
        plots.bars("t", [], [], "x"),
        plots.bars("t", ["a"], [0], "x"),
        plots.lines(evil, [line], evil),
        plots.lines(evil, [line], evil, standalone=True),
        plots.lines("t", [], "x"),
        plots.lines("t", [plots.Series("one point", [(1, 1.0)], [(1, 1.0, 1.0)])], "x"),
    ):
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg") and root.get("role") == "img"
        assert not any(e.get("style") for e in root.iter())


def test_bars_are_as_high_as_their_values() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(plots.bars("t", ["a", "b"], [4, 1], "x"))
    heights = [float(e.get("height", 0)) for e in root.iter() if e.tag.endswith("rect")]
    assert heights[0] == pytest.approx(4 * heights[1], rel=0.01)
