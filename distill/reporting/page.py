"""The report as one HTML page that fetches nothing: figures in, text out."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

TEMPLATE = Path(__file__).parent / "page.html"
FIGURES = {
    "triplet": (
        "Same soundtrack nearer",
        "Of two songs, the one of the same soundtrack is nearer.",
    ),
    "odd_one_out": ("Odd one out", "The two of one soundtrack are the nearest of three pairs."),
    "mood": ("Mood", "Of two songs of other soundtracks, the one of a like mood is nearer."),
    "track_recall@1": (
        "Finds the song again",
        "The nearest clip of all is of the same song.",
    ),
    "track_mrr": ("Rank of the song itself", "Mean of 1 / rank of the song's other clip."),
    "album_precision@1": ("Nearest is of the soundtrack", "The nearest clip of another song."),
    "album_precision@5": ("Soundtrack in the first five", "Share of the five nearest songs."),
}
NAMES = {
    "student": "this model",
    "untrained": "untrained",
    "mfcc": "MFCC",
    "mecomp": "MECOMP 0.7.2",
    "bliss": "bliss 0.13",
    "MSD_musicnn": "teacher: musicnn",
}
OURS = "student"
POINTS_OF_A_CURVE = 300


def name_of(row: str) -> str:
    """How the page and the card call a row."""
    return NAMES.get(row, f"teacher: {row}")


def percent(share: float) -> str:
    """A share as a percentage, one decimal."""
    return f"{100 * share:.1f}"


def ordered(rows: Mapping[str, Any]) -> list[str]:
    """The model first, the teachers next, then the rivals, the untrained floor last."""
    rivals = [r for r in ("mecomp", "bliss", "mfcc", "untrained") if r in rows]
    return [OURS, *(r for r in rows if r != OURS and r not in rivals), *rivals]


def forest(figure: str, table: Mapping[str, Any], chance: float | None) -> str:
    """Dots with their intervals, one row a representation, as a figure with inline SVG."""
    title, text = FIGURES[figure]
    rows = [r for r in ordered(table) if figure in table[r]]
    left, right, step, top = 118, 340, 24, 8
    height = top + step * len(rows) + 22

    def x(share: float) -> float:
        return round(left + (right - left) * share, 1)

    parts = [f'<svg viewBox="0 0 390 {height}" role="img" aria-label="{html.escape(title)}">']
    bottom = top + step * len(rows)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="faint" x="{x(tick)}" y="{bottom + 15}" text-anchor="middle">'
            f"{100 * tick:.0f}</text>"
        )
    if chance is not None:
        parts.append(
            f'<line class="chance" x1="{x(chance)}" x2="{x(chance)}" y1="{top}" y2="{bottom}"/>'
        )
    for at, row in enumerate(rows):
        value, y = table[row][figure], top + step * at + step / 2
        kind = "row ours" if row == OURS else "row"
        spread = f"{percent(value['low'])} to {percent(value['high'])}"
        parts += [
            f'<text class="{kind}" x="0" y="{y + 4}">{html.escape(name_of(row))}</text>',
            f'<g class="{kind}"><title>{percent(value["accuracy"])} [{spread}]</title>',
            f'<line x1="{x(value["low"])}" x2="{x(value["high"])}" y1="{y}" y2="{y}" '
            'stroke-width="3" stroke-linecap="round" opacity=".45"/>',
            f'<circle cx="{x(value["accuracy"])}" cy="{y}" r="4.5"/></g>',
            f'<text class="{kind}" x="388" y="{y + 4}" text-anchor="end">'
            f"{percent(value['accuracy'])}</text>",
        ]
    parts.append("</svg>")
    note = "" if chance is None else f" Chance: {percent(chance)} %."
    return f"<figure><h3>{title}</h3><figcaption>{text}{note}</figcaption>{''.join(parts)}</figure>"


def curve(tag: str, points: Sequence[Sequence[float]]) -> str:
    """One scalar over the steps, as a figure with inline SVG."""
    points = points[:: max(1, len(points) // POINTS_OF_A_CURVE)]
    points = [p for p in points if math.isfinite(p[1])]
    if not points:
        return ""
    values = [v for _, v in points]
    low, high, last = min(values), max(values), points[-1][0]
    first = points[0][0]
    path = " ".join(
        f"{46 + 330 * (s - first) / max(1, last - first):.1f},"
        f"{120 - 105 * (v - low) / max(1e-12, high - low):.1f}"
        for s, v in points
    )
    return (
        f"<figure><h3>{html.escape(tag)}</h3>"
        f'<svg viewBox="0 0 390 142" role="img" aria-label="{html.escape(tag)} over the steps">'
        '<line class="axis" x1="46" x2="376" y1="120" y2="120"/>'
        f'<polyline class="curve" points="{path}"/>'
        f'<text class="faint" x="42" y="20" text-anchor="end">{high:.3g}</text>'
        f'<text class="faint" x="42" y="124" text-anchor="end">{low:.3g}</text>'
        f'<text class="faint" x="376" y="137" text-anchor="end">step {last:.0f}</text>'
        "</svg></figure>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], ours: Sequence[int] = ()) -> str:
    """An HTML table; a cell that starts with ``<td`` is taken as it is."""
    lines = ["<table><tr>", *(f"<th>{html.escape(head)}</th>" for head in heads), "</tr>"]
    for at, row in enumerate(rows):
        lines.append('<tr class="ours">' if at in ours else "<tr>")
        lines += [c if c.startswith("<td") else f"<td>{html.escape(c)}</td>" for c in row]
        lines.append("</tr>")
    return "".join([*lines, "</table>"])


def differences_table(differences: Mapping[str, Any]) -> str:
    """Every rival's row of paired differences."""
    figures = [f for f in FIGURES if any(f in row for row in differences.values())]
    rows = []
    for name in ordered({**differences, OURS: {}})[1:]:
        cells = [name_of(name)]
        for figure in figures:
            value = differences[name][figure]
            low, high = 100 * value["low"], 100 * value["high"]
            kind = "good" if low > 0 else "bad" if high < 0 else ""
            cells.append(
                f'<td class="{kind}">{100 * value["difference"]:+.1f}'
                f"<small>{low:+.1f} to {high:+.1f}</small></td>"
            )
        rows.append(cells)
    return table(["against", *(FIGURES[f][0] for f in figures)], rows)


