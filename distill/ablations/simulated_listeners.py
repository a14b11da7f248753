"""Listeners whose taste is known, and what their answers teach: a check of personalization.

A simulated listener hears only rhythm, or only timbre: of three songs, the two that are most alike
in that belong together, and now and then the answer is a guess. `python -m distill.ablations.simulated_listeners` draws
accuracy over the number of answers for the personal model and for the Mahalanobis matrix that
bliss's users can fit to the same answers. The answers are about the validation soundtracks, what is
tested is the test soundtracks: no song, no soundtrack and no composer is in both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import torch

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from distill.ablations import mahalanobis
from distill.evaluation.baselines import BaselineError, Bliss
from distill.evaluation.excerpts import excerpts
from distill.features.shards import CacheError
from distill.personal.answers import (
    BASE,
    EXCERPT_S,
    Answers,
    AnswersError,
    FitConfig,
    Songs,
    base_model,
    embed,
    fit,
    right,
)
from student import Feelprint

CORPUS = Path("data/corpora/free")
SPLIT_ROLES = ("validation", "test")  # the songs of the answers; those that test
COUNTS = (10, 25, 50, 100, 200)
TESTED = 600  # answers that nothing is fitted to
GUESSES = 0.1  # share of the listener's answers that are guesses
REPEATS = 3
LAGS_S = (0.2, 2.0)  # of the pulse: from 300 to 30 beats a minute
HOP = 512  # samples between frames of the onset strength


def rhythm(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """How it moves, whatever it sounds like: (3,).

    The logarithm of the onsets a second; how clear the pulse is, which is the highest
    autocorrelation of the onset strength at lags of 0.2 to 2 s (P. Grosche et al., "Cyclic
    tempogram", 2010, work on the same curve); and how much the onsets stand out, the logarithm of
    the onset strength's deviation over its mean.
    """
    strength = librosa.onset.onset_strength(y=audio, sr=sample_rate, hop_length=HOP)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=sample_rate, hop_length=HOP)
    moved = strength - strength.mean()
    whole = np.correlate(moved, moved, "full")[len(moved) - 1 :]
    low, high = (round(lag * sample_rate / HOP) for lag in LAGS_S)
    pulse = whole[low:high].max() / max(float(whole[0]), 1e-9)
    stand_out = strength.std() / max(float(strength.mean()), 1e-9)
    a_second = len(onsets) * sample_rate / len(audio)
    return np.array([np.log1p(a_second), pulse, np.log(stand_out + 1e-9)])


def timbre(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """How it sounds, whatever is played: the means of MFCCs 1 to 4, the spectrum's shape: (4,)."""
    return librosa.feature.mfcc(y=audio, sr=sample_rate, n_mfcc=5)[1:].mean(axis=1)


LISTENER_FEATURES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "rhythm": rhythm,
    "timbre": timbre,
}


def standardised(features: np.ndarray) -> np.ndarray:
    """(songs, dim), every feature to mean 0 and deviation 1."""
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)


