"""Plots as SVG text, drawn on the server, so that the pages load nothing from third parties.

An SVG in a page is styled by the page's style sheet (the content policy allows no inline style); a
standstandalone file contains the same colours, light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
STYLE = """<style>
.plot{font-family:system-ui,sans-serif;background:#fff}
.plot text{fill:#5a636b;font-size:12px}.plot .grid{stroke:#dcd8cf}
.c1{--c:#2f7f86}.c2{--c:#c8682a}.c3{--c:#7a5aa6}
.fill{fill:var(--c)}.band{fill:var(--c);opacity:.18}.line{fill:none;stroke:var(--c);stroke-width:2}
@media (prefers-color-scheme:dark){.plot{background:#1e2429}.plot text{fill:#a3adb5}
.plot .grid{stroke:#353d44}.c1{--c:#6fc3c9}.c2{--c:#f0a673}.c3{--c:#bda3e3}}
</style>"""


@dataclass(frozen=True)
class Series:
    """A line: points (x, y), and optionally a band (x, low, high) around it."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """Maps data to coordinates of the drawing, and draws the grid."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x0, self.x1 = x if x[1] > x[0] else (x[0], x[0] + 1)
        self.y0, self.y1 = y if y[1] > y[0] else (y[0], y[0] + 1)

    def px(self, x: float) -> float:
        return LEFT + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        return HEIGHT - BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def grid_y(self, percent: bool) -> str:
        out = []
        for tick in _ticks(self.y0, self.y1):
            if not percent and tick != int(tick):
                continue  # counts are whole
            text = f"{100 * tick:.0f} %" if percent else f"{tick:g}"
            y = self.py(tick)
            out.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
            )
        return "".join(out)


def _svg(title: str, body: str, x_label: str, standalone: bool) -> str:
    label = (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title, quote=True)}">'
        f"{STYLE if standalone else ''}{body}{label}</svg>"
    )


def bars(title: str, labels: Sequence[str], values: Sequence[float], x_label: str) -> str:
    """A bar chart from zero; about eight labels are written at most."""
    if not any(values):
        return empty(title)
    axes = _Axes((0, len(values)), (0, max(values)))
    every = -(-len(labels) // 8)
    body = [axes.grid_y(percent=False)]
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        half = min(0.38 * (axes.px(1) - axes.px(0)), 30)
        left, right, top = axes.px(i + 0.5) - half, axes.px(i + 0.5) + half, axes.py(value)
        body.append(
            f'<rect class="c1 fill" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}" rx="2"><title>{escape(label)}: {value:g}'
            "</title></rect>"
        )
        if i % every == 0:
            body.append(
                f'<text x="{(left + right) / 2:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="middle">{escape(label)}</text>'
            )
    return _svg(title, "".join(body), x_label, standalone=False)


def lines(title: str, series: Sequence[Series], x_label: str, standalone: bool = False) -> str:
    """Line charts of shares from 0 to 1 (written in per cent), each with its band and its name.

    standalone: for a file of its own instead of a page of the survey.
    """
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    ys += [y for s in series for _, low, high in s.band for y in (low, high)]
    if not xs:
        return empty(title)
    axes = _Axes((min(xs), max(xs)), (max(0, min(ys) - 0.02), min(1, max(ys) + 0.02)))
    body = [axes.grid_y(percent=True)]
    for tick in _ticks(axes.x0, axes.x1):
        body.append(
            f'<text x="{axes.px(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{tick:g}</text>"
        )
    for i, s in enumerate(series):
        colour = f"c{i % 3 + 1}"
        upper = [f"{axes.px(x):.1f},{axes.py(high):.1f}" for x, _, high in s.band]
        lower = [f"{axes.px(x):.1f},{axes.py(low):.1f}" for x, low, _ in reversed(s.band)]
        if upper:
            body.append(f'<polygon class="{colour} band" points="{" ".join(upper + lower)}"/>')
        points = " ".join(f"{axes.px(x):.1f},{axes.py(y):.1f}" for x, y in s.points)
        body.append(f'<polyline class="{colour} line" points="{points}"/>')
        y = HEIGHT - BOTTOM - 14 - 18 * (len(series) - 1 - i)
        body.append(
            f'<rect class="{colour} fill" x="{WIDTH - 190}" y="{y - 9}" width="14" height="4"/>'
            f'<text x="{WIDTH - 170}" y="{y - 3}">{escape(s.name)}</text>'
        )
    return _svg(title, "".join(body), x_label, standalone)


def empty(title: str) -> str:
    """A plot without data."""
    return _svg(
        title,
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT / 2:.0f}" text-anchor="middle">nothing yet</text>',
        "",
        standalone=False,
    )
