"""What the answers say: of the raters, of how far they agree, and of the current model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from math import sqrt
from statistics import median

import numpy as np
import sqlalchemy as sa

from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.table import Triplet, grouped
from survey import plots
from survey.active import odd_probabilities
from survey.schema import answers, raters, rounds, triplets
from survey.store import Store, now

STREAMS = ("active", "cold", "random")  # what is asked for its own sake, and exported
GOLD_ODD = 2  # a gold triplet is (track, the same track, the stranger)


@dataclass(frozen=True)
class Answered:
    """One answer; `odd` is 0, 1 or 2 for the songs `abc`, or None for "can't tell"."""

    round: int
    rater: str
    kind: str
    abc: tuple[str, str, str]
    odd: int | None
    place: int | None
    taken_s: float
    when: datetime
    repeats: int | None


@dataclass
class Quality:
    """What hidden repeats and gold rounds tell of one rater."""

    gold: int = 0
    gold_right: int = 0
    repeats: int = 0
    repeats_same: int = 0
    answers: int = 0

    @property
    def gold_accuracy(self) -> float | None:
        """Share of gold rounds answered right; None before the first."""
        return self.gold_right / self.gold if self.gold else None

    @property
    def consistency(self) -> float | None:
        """Share of repeats answered as before; None before the first."""
        return self.repeats_same / self.repeats if self.repeats else None


def all_answers(store: Store) -> list[Answered]:
    """Every stored answer, in the order of storing."""
    query = (
        sa.select(
            rounds.c.id,
            raters.c.name,
            rounds.c.kind,
            triplets.c.a,
            triplets.c.b,
            triplets.c.c,
            answers.c.odd,
            answers.c.place,
            answers.c.taken_s,
            answers.c.answered,
            rounds.c.repeats,
        )
        .join_from(rounds, answers)
        .join(triplets)
        .join(raters)
        .order_by(answers.c.id)
    )
    with store.read() as db:
        return [
            Answered(i, name, kind, (a, b, c), odd, place, taken_s, when, repeats)
            for i, name, kind, a, b, c, odd, place, taken_s, when, repeats in db.execute(query)
        ]


def qualities(given: Iterable[Answered]) -> dict[str, Quality]:
    """Quality by rater; a repeat whose first answer was undone does not count."""
    given = list(given)
    first = {answer.round: answer.odd for answer in given}
    found: dict[str, Quality] = defaultdict(Quality)
    for answer in given:
        quality = found[answer.rater]
        quality.answers += 1
        if answer.kind == "gold":
            quality.gold += 1
            quality.gold_right += answer.odd == GOLD_ODD
        elif answer.kind == "repeat" and answer.repeats in first:
            quality.repeats += 1
            quality.repeats_same += answer.odd == first[answer.repeats]
    return dict(found)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (E. B. Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    z = 1.959964
    p, zz = right / total, z * z / total
    centre = (p + zz / 2) / (1 + zz)
    half = z * sqrt(p * (1 - p) / total + zz / (4 * total)) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Figure:
    """A figure of the owner's page, in words."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Plot:
    """A plot of the owner's page."""

    title: str
    svg: str


@dataclass(frozen=True)
class Report:
    """Everything on the owner's page."""

    when: datetime
    figures: list[Figure] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def _share(name: str, right: int, total: int, note: str) -> Figure:
    if total == 0:
        return Figure(name, "–", f"{note}: none yet")
    low, high = wilson(right, total)
    return Figure(name, f"{right / total:.0%}", f"{low:.0%} to {high:.0%}, {total} {note}")


def model_hits(
    given: Sequence[Answered], embeddings: tuple[list[str], np.ndarray], temperature: float
) -> list[bool]:
    """Whether the model's odd one out is the rater's, for each answer of the random stream.

    embeddings: ids and (members, tracks, dim); an ensemble answers by its mean probability.
    Answers "can't tell", and triplets of which it lacks a track, are left out.
    """
    ids, vectors = embeddings
    index = {track: i for i, track in enumerate(ids)}
    rows = [
        ([index[t] for t in answer.abc], answer.odd)
        for answer in given
        if answer.kind == "random"
        and answer.odd is not None
        and all(t in index for t in answer.abc)
    ]
    if not rows:
        return []
    triples, odd = np.asarray([r[0] for r in rows]), np.asarray([r[1] for r in rows])
    said = odd_probabilities(vectors, triples, temperature).mean(axis=0).argmax(axis=-1)
    return [bool(hit) for hit in said == odd]


def report(
    store: Store, embeddings: tuple[list[str], np.ndarray] | None, temperature: float
) -> Report:
    """The owner's page: figures and plots of all answers so far."""
    given = all_answers(store)
    hits = None if embeddings is None else model_hits(given, embeddings, temperature)
    quality = qualities(given)
    streams = Counter(answer.kind for answer in given)
    with store.read() as db:
        people = db.execute(sa.select(sa.func.count()).select_from(raters)).scalar_one()
    unsure = sum(answer.odd is None for answer in given)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(streams.items())) or "none yet"
    figures = [
        Figure("Answers", f"{len(given)}", kinds),
        Figure("Raters", f"{people}", f"{len(quality)} of them have answered"),
        Figure(
            "Time an answer",
            f"{median(a.taken_s for a in given):.0f} s" if given else "–",
            "median, from shown to stored",
        ),
        Figure(
            "Can't tell",
            f"{unsure / len(given):.0%}" if given else "–",
            f"{unsure} answers",
        ),
        _share(
            "Repeat consistency",
            sum(q.repeats_same for q in quality.values()),
            sum(q.repeats for q in quality.values()),
            "repeats",
        ),
        _share(
            "Gold accuracy",
            sum(q.gold_right for q in quality.values()),
            sum(q.gold for q in quality.values()),
            "gold rounds",
        ),
        *_agreement(given),
    ]
    if hits is None:
        figures.append(Figure("Current model", "–", "start with --embeddings to score one"))
    else:
        note = "random-stream answers that it agrees with"
        figures.append(_share("Current model", sum(hits), len(hits), note))
    return Report(now(), figures, _plots(given, quality, hits))