def hubness_table(hubs: Mapping[str, Any]) -> str:
    """One row a representation; a corpus too small for it says so."""
    rows = []
    for name in ordered(hubs):
        hub = hubs[name]
        if hub is None:
            rows.append([name_of(name), *["too few songs"] * 4])
            continue
        bias = hub["same_album"] / hub["same_album_chance"] if hub["same_album_chance"] else 0.0
        rows.append(
            [
                name_of(name),
                f"{hub['skew']:.2f}",
                f"{percent(hub['orphans'])} %",
                f"{percent(hub['largest'])} %",
                f"{percent(hub['same_album'])} % ({bias:.1f} ×)",
            ]
        )
    return table(["", "skew", "orphans", "largest hub", "same soundtrack"], rows, (0,))


def robustness_table(robust: Mapping[str, Any]) -> str:
    """Alterations down, models across: mean cosine, and below it the self-retrieval."""
    names = ordered(robust)
    rows = [
        [
            kind,
            *(
                f"<td>{robust[name][kind]['cosine']:.4f}"
                f"<small>finds itself: {100 * robust[name][kind]['found']:.0f} %</small></td>"
                for name in names
            ),
        ]
        for kind in robust[OURS]
    ]
    return table(["", *map(name_of, names)], rows)


def speed_table(speed: Mapping[str, Any]) -> str:
    """Shares of the duration, and the ratio to MECOMP's model in the same runtime."""
    rows = []
    for runtime in ("onnxruntime", "tract"):
        rows.append(
            [
                runtime,
                f"{100 * speed[f'{OURS}/{runtime}']:.4f} %",
                f"{100 * speed[f'mecomp/{runtime}']:.4f} %"
                if f"mecomp/{runtime}" in speed
                else "-",
                f"{speed[f'ratio/{runtime}']:.3f}" if f"ratio/{runtime}" in speed else "-",
            ]
        )
    return table(["runtime", name_of(OURS), name_of("mecomp"), "ratio"], rows)


