"""The templates of the report page and the model card, and how their figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from distill.evaluation.evaluate import STUDENT

TEMPLATES = Path(__file__).parent / "templates"
METRICS = {  # title, and what is counted
    "triplet": (
        "Triplet accuracy (same album)",
        "Of two songs, the one of the same album is nearer.",
    ),
    "odd_one_out": (
        "Odd-one-out accuracy",
        "Of three songs, the two of one album are the nearest pair.",
    ),
    "mood": (
        "Mood triplet accuracy",
        "Of two songs of other albums, the one of a similar mood is nearer.",
    ),
    "track_recall@1": ("Track recall@1", "The nearest excerpt of all is of the same song."),
    "track_mrr": ("Track MRR", "Mean of 1 / rank of the song's other excerpt."),
    "album_precision@1": (
        "Album precision@1",
        "The nearest excerpt of another song is of the same album.",
    ),
    "album_precision@5": (
        "Album precision@5",
        "Share of the five nearest songs that are of the same album.",
    ),
}
PEOPLE_METRICS = {  # of `distill.evaluation.people`
    "feel": "feel",
    "valence_r": "valence r",
    "arousal_r": "arousal r",
    "genre@1": "genre@1",
    "genre@5": "genre@5",
}
NAMES = {
    "student": "this model",
    "student_without_ratings": "this model without the metric fitted to ratings",
    "untrained": "untrained",
    "mfcc": "MFCC",
    "mecomp": "MECOMP 0.7.2",
    "bliss": "bliss 0.13",
    "MSD_musicnn": "teacher: musicnn",
    "mood": "mood",
}
BASELINES = ("mecomp", "bliss", "mfcc", "untrained")


def name_of(row: str) -> str:
    """The name of a row on the page and the card."""
    return NAMES.get(row, f"teacher: {row}")


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f}"


def ordered(rows: Mapping[str, Any]) -> list[str]:
    """The model first, then its teachers, then the baselines, the untrained network last."""
    baselines = [row for row in BASELINES if row in rows]
    return [STUDENT, *(row for row in rows if row != STUDENT and row not in baselines), *baselines]


ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,  # a missing figure is an error, not an empty cell
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= {"percent": percent, "name_of": name_of, "ordered": ordered}
ENVIRONMENT.globals |= {"METRICS": METRICS, "PEOPLE_METRICS": PEOPLE_METRICS, "STUDENT": STUDENT}