def as_triplets(given: Iterable[Answered]) -> list[Triplet]:
    """The answers to what was asked for its own sake: no repeats, no gold rounds."""
    return [
        Triplet(
            *answer.abc,
            odd=None if answer.odd is None else answer.abc[answer.odd],
            source=f"survey-{answer.kind}",
            rater=answer.rater,
            when=answer.when,
        )
        for answer in given
        if answer.kind in STREAMS
    ]


def alpha_interval(table: Sequence[Triplet], blocks: int = 20) -> tuple[float, float] | None:
    """The 95 % interval of Krippendorff's alpha by a jackknife over blocks of triplets.

    Each of at most `blocks` blocks is left out once (delete-a-group jackknife; Kott 2001). None
    where fewer than two triplets have two answers.
    """
    twice = [g for g in grouped(t for t in table if t.odd is not None) if len(g) > 1]
    if len(twice) < 2:
        return None
    count = min(blocks, len(twice))
    left: list[float] = []
    for block in range(count):
        rest = [t for i, group in enumerate(twice) if i % count != block for t in group]
        alpha = agreement(rest).alpha
        assert alpha is not None  # at least one triplet with two answers is in `rest`
        left.append(alpha)
    whole = agreement([t for group in twice for t in group]).alpha
    assert whole is not None
    half = 1.959964 * sqrt((count - 1) / count * sum((a - whole) ** 2 for a in left))
    return max(-1.0, whole - half), min(1.0, whole + half)


def _agreement(given: Sequence[Answered]) -> list[Figure]:
    table = as_triplets(given)
    found = agreement(table)
    if found.alpha is None or found.ceiling is None:
        none = "no triplet was answered twice yet"
        return [Figure("Krippendorff's alpha", "–", none), Figure("Ceiling", "–", none)]
    interval = alpha_interval(table)
    between = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}, "
    return [
        Figure("Krippendorff's alpha", f"{found.alpha:.2f}", f"{between}{found.triplets} triplets"),
        Figure("Ceiling", f"{found.ceiling:.0%}", "a rater left out agrees with the others' most"),
    ]


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
    seconds = np.clip([a.taken_s for a in given], 0, 119.9)
    times, _ = np.histogram(seconds, bins=np.arange(0, 121, 10))
    gold = [q.gold_accuracy for q in quality.values() if q.gold_accuracy is not None]
    same = [q.consistency for q in quality.values() if q.consistency is not None]
    found = [
        ("Answers a day", names, counts, "day (UTC)"),
        ("Raters a day", names, people, "day (UTC)"),
        (
            "Time an answer",
            [f"{s}–{s + 10}" if s < 110 else "110+" for s in range(0, 120, 10)],
            [int(n) for n in times],
            "seconds from shown to stored",
        ),
        ("Gold accuracy by rater", *_tenths(gold), "share of gold rounds right"),
        ("Repeat consistency by rater", *_tenths(same), "share of repeats answered as before"),
        (
            "Place of the odd one out",
            ["first", "second", "third"],
            [sum(a.place == p for a in given) for p in range(3)],
            "place on the page (even, if raters do not favour one)",
        ),
    ]
    drawn = [Plot(t, plots.bars(t, labels, values, x)) for t, labels, values, x in found]
    gold_hits = [a.odd == GOLD_ODD for a in given if a.kind == "gold"]
    running = [
        plots.Series("repeat consistency", *_running(_repeat_hits(given))),
        plots.Series("gold accuracy", *_running(gold_hits)),
        plots.Series("current model", *_running(hits or [])),
    ]
    title = "Shares so far, with their intervals"
    running = [s for s in running if s.points]
    drawn.append(Plot(title, plots.lines(title, running, "repeats, gold rounds, random answers")))
    return drawn


def _repeat_hits(given: Sequence[Answered]) -> list[bool]:
    first = {a.round: a.odd for a in given}
    return [a.odd == first[a.repeats] for a in given if a.kind == "repeat" and a.repeats in first]


def _running(
    hits: Sequence[bool],
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """The share of hits after each of at most 60 points, and its interval."""
    total = np.cumsum(hits)
    at: list[int] = (
        np.unique(np.linspace(1, len(hits), min(60, len(hits)), dtype=int)).tolist() if hits else []
    )
    points = [(float(n), float(total[n - 1] / n)) for n in at]
    band = [(float(n), *wilson(int(total[n - 1]), int(n))) for n in at]
    return points, band


def _days(first: date, last: date) -> list[date]:
    """The days from first to last; at most the newest 60."""
    count = min(60, (last - first).days + 1)
    return [last - timedelta(days=back) for back in reversed(range(count))]


def _tenths(shares: Sequence[float]) -> tuple[list[str], list[int]]:
    """Counts of shares by tenths, with labels."""
    counts = [0] * 10
    for share in shares:
        counts[min(9, int(share * 10))] += 1
    return [f"{10 * i}–{10 * i + 10} %" for i in range(10)], counts
