"""The answers as a table of triplets, for training and for others: Parquet, or MECOMP's CSV."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.triplets.table import Triplet, normalise_weights, write_triplets
from survey.config import SurveyError
from survey.results import Quality, all_answers, as_triplets, qualities
from survey.store import Store

FMA = "fma:"  # how a corpus of FMA's music names the source of a track


def export(
    store: Store,
    out: Path,
    min_gold_accuracy: float = 0.0,
    min_consistency: float = 0.0,
    corpus: Path | None = None,
) -> list[str]:
    """Writes `out`, and returns what it holds and what it left out, in sentences.

    A `.parquet` is the triplet table: the source is survey-active, survey-cold (drawn at random
    while there was no model) or survey-random (the test stream, never to be trained on); raters
    are random names; "can't tell" is a null; the answers to one triplet weigh 1 together. A
    `.csv` has MECOMP's columns, which know no "can't tell"; with `corpus`, songs of FMA go by
    their FMA numbers, as MECOMP's own. Repeats and gold rounds measure the raters, and are never
    rows. A rater below a minimum is left out whole; one who met no gold round, or no repeat, is
    not judged by it. Raises SurveyError for another suffix, or when nothing is left.
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
    said = [f"{out}: {_count(table)}"]
    if out.suffix == ".csv":
        decided = [t for t in table if t.odd is not None]
        _write_csv(decided, out, _fma_numbers(corpus))
        said.append(f"left out, as the CSV cannot say it: {len(table) - len(decided)} can't tell")
    else:
        write_triplets(table, out)
    kinds = Counter(answer.kind for answer in given)
    said.append(
        f"left out, as they measure raters: {kinds['repeat']} repeats, {kinds['gold']} gold"
    )
    rows = Counter(t.rater for t in as_triplets(given))
    for rater, why in dropped.items():
        said.append(f"left out rater {rater} with {rows[rater]} rows: {why}")
    unjudged = [
        r
        for r, q in quality.items()
        if (min_gold_accuracy > 0 and q.gold_accuracy is None)
        or (min_consistency > 0 and q.consistency is None)
    ]
    if unjudged:
        said.append(
            f"kept though not judged, for want of gold rounds or repeats: {len(unjudged)} raters, "
            f"{sum(rows[r] for r in unjudged)} rows"
        )
    return said


def _below(quality: Quality, min_gold_accuracy: float, min_consistency: float) -> str:
    """Why a rater is left out; empty for one who is kept."""
    gold, same = quality.gold_accuracy, quality.consistency
    if gold is not None and gold < min_gold_accuracy:
        return f"gold accuracy {gold:.2f} on {quality.gold} is below {min_gold_accuracy:g}"
    if same is not None and same < min_consistency:
        return f"consistency {same:.2f} on {quality.repeats} is below {min_consistency:g}"
    return ""


def _count(table: list[Triplet]) -> str:
    sources = Counter(t.source for t in table)
    parts = ", ".join(f"{n} {source}" for source, n in sorted(sources.items()))
    unsure = sum(t.odd is None for t in table)
    raters = len({t.rater for t in table})
    return f"{len(table)} answers of {raters} raters ({parts}; {unsure} can't tell)"


def _fma_numbers(corpus: Path | None) -> dict[str, str]:
    """FMA's own number of each track that came from there, by id."""
    if corpus is None:
        return {}
    try:
        tracks = Corpus(corpus).tracks
    except CorpusError as error:
        raise SurveyError(str(error)) from error
    return {t.id: t.source.removeprefix(FMA) for t in tracks if t.source.startswith(FMA)}


def _write_csv(table: list[Triplet], out: Path, names: dict[str, str]) -> None:
    """MECOMP's layout: three songs, and the 1-based positions of the two that go together."""
    half = out.with_name(out.name + ".part")
    with half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["song1", "song2", "song3", "anchor", "positive"])
        for t in table:
            pair = [n for n, song in enumerate(t.ids, start=1) if song != t.odd]
            writer.writerow([*(names.get(song, song) for song in t.ids), *pair])
    os.replace(half, out)