def tiles(report: Mapping[str, Any]) -> str:
    """The figures that everybody asks for first."""
    cosine = report["cosine_to_teacher"]
    made = [
        (f"{report['bytes'] / 1e6:.2f} MB", "the whole model"),
        (f"{report['parameters'] / 1e3:.0f} k", "parameters"),
        (
            f"{100 * report['speed'][f'{OURS}/onnxruntime']:.3f} %",
            "of the song's length, one thread",
        ),
    ]
    if cosine is not None:
        made.append((f"{cosine:.3f}", "cosine to what it learned, held out"))
    return "".join(
        f'<div class="tile"><b>{value}</b><span>{text}</span></div>' for value, text in made
    )


def notes(report: Mapping[str, Any]) -> str:
    """What a reader must know before believing the page."""
    ceiling = report["human_ceiling"]
    lines = [
        "No person has answered triplets of this audio: the figures are proxies, and the ceiling "
        "that people's disagreement sets is not known."
        if ceiling is None
        else f"People agree with each other in {percent(ceiling)} % of triplets: the ceiling.",
        "A soundtrack is one mood only in part: recognising it is not the same as feeling it.",
        "Mood is taken from the ten mood tags of the default teacher's own network, which the "
        "student was trained to follow: no independent judge, least of all of the teacher's row.",
        "An untrained network of the same shape stands in every row: the floor is not chance.",
    ]
    lines += [f"Not measured: {name_of(n)} ({why})." for n, why in report["absent"].items()]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def map_part(songs: Sequence[Mapping[str, Any]], split: str) -> str:
    """The map's frame; the dots are drawn by the page's script."""
    if not songs:
        return ""
    silent = sum(not song["clip"] for song in songs)
    spared = f" {silent} have no clip, for the page's size." if silent else ""
    return (
        f"<h2>The map</h2><p class='soft'>{len(songs)} songs by t-SNE; near means alike, far "
        "means little. A colour is a soundtrack; full colours were held out from training. Click "
        "one: five seconds of it play from inside this page, from where the model listened most, "
        f"and its ten nearest light up, with their distances.{spared} The clips keep their "
        "authors' licences, "
        'named beside each.</p><div class="map"><figure>'
        f'<svg id="dots" data-split="{split}" viewBox="0 0 700 560" role="group" '
        'aria-label="map of the songs"></svg></figure><div><input type="search" id="find" '
        'placeholder="title, artist, soundtrack" aria-label="find a song"><div id="panel">'
        '<p class="soft">Choose a song.</p></div></div></div>'
    )


def render(
    report: Mapping[str, Any],
    summary: str,
    songs: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Sequence[float]]],
) -> str:
    """The whole page."""
    rows = report["figures"]
    figures = [f for f in FIGURES if f in rows[OURS]]
    chance = report["chance"]
    data = json.dumps(list(songs), separators=(",", ":")).replace("</", "<\\/")
    alterations = report["robustness"]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"feelprint · {report['run']}"),
        subtitle=html.escape(
            f"{report['tracks']} songs of {report['albums']} soundtracks ({report['split']} split) "
            f"that no training step heard, two clips of {report['excerpt_s']:g} s of each. "
            f"Configuration {report['config_hash']}."
        ),
        summary=html.escape(summary),
        tiles=tiles(report),
        map=map_part(songs, report["split"]),
        agreement=(
            "In percent, by Euclidean distance, all rows on the same clips. Bars are 95 % "
            "intervals by bootstrap over soundtracks; the dashed line is chance."
        ),
        forests="".join(forest(f, rows, chance.get(f)) for f in figures),
        differences=differences_table(report["differences"]),
        hubness=hubness_table(report["hubness"]),
        robustness_text=(
            f"{report['robustness_clips']} clips: mean cosine to the clean clip's embedding, and "
            "how often the altered clip has its own clean clip as its nearest among all of them."
        ),
        robustness=robustness_table(alterations)
        if alterations
        else "<p>No song is long enough.</p>",
        speed=speed_table(report["speed"]),
        curves="".join(curve(tag, points) for tag, points in sorted(curves.items()))
        or "<p>No curves were kept.</p>",
        notes=notes(report),
        songs=data,
    )
