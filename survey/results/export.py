"""Exports the answers as a table of triplets: Parquet, or MECOMP's CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.files import atomic_path, write_csv
from datasets_scripts.triplets.table import (
    TEST_STREAM,
    Triplet,
    normalise_weights,
    write_triplets,
)
from survey.config import SurveyError
from survey.database.rows import Person
from survey.database.store import Store
from survey.results.quality import Answered, Quality, all_answers, as_triplets, qualities

FMA = "fma:"  # prefix of the source of a track from FMA


@dataclass(frozen=True)
class Filter:
    """Which answers are exported. min_attentive: of the posterior that a rater listens.

    exclude: names of raters to leave out, besides those that the owner's page excluded; since:
    only answers from this time on. The quality of a rater is that of all their answers.
    """

    min_gold_accuracy: float = 0.0
    min_consistency: float = 0.0
    min_attentive: float = 0.0
    exclude: tuple[str, ...] = ()
    since: datetime | None = None


def export(
    store: Store,
    out: Path,
    min_gold_accuracy: float = 0.0,
    min_consistency: float = 0.0,
    corpus: Path | None = None,
    *,
    min_attentive: float = 0.0,
    exclude: Sequence[str] = (),
    since: datetime | None = None,
) -> list[str]:
    """Writes `out`, and returns lines that say what was exported and what was left out.

    A `.parquet` is the triplet table: the source is survey-active, survey-random_train (drawn at
    random while there was no model) or survey-random (the test stream, never to be trained on);
    raters have random names; "can't tell" is a null; the weights of the answers to one triplet
    sum to 1. A `.csv` has MECOMP's columns, in which there is no "can't tell" and no source: it
    holds the training answers, and `NAME.test.csv` those of the test stream. With `corpus`,
    tracks of FMA have their FMA numbers there, as in MECOMP's own. `NAME.raters.csv` says what
    each exported rater said of themselves, and how well they answered. Repeats and gold rounds
    measure the raters and are not exported. All answers of a rater below a minimum are left out; a
    rater without gold rounds, or without repeats, is not judged by their shares.

    Raises SurveyError for another suffix, an unknown rater, or when nothing is left.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise SurveyError(f"cannot write {out}: expected a name that ends in .parquet or .csv")
    wanted = Filter(min_gold_accuracy, min_consistency, min_attentive, tuple(exclude), since)
    people = {person.name: person for person in store.people()}
    unknown = [name for name in exclude if name not in people]
    if unknown:
        raise SurveyError(f"there is no rater {unknown[0]!r}; the owner's page lists their names")
    given = all_answers(store)
    quality = qualities(given)
    dropped = {
        rater: why
        for rater, found in sorted(quality.items())
        if (why := _why_dropped(people[rater], found, wanted))
    }
    given = [a for a in given if since is None or a.when >= since]
    table = normalise_weights([t for t in as_triplets(given) if t.rater not in dropped])
    if not table:
        raise SurveyError(
            f"there is nothing to export: {len(given)} answers, and {len(dropped)} raters left out"
        )
    if out.suffix == ".csv":
        lines = _write_streams(table, out, _fma_numbers(corpus))
    else:
        write_triplets(table, out)
        lines = [f"{out}: {_summary(table)}"]
    named = sorted({t.rater for t in table if t.rater})
    about = out.with_name(f"{out.stem}.raters.csv")
    write_csv(about, RATER_COLUMNS, [_rater_row(people[name], quality[name]) for name in named])
    lines.append(f"{about}: what {len(named)} raters said of themselves, and their quality")
    return lines + _left_out(given, quality, dropped, wanted)


def _left_out(
    given: Sequence[Answered],
    quality: Mapping[str, Quality],
    dropped: Mapping[str, str],
    wanted: Filter,
) -> list[str]:
    """Lines that say which answers were not exported, and who was kept without being judged."""
    kinds = Counter(answer.kind for answer in given)
    lines = [
        f"left out, because they measure raters: {kinds['repeat']} repeats, {kinds['gold']} gold"
    ]
    rows = Counter(t.rater for t in as_triplets(given))
    for rater, why in dropped.items():
        lines.append(f"left out rater {rater} with {rows[rater]} rows: {why}")
    unjudged = [
        rater
        for rater, found in quality.items()
        if rater not in dropped
        and (
            (wanted.min_gold_accuracy > 0 and found.gold_accuracy is None)
            or (wanted.min_consistency > 0 and found.consistency is None)
        )
    ]
    if unjudged:
        count = sum(rows[rater] for rater in unjudged)
        lines.append(f"kept without gold rounds or repeats: {len(unjudged)} raters, {count} rows")
    return lines