def simulate_answers(
    heard: np.ndarray, among: np.ndarray, count: int, guesses: float, seed: int
) -> Answers:
    """``count`` answers about songs of the numbers ``among`` by who hears only ``heard``."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        three = rng.choice(among, 3, replace=False)
        x = heard[three]
        # apart[i]: distance of the two that leave song i out
        apart = [np.linalg.norm(x[(i + 1) % 3] - x[(i + 2) % 3]) for i in range(3)]
        odd = int(rng.integers(3)) if rng.random() < guesses else int(np.argmin(apart))
        rows.append([three[(odd + 1) % 3], three[(odd + 2) % 3], three[odd]])
    return Answers(np.array(rows), np.ones(count))


def curve(
    model: Feelprint,
    songs: Songs,
    heard: np.ndarray,
    rival: np.ndarray,
    tested: np.ndarray,
    config: FitConfig,
) -> dict[str, list[list[float]]]:
    """Accuracy over the number of answers, [count, mean, lowest, highest] of REPEATS listeners.

    ``tested`` (songs,) is true for the songs that only test; the answers to learn from are about
    the others. ``rival`` (songs, dim) are bliss's features.
    """
    made: dict[str, dict[int, list[float]]] = {}
    for repeat in range(REPEATS):
        test = simulate_answers(heard, np.flatnonzero(tested), TESTED, 0.0, 10_000 + repeat)
        for count in (0, *COUNTS):
            shown = simulate_answers(heard, np.flatnonzero(~tested), max(count, 1), GUESSES, repeat)
            if count:
                ours = embed(fit(model.head, songs, shown, config, seed=repeat), songs)
                theirs = rival @ mahalanobis.learn(rival, shown, repeat)
            else:
                ours, theirs = embed(model.head, songs), rival
            for name, vectors in (("personal", ours), ("mahalanobis", theirs)):
                hits = float(right(vectors, test).mean())
                made.setdefault(name, {}).setdefault(count, []).append(hits)
    return {
        name: [[n, float(np.mean(v)), min(v), max(v)] for n, v in sorted(counts.items())]
        for name, counts in made.items()
    }


def draw(curves: dict[str, dict[str, list[list[float]]]]) -> str:
    """One panel a listener: accuracy over answers, with the range over repeats, as SVG."""
    width, height, left, top = 360, 230, 46, 34
    colours = {"personal": "#c2410c", "mahalanobis": "#2563a8"}
    names = {"personal": "feelprint, LoRA on the head", "mahalanobis": "bliss, Mahalanobis matrix"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {height + 58}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{2 * width}" height="{height + 58}" fill="#ffffff"/>'
    ]
    for panel, (listener, lines) in enumerate(curves.items()):
        x0 = panel * width + left
        counts = [row[0] for row in next(iter(lines.values()))]

        def x(n: float, x0: float = x0, counts: list[float] = counts) -> float:
            return x0 + (width - left - 20) * counts.index(n) / max(1, len(counts) - 1)

        def y(share: float) -> float:
            return top + (height - top) * (0.9 - share) / 0.6

        parts.append(
            f'<text x="{x0}" y="18" font-weight="600">a listener who hears only {listener}</text>'
        )
        for tick in (0.3, 0.5, 0.7, 0.9):
            parts.append(
                f'<line x1="{x0}" x2="{x0 + width - left - 20}" y1="{y(tick):.1f}" '
                f'y2="{y(tick):.1f}" stroke="#dddddd"/><text x="{x0 - 6}" y="{y(tick) + 4:.1f}" '
                f'text-anchor="end">{100 * tick:.0f}</text>'
            )
        parts.append(
            f'<line x1="{x0}" x2="{x0 + width - left - 20}" y1="{y(1 / 3):.1f}" '
            f'y2="{y(1 / 3):.1f}" stroke="#888888" stroke-dasharray="3 3"/>'
        )
        for n in counts:
            parts.append(
                f'<text x="{x(n):.1f}" y="{height + 16}" text-anchor="middle">{n:.0f}</text>'
            )
        for name, rows in lines.items():
            upper = [f"{x(n):.1f},{y(high):.1f}" for n, _, _, high in rows]
            lower = [f"{x(n):.1f},{y(low):.1f}" for n, _, low, _ in reversed(rows)]
            middle = " ".join(f"{x(n):.1f},{y(mean):.1f}" for n, mean, _, _ in rows)
            parts.append(
                f'<polygon points="{" ".join(upper + lower)}" fill="{colours[name]}" '
                f'opacity="0.15"/><polyline points="{middle}" fill="none" '
                f'stroke="{colours[name]}" stroke-width="2"/>'
            )
    for at, (name, colour) in enumerate(colours.items()):
        parts.append(
            f'<rect x="{left + 230 * at}" y="{height + 36}" width="14" height="4" '
            f'fill="{colour}"/><text x="{left + 20 + 230 * at}" y="{height + 42}">{names[name]}'
            "</text>"
        )
    parts.append(
        f'<text x="{2 * width - 20}" y="{height + 42}" text-anchor="end" fill="#555555">'
        "% right over answers; dashed: chance</text></svg>"
    )
    return "".join(parts) + "\n"


def simulate(
    model: Feelprint, corpus: Corpus, cache: Path, config: FitConfig
) -> dict[str, dict[str, list[list[float]]]]:
    """The curves of both listeners, on the first excerpt of every held-out track.

    Raises BaselineError without bliss, CacheError for a split of fewer than three tracks.
    """
    learned, tested = (excerpts(corpus, split, EXCERPT_S, cache) for split in SPLIT_ROLES)
    clips = [*learned.audio[:, 0], *tested.audio[:, 0]]  # (samples,) each
    bliss, rate = Bliss(), model.config.sample_rate
    rival = np.stack([bliss(clip) for clip in clips]).astype(np.float64)
    bliss.close()
    with torch.inference_mode():
        parts = [model.encode(torch.from_numpy(clip)[None]) for clip in clips]
    songs = Songs(
        [*learned.tracks, *tested.tracks],
        torch.cat([tokens for tokens, _ in parts]).clone(),
        torch.cat([nonsilent_ratio for _, nonsilent_ratio in parts]).clone(),
    )
    tests = np.arange(len(clips)) >= len(learned.tracks)
    return {
        name: curve(
            model,
            songs,
            standardised(np.stack([hears(c, rate) for c in clips])),
            rival,
            tests,
            config,
        )
        for name, hears in LISTENER_FEATURES.items()
    }


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.ablations.simulated_listeners", description=__doc__
    )
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=f"the songs ({CORPUS})")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="keeps the excerpts")
    parser.add_argument("--out", type=Path, default=Path("docs/personal"), help=".svg and .json")
    parser.add_argument("--prior", type=float, default=FitConfig.prior)
    options = parser.parse_args(arguments)
    try:
        model, corpus = base_model(options.base), Corpus(options.corpus)
        config = FitConfig(prior=options.prior)
        curves = simulate(model, corpus, options.cache, config)
    except (AnswersError, CacheError, CorpusError, BaselineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")
    options.out.with_suffix(".svg").write_text(draw(curves))
    for listener, lines in curves.items():
        for name, rows in lines.items():
            shown = ", ".join(f"{n:.0f}: {100 * mean:.1f}" for n, mean, _, _ in rows)
            print(f"{listener}, {name}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
