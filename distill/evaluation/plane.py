"""A picture of the valence and arousal plane: clips placed by raters, and by the model.

    python -m distill.evaluation.plane data/corpora/musifeast17 --out docs/people.svg

The model places a clip at the mean rating of its 8 nearest clips by other artists; where its rating
metric was fitted to these ratings, it is fitted anew without the artists of each fold.
"""

from __future__ import annotations

import argparse
import colorsys
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from datasets_scripts.audio import AudioError
from datasets_scripts.corpora.corpus import CorpusError
from datasets_scripts.files import write_text
from datasets_scripts.ratings import Ratings, rated_corpus
from distill.evaluation.excerpts import student_embedder
from distill.evaluation.people import (
    anchor_scores,
    embed_clips,
    fitted_without,
    fold_table,
    held_out_scores,
    is_fitted_to,
)
from distill.training.rating_metric import fit_rating_metric
from student import Feelprint

PANEL, MARGIN, LEGEND = 380, 44, 132  # pixels: a panel's side, around it, beside both
TICKS = (1, 2, 3, 4, 5)  # the scale of the ratings


def places(model: Feelprint, folder: Path) -> tuple[np.ndarray, np.ndarray, Ratings]:
    """Where raters and where the model place each clip: two (n, 2), valence and arousal, 1 to 5.

    Raises CorpusError, AudioError as `distill.evaluation.people.people_figures`.
    """
    corpus, ratings = rated_corpus(folder)
    embed = student_embedder(model.without_ratings())
    embeddings = embed_clips(corpus, [str(id) for id in ratings.ids], embed, "student")
    if is_fitted_to(model, embeddings, ratings):
        folds = fold_table(ratings.artist)
        without = fitted_without(embeddings, fit_rating_metric, ratings)
        seeds = held_out_scores(without, ratings, folds)
    else:
        seeds = [anchor_scores(embeddings @ model.head.rating_transform.numpy(), ratings)]
    # the second column is the neighbours' mean rating
    plane = [np.mean([s[name][:, 1] for s in seeds], axis=0) for name in ("valence_r", "arousal_r")]
    rated = np.stack([ratings.valence, ratings.arousal], axis=1)
    return rated, np.stack(plane, axis=1), ratings


def picture(panels: dict[str, np.ndarray], genre: np.ndarray) -> str:
    """An SVG with one panel for each title -> (n, 2), valence to the right and arousal up."""
    genres = sorted(set(genre))
    colour = {
        name: "#" + "".join(f"{round(255 * v):02x}" for v in colorsys.hls_to_rgb(h, light, 0.6))
        for n, name in enumerate(genres)
        for h, light in [(n / len(genres), 0.38 if n % 2 else 0.56)]
    }
    width = len(panels) * (PANEL + MARGIN) + MARGIN + LEGEND
    height = PANEL + 2 * MARGIN
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    unit = PANEL / (TICKS[-1] - TICKS[0])
    for number, (title, places) in enumerate(panels.items()):
        left, bottom = MARGIN + number * (PANEL + MARGIN), MARGIN + PANEL
        svg += [
            f'<text x="{left + PANEL / 2}" y="{MARGIN - 16}" text-anchor="middle" '
            f'font-weight="bold">{escape(title)}</text>',
            f'<rect x="{left}" y="{MARGIN}" width="{PANEL}" height="{PANEL}" fill="none" '
            'stroke="#9ca3af"/>',
            f'<text x="{left + PANEL / 2}" y="{bottom + 34}" text-anchor="middle">valence</text>',
        ]
        for tick in TICKS:
            x, y = left + (tick - 1) * unit, bottom - (tick - 1) * unit
            svg += [
                f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tick}</text>',
                f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick}</text>',
            ]
        if not number:
            at = MARGIN + PANEL / 2
            svg.append(f'<text transform="translate(14 {at}) rotate(-90)">arousal</text>')
        for (valence, arousal), name in zip(places, genre, strict=True):
            x, y = left + (valence - 1) * unit, bottom - (arousal - 1) * unit
            svg.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour[name]}" '
                f'fill-opacity=".8"><title>{escape(name)}</title></circle>'
            )
    for number, name in enumerate(genres):
        x, y = width - LEGEND + 8, MARGIN + 12 + number * 21
        svg += [
            f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour[name]}"/>',
            f'<text x="{x + 12}" y="{y}">{escape(name)}</text>',
        ]
    return "\n".join([*svg, "</svg>"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.evaluation.plane",
        description="Draw where people and where a model place clips by valence and arousal.",
    )
    parser.add_argument("corpus", type=Path, help="of `python -m datasets_scripts musifeast`")
    parser.add_argument("--model", type=Path, default=Path("rust/models"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("docs/people.svg"), metavar="SVG")
    args = parser.parse_args(arguments)
    try:
        if not (args.model / "model.safetensors").is_file():
            raise CorpusError(f"no model.safetensors in {args.model}; expected a released model")
        model = Feelprint.from_pretrained(str(args.model)).eval()
        rated, placed, ratings = places(model, args.corpus)
        panels = {"placed by people": rated, "placed by the model": placed}
        write_text(args.out, picture(panels, ratings.genre))
    except (AudioError, CorpusError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