RATER_COLUMNS = (
    "rater", "group", "headphones", "age", "training",
    "answers", "gold", "gold_correct", "repeats", "repeats_consistent", "attentive",
)  # fmt: skip


def _rater_row(person: Person, q: Quality) -> tuple[object, ...]:
    about = (person.name, person.group, person.headphones, person.age, person.training)
    counts = (q.answers, q.gold, q.gold_correct, q.repeats, q.repeats_consistent)
    return (*about, *counts, f"{q.attentive:.3f}")


def _write_streams(table: list[Triplet], out: Path, names: dict[str, str]) -> list[str]:
    """Writes the training answers to `out`, and those of the test stream to a file beside it."""
    lines = []
    decided = [t for t in table if t.odd is not None]
    test_file = out.with_name(f"{out.stem}.test.csv")
    files = (
        (out, [t for t in decided if t.source != TEST_STREAM], "for training"),
        (test_file, [t for t in decided if t.source == TEST_STREAM], "never to be trained on"),
    )
    for path, rows, purpose in files:
        if rows or path == out:
            _write_csv(rows, path, names)
            lines.append(f"{path}: {_summary(rows)}, {purpose}")
        else:
            path.unlink(missing_ok=True)  # of an earlier export, which would be taken for this one
    undecided = len(table) - len(decided)
    lines.append(f"left out, because the CSV has no value for it: {undecided} can't tell")
    return lines


def _why_dropped(person: Person, quality: Quality, wanted: Filter) -> str:
    """Why a rater is left out; empty for one who is kept."""
    if person.excluded:
        return "excluded on the owner's page"
    if person.name in wanted.exclude:
        return "excluded by name"
    if quality.attentive < wanted.min_attentive:
        return f"listens with probability {quality.attentive:.2f}, below {wanted.min_attentive:g}"
    return _below(quality, wanted.min_gold_accuracy, wanted.min_consistency)


def _below(quality: Quality, min_gold_accuracy: float, min_consistency: float) -> str:
    """Why a rater is left out; empty for one who is kept."""
    gold, consistency = quality.gold_accuracy, quality.consistency
    if gold is not None and gold < min_gold_accuracy:
        return f"gold accuracy {gold:.2f} on {quality.gold} is below {min_gold_accuracy:g}"
    if consistency is not None and consistency < min_consistency:
        return f"consistency {consistency:.2f} on {quality.repeats} is below {min_consistency:g}"
    return ""


def _summary(table: list[Triplet]) -> str:
    sources = Counter(t.source for t in table)
    parts = ", ".join(f"{n} {source}" for source, n in sorted(sources.items())) or "none"
    undecided = sum(t.odd is None for t in table)
    raters = len({t.rater for t in table})
    return f"{len(table)} answers of {raters} raters ({parts}; {undecided} can't tell)"


def _fma_numbers(corpus: Path | None) -> dict[str, str]:
    """The FMA number of each track from FMA, by id."""
    if corpus is None:
        return {}
    try:
        tracks = Corpus(corpus).tracks
    except CorpusError as error:
        raise SurveyError(str(error)) from error
    return {t.id: t.source.removeprefix(FMA) for t in tracks if t.source.startswith(FMA)}


def _write_csv(table: list[Triplet], out: Path, names: dict[str, str]) -> None:
    """MECOMP's layout: three tracks, and the 1-based positions of the two that belong together."""
    with atomic_path(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["song1", "song2", "song3", "anchor", "positive"])
        for t in table:
            pair = [n for n, track in enumerate(t.ids, start=1) if track != t.odd]
            writer.writerow([*(names.get(track, track) for track in t.ids), *pair])
