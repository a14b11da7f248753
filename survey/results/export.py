"""Exports the answers as a table of triplets: Parquet, or MECOMP's CSV."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.files import atomic_path
from datasets_scripts.triplets.table import Triplet, normalise_weights, write_triplets
from survey.config import SurveyError
from survey.database.store import Store
from survey.results.quality import Quality, all_answers, as_triplets, qualities

FMA = "fma:"  # prefix of the source of a track from FMA


def export(
    store: Store,
    out: Path,
    min_gold_accuracy: float = 0.0,
    min_consistency: float = 0.0,
    corpus: Path | None = None,
) -> list[str]:
    """Writes `out`, and returns lines that say what was exported and what was left out.

    A `.parquet` is the triplet table: the source is survey-active, survey-random_train (drawn at
    random while there was no model) or survey-random (the test stream, never to be trained on);
    raters have random names; "can't tell" is a null; the weights of the answers to one triplet
    sum to 1. A `.csv` has MECOMP's columns, in which there is no "can't tell"; with `corpus`,
    tracks of FMA have their FMA numbers there, as in MECOMP's own. Repeats and gold rounds measure
    the raters and are not exported. All answers of a rater below a minimum are left out; a rater
    without gold rounds, or without repeats, is not judged by them. Raises SurveyError for another
    suffix, or when nothing is left.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise SurveyError(f"cannot write {out}: expected a name that ends in .parquet or .csv")
    given = all_answers(store)
    quality = qualities(given)
    dropped = {
        rater: why
        for rater, found in sorted(quality.items())
        if (why := _below(found, min_gold_accuracy, min_consistency))
    }
    table = normalise_weights([t for t in as_triplets(given) if t.rater not in dropped])
    if not table:
        raise SurveyError(
            f"there is nothing to export: {len(given)} answers, and {len(dropped)} raters left out"
        )
    lines = [f"{out}: {_summary(table)}"]
    if out.suffix == ".csv":
        decided = [t for t in table if t.odd is not None]
        _write_csv(decided, out, _fma_numbers(corpus))
        undecided = len(table) - len(decided)
        lines.append(f"left out, because the CSV has no value for it: {undecided} can't tell")
    else:
        write_triplets(table, out)
    kinds = Counter(answer.kind for answer in given)
    lines.append(
        f"left out, because they measure raters: {kinds['repeat']} repeats, {kinds['gold']} gold"
    )
    rows = Counter(t.rater for t in as_triplets(given))
    for rater, why in dropped.items():
        lines.append(f"left out rater {rater} with {rows[rater]} rows: {why}")
    unjudged = [
        rater
        for rater, found in quality.items()
        if (min_gold_accuracy > 0 and found.gold_accuracy is None)
        or (min_consistency > 0 and found.consistency is None)
    ]
    if unjudged:
        count = sum(rows[rater] for rater in unjudged)
        lines.append(f"kept without gold rounds or repeats: {len(unjudged)} raters, {count} rows")
    return lines


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
    parts = ", ".join(f"{n} {source}" for source, n in sorted(sources.items()))
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
