"""The owner's page: figures and plots of all answers so far."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from statistics import median

import numpy as np

from datasets_scripts.statistics import bootstrap_interval, wilson_interval
from survey.database.rows import Person, now
from survey.database.store import Store
from survey.results import plots
from survey.results.quality import (
    GOLD_ODD,
    Answered,
    Quality,
    all_answers,
    alpha_interval,
    alpha_of,
    ceilings,
    model_hits,
    qualities,
    repeat_hits,
    scored_answers,
    vote_counts,
)

MAX_DAYS = 60  # the newest days, in plots by day
MAX_POINTS = 60  # of a running share
FORECAST_HALF = 0.03  # half of the interval that the forecast aims at


@dataclass(frozen=True)
class Figure:
    """A figure of the owner's page, as text."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Plot:
    """A plot of the owner's page."""

    title: str
    svg: str


@dataclass(frozen=True)
class RaterRow:
    """One rater in the table; attentive: the posterior probability that they listen."""

    name: str
    group: str
    answers: int
    gold_correct: int
    gold: int
    repeats_consistent: int
    repeats: int
    attentive: float
    last: datetime
    excluded: bool


@dataclass(frozen=True)
class Report:
    """Everything on the owner's page."""

    when: datetime
    figures: list[Figure] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raters: list[RaterRow] = field(default_factory=list)


def share_figure(name: str, hits: int, total: int, note: str) -> Figure:
    """A share with its Wilson interval and the number of cases, `total`."""
    if total == 0:
        return Figure(name, "–", f"{note}: none yet")
    low, high = wilson_interval(hits, total)
    return Figure(name, f"{hits / total:.0%}", f"{low:.0%} to {high:.0%}, {total} {note}")


def grouped_figure(name: str, hits: Sequence[bool], groups: Sequence[object], note: str) -> Figure:
    """A share with its interval by bootstrap over groups, such as the answers to one triplet."""
    if len(set(groups)) < 2:
        return Figure(name, "–", f"{note}: fewer than two triplets yet")
    values = np.asarray(hits, float)
    low, high = bootstrap_interval(values, _numbers(groups))
    return Figure(name, f"{values.mean():.0%}", f"{low:.0%} to {high:.0%}, {len(hits)} {note}")


def _numbers(groups: Sequence[object]) -> np.ndarray:
    """Equal numbers for equal groups."""
    number: dict[object, int] = {}
    return np.asarray([number.setdefault(group, len(number)) for group in groups])


def report(
    store: Store, embeddings: tuple[list[str], np.ndarray] | None, temperature: float
) -> Report:
    """The owner's page: figures and plots of all answers so far, without excluded raters'."""
    people = store.people()
    excluded = {person.name for person in people if person.excluded}
    everything = all_answers(store)
    given = [a for a in everything if a.rater not in excluded]
    hits = None if embeddings is None else model_hits(given, embeddings, temperature)
    quality = qualities(given)
    streams = Counter(answer.kind for answer in given)
    undecided = sum(answer.odd is None for answer in given)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(streams.items())) or "none yet"
    random = [a for a in given if a.kind == "random"]
    figures = [
        Figure("Answers", f"{len(given)}", kinds),
        Figure("Raters", f"{len(people)}", f"{len(quality)} of them have answered"),
        Figure(
            "Time an answer",
            f"{median(a.response_time_s for a in given):.0f} s" if given else "–",
            "median, from shown to stored",
        ),
        Figure(
            "Can't tell",
            f"{undecided / len(given):.0%}" if given else "–",
            f"{undecided} answers",
        ),
        share_figure(
            "Repeat consistency",
            sum(q.repeats_consistent for q in quality.values()),
            sum(q.repeats for q in quality.values()),
            "repeats",
        ),
        share_figure(
            "Gold accuracy",
            sum(q.gold_correct for q in quality.values()),
            sum(q.gold for q in quality.values()),
            "gold rounds",
        ),
        *_agreement("", random),
        *_agreement(", active", [a for a in given if a.kind == "active"])[:1],
    ]
    if hits is None or embeddings is None:
        figures.append(Figure("Current model", "–", "start with --embeddings to score one"))
    else:
        scored = scored_answers(given, embeddings[0])
        note = "random-stream answers that it agrees with"
        figures.append(grouped_figure("Current model", hits, [a.abc for a in scored], note))
    figures += [_coverage(store), _forecast(given, random)]
    return Report(now(), figures, _plots(given, quality, hits), _table(people, everything))


def _agreement(suffix: str, given: Sequence[Answered]) -> list[Figure]:
    """Alpha and the ceiling of one stream; `suffix` names a stream other than the random one."""
    alpha, ceiling = f"Krippendorff's alpha{suffix}", f"Ceiling{suffix}"
    counts = vote_counts(given)
    interval = alpha_interval(counts)
    if interval is None:
        none = "fewer than two triplets were answered twice yet"
        return [Figure(alpha, "–", none), Figure(ceiling, "–", none)]
    stream = "active" if suffix else "random"
    shares = ceilings(counts)
    low, high = bootstrap_interval(shares, np.arange(len(shares)))
    between = f"{interval[0]:.2f} to {interval[1]:.2f}"
    return [
        Figure(alpha, f"{alpha_of(counts):.2f}", f"{between}, {len(counts)} {stream} triplets"),
        Figure(
            ceiling,
            f"{shares.mean():.0%}",
            f"{low:.0%} to {high:.0%}, a rater and the others' majority, {stream} triplets",
        ),
    ]


