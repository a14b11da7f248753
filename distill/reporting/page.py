"""The report as one HTML page that fetches nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.evaluate import STUDENT
from distill.reporting.templating import ENVIRONMENT, METRICS, TEMPLATES, name_of, ordered

MAX_CURVE_POINTS = 300


def forest(metric: str, figures: Mapping[str, Any], chance: float | None) -> str:
    """A forest plot of one metric: value and 95 % interval of every model, as HTML with SVG."""
    title, text = METRICS[metric]
    names = [name for name in ordered(figures) if metric in figures[name]]
    left, right, step, top = 118, 340, 24, 8

    def x(share: float) -> float:
        return round(left + (right - left) * share, 1)

    rows = []
    for index, name in enumerate(names):
        score = figures[name][metric]
        rows.append(
            {
                "name": name_of(name),
                "css": "row ours" if name == STUDENT else "row",
                "score": score,
                "x": x(score["value"]),
                "low_x": x(score["low"]),
                "high_x": x(score["high"]),
                "y": top + step * index + step // 2,
            }
        )
    ticks = [(x(share), f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    chance_x = None if chance is None else x(chance)
    macro = ENVIRONMENT.get_template("charts.html").module.forest  # type: ignore[attr-defined]
    return macro(title, text, chance, ticks, rows, chance_x, top, top + step * len(rows))


def curve(tag: str, points: Sequence[Sequence[float]]) -> str:
    """A scalar over the training steps, as HTML with SVG; "" where no value is finite."""
    points = points[:: max(1, len(points) // MAX_CURVE_POINTS)]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return ""
    values = [value for _, value in points]
    low, high, first, last = min(values), max(values), points[0][0], points[-1][0]
    path = " ".join(
        f"{46 + 330 * (step - first) / max(1, last - first):.1f},"
        f"{120 - 105 * (value - low) / max(1e-12, high - low):.1f}"
        for step, value in points
    )
    macro = ENVIRONMENT.get_template("charts.html").module.curve  # type: ignore[attr-defined]
    return macro(tag, path, low, high, last)


def map_page(data: Mapping[str, Any]) -> str:
    """The page of the map, which the command `feelprint map` makes too.

    ``data`` has the keys that `feelprint::map::page_data` of the crate describes.
    """
    template = (TEMPLATES / "map.html").read_text(encoding="utf-8")
    library = (TEMPLATES / "deck.min.js").read_text(encoding="utf-8")
    # In a script element of HTML, "<" alone can end the element or begin a comment.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    head, rest = template.split("{{ deck }}")
    middle, end = rest.split("{{ data }}")
    return head + library + middle + text + end


def render(
    report: Mapping[str, Any],
    summary: str,
    songs: Mapping[str, Any] | None,
    curves: Mapping[str, Sequence[Sequence[float]]],
) -> str:
    """The whole page: a report's figures, a summary of them, the map's data, the curves."""
    figures, chance = report["figures"], report["chance"]
    return ENVIRONMENT.get_template("page.html").render(
        report=report,
        summary=summary,
        songs=songs,
        map_page=map_page(songs) if songs else "",
        metrics=[metric for metric in METRICS if metric in figures[STUDENT]],
        forests=[forest(m, figures, chance.get(m)) for m in METRICS if m in figures[STUDENT]],
        curves=[curve(tag, points) for tag, points in sorted(curves.items())],
    )