def _coverage(store: Store) -> Figure:
    """How many of the triplets that were begun have all their raters."""
    begun, done = store.coverage()
    if not begun:
        return Figure("Coverage", "–", "no triplet yet")
    return Figure("Coverage", f"{done / begun:.0%}", f"{done} of {begun} triplets are complete")


def _forecast(given: Sequence[Answered], random: Sequence[Answered]) -> Figure:
    """Answers until the interval of the ceiling is +-FORECAST_HALF: it shrinks by the root of n."""
    name = "Forecast"
    shares = ceilings(vote_counts(random))
    if len(shares) < 10:
        return Figure(name, "–", "from ten random triplets with two answers on")
    low, high = bootstrap_interval(shares, np.arange(len(shares)))
    half = (high - low) / 2
    more = max(0, round(len(given) * ((half / FORECAST_HALF) ** 2 - 1)))
    note = f"more answers until the ceiling's interval is ±{FORECAST_HALF:.0%}; now ±{half:.1%}"
    return Figure(name, f"{more}", note)


def _table(people: Sequence[Person], given: Sequence[Answered]) -> list[RaterRow]:
    """A row for each rater with an answer, the least attentive first."""
    quality = qualities(given)
    last = {answer.rater: answer.when for answer in given}
    rows = [
        RaterRow(p.name, p.group, q.answers, q.gold_correct, q.gold, q.repeats_consistent,
                 q.repeats, q.attentive, last[p.name], p.excluded)
        for p in people if (q := quality.get(p.name))
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row.attentive, row.name))


def _plots(
    given: Sequence[Answered],
    quality: dict[str, Quality],
    hits: Sequence[bool] | None,
) -> list[Plot]:
    """Answers a day, raters a day, time an answer, rater quality, and the model by day."""
    if not given:
        return [Plot("Answers a day", plots.empty("Answers a day"))]
    days = _days(given[0].when.date(), given[-1].when.date())
    by_day: dict[date, list[Answered]] = {day: [] for day in days}
    for answer in given:
        by_day.setdefault(answer.when.date(), []).append(answer)
    names = [day.strftime("%d %b") for day in by_day]
    counts = [len(rows) for rows in by_day.values()]
    people = [len({a.rater for a in rows}) for rows in by_day.values()]
    seconds = np.clip([a.response_time_s for a in given], 0, 119.9)
    times, _ = np.histogram(seconds, bins=np.arange(0, 121, 10))
    gold = [q.gold_accuracy for q in quality.values() if q.gold_accuracy is not None]
    consistency = [q.consistency for q in quality.values() if q.consistency is not None]
    charts = [
        ("Answers a day", names, counts, "day (UTC)"),
        ("Raters a day", names, people, "day (UTC)"),
        (
            "Time an answer",
            [f"{s}–{s + 10}" if s < 110 else "110+" for s in range(0, 120, 10)],
            [int(n) for n in times],
            "seconds from shown to stored",
        ),
        ("Gold accuracy by rater", *_histogram(gold), "share of gold rounds answered correctly"),
        (
            "Repeat consistency by rater",
            *_histogram(consistency),
            "share of repeats answered as before",
        ),
        (
            "Place of the odd one out",
            ["first", "second", "third"],
            [sum(a.place == p for a in given) for p in range(3)],
            "place on the page (even, if raters do not favour one)",
        ),
    ]
    drawn = [Plot(t, plots.bars(t, labels, values, x)) for t, labels, values, x in charts]
    gold_hits = [a.odd == GOLD_ODD for a in given if a.kind == "gold"]
    running = [
        plots.Series("repeat consistency", *_running(repeat_hits(given))),
        plots.Series("gold accuracy", *_running(gold_hits)),
        plots.Series("current model", *_running(hits or [])),
    ]
    title = "Shares so far, with their intervals"
    running = [s for s in running if s.points]
    drawn.append(Plot(title, plots.lines(title, running, "repeats, gold rounds, random answers")))
    return drawn


def _running(
    hits: Sequence[bool],
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """The share of hits so far at no more than MAX_POINTS points, and its interval."""
    total = np.cumsum(hits)
    count = min(MAX_POINTS, len(hits))
    at = np.unique(np.linspace(1, len(hits), count, dtype=int)).tolist() if hits else []
    points = [(float(n), float(total[n - 1] / n)) for n in at]
    band = [(float(n), *wilson_interval(int(total[n - 1]), int(n))) for n in at]
    return points, band


def _days(first: date, last: date) -> list[date]:
    """The days from first to last; of more than MAX_DAYS, the newest."""
    count = min(MAX_DAYS, (last - first).days + 1)
    return [last - timedelta(days=back) for back in reversed(range(count))]


def _histogram(shares: Sequence[float]) -> tuple[list[str], list[int]]:
    """A histogram of shares in ten bins: the labels, and the counts."""
    counts = [0] * 10
    for share in shares:
        counts[min(9, int(share * 10))] += 1
    return [f"{10 * i}–{10 * i + 10} %" for i in range(10)], counts


class ReportCache:
    """The report of one survey, at most `max_age_s` old: reading every answer takes a while.

    The other arguments are those of `report`.
    """

    def __init__(
        self,
        store: Store,
        embeddings: tuple[list[str], np.ndarray] | None,
        temperature: float,
        max_age_s: float = 60.0,
    ) -> None:
        self._arguments = store, embeddings, temperature
        self._max_age_s = max_age_s
        self._report: Report | None = None
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Makes the next report anew, after the owner has changed something."""
        with self._lock:
            self._report = None

    def get(self) -> Report:
        """The report."""
        with self._lock:
            old = self._report
            if old is None or (now() - old.when).total_seconds() > self._max_age_s:
                self._report = old = report(*self._arguments)
            return old
