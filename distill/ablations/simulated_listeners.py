"""`python -m distill.ablations.simulated_listeners`: personalisation to listeners of known taste.

A simulated listener judges by rhythm only, or by timbre only: of three tracks, the one that is
farthest from the nearest pair in these features is the odd one out, and a tenth of the answers are
random (lapses). The output is the accuracy over the number of answers, for the personal model and
for the Mahalanobis matrix that users of bliss can fit to the same answers. The answers are about
the validation albums, the test is on the test albums: no track, album or composer is in both.
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
from datasets_scripts.files import write_text
from distill.ablations import mahalanobis
from distill.evaluation.baselines import BaselineError, Bliss
from distill.evaluation.excerpts import excerpts
from distill.features.shards import CacheError
from distill.personal.answers import (
    BASE,
    EXCERPT_S,
    Answers,
    AnswersError,
    EncodedTracks,
    FitConfig,
    base_model,
    embed,
    fit,
    triplet_correct,
)
from student import Feelprint

CORPUS = Path("data/corpora/free")
SPLIT_ROLES = ("validation", "test")  # of the tracks that the answers are about; of the test
COUNTS = (10, 25, 50, 100, 200)
TEST_ANSWERS = 600
LAPSE_RATE = 0.1  # share of the answers that are random
REPEATS = 3
LAGS_S = (0.2, 2.0)  # of the pulse: from 300 to 30 beats per minute
HOP = 512  # samples between frames of the onset strength

WIDTH, HEIGHT, LEFT, TOP = 360, 230, 46, 34  # of a panel of the figure, in SVG units
COLOURS = {"personal": "#c2410c", "mahalanobis": "#2563a8"}
NAMES = {"personal": "feelprint, LoRA on the head", "mahalanobis": "bliss, Mahalanobis matrix"}

# listener -> model -> rows of (number of answers, mean accuracy, lowest, highest)
Curves = dict[str, dict[str, list[list[float]]]]


def rhythm(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Rhythm features of mono audio (samples,): (3,).

    The logarithm of the onsets per second; the clarity of the pulse, which is the highest
    autocorrelation of the onset strength at lags of 0.2 to 2 s (P. Grosche et al., "Cyclic
    tempogram", 2010, use the same curve); and the contrast of the onsets, the logarithm of the
    onset strength's standard deviation over its mean.
    """
    strength = librosa.onset.onset_strength(y=audio, sr=sample_rate, hop_length=HOP)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=sample_rate, hop_length=HOP)
    centred = strength - strength.mean()
    autocorrelation = np.correlate(centred, centred, "full")[len(centred) - 1 :]
    low, high = (round(lag * sample_rate / HOP) for lag in LAGS_S)
    pulse = autocorrelation[low:high].max() / max(float(autocorrelation[0]), 1e-9)
    contrast = strength.std() / max(float(strength.mean()), 1e-9)
    onset_rate = len(onsets) * sample_rate / len(audio)  # 1/s
    return np.array([np.log1p(onset_rate), pulse, np.log(contrast + 1e-9)])


def timbre(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Timbre features of mono audio (samples,): the means of MFCCs 1 to 4, (4,)."""
    return librosa.feature.mfcc(y=audio, sr=sample_rate, n_mfcc=5)[1:].mean(axis=1)


LISTENER_FEATURES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "rhythm": rhythm,
    "timbre": timbre,
}


def standardised(features: np.ndarray) -> np.ndarray:
    """(tracks, dim), every feature with mean 0 and standard deviation 1."""
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)


def simulate_answers(
    features: np.ndarray, among: np.ndarray, count: int, lapse_rate: float, seed: int
) -> Answers:
    """``count`` answers of a listener who judges by distance in ``features`` (tracks, dim).

    among: the numbers of the tracks that the answers are about. lapse_rate: share of random
    answers.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        three = rng.choice(among, 3, replace=False)
        x = features[three]
        # distance[i]: of the pair without track i
        distance = [np.linalg.norm(x[(i + 1) % 3] - x[(i + 2) % 3]) for i in range(3)]
        odd = int(rng.integers(3)) if rng.random() < lapse_rate else int(np.argmin(distance))
        rows.append([three[(odd + 1) % 3], three[(odd + 2) % 3], three[odd]])
    return Answers(np.array(rows), np.ones(count))


def curve(
    model: Feelprint,
    tracks: EncodedTracks,
    features: np.ndarray,
    bliss_features: np.ndarray,
    is_test: np.ndarray,
    config: FitConfig,
) -> dict[str, list[list[float]]]:
    """Accuracy over the number of answers, [count, mean, lowest, highest] of REPEATS listeners.

    ``features`` (tracks, dim) are those that the listener judges by, ``bliss_features`` those of
    bliss. ``is_test`` (tracks,) is true for the test tracks; the answers to fit are about the
    others.
    """
    accuracies: dict[str, dict[int, list[float]]] = {}
    for repeat in range(REPEATS):
        test = simulate_answers(
            features, np.flatnonzero(is_test), TEST_ANSWERS, 0.0, 10_000 + repeat
        )
        personal, baseline = embed(model.head, tracks), bliss_features
        for count in (0, *COUNTS):
            if count:
                train = simulate_answers(
                    features, np.flatnonzero(~is_test), count, LAPSE_RATE, repeat
                )
                head = fit(model.head, tracks, train, config, seed=repeat)
                matrix = mahalanobis.fit_cross_validated(bliss_features, train, repeat)
                personal, baseline = embed(head, tracks), bliss_features @ matrix
            for name, vectors in (("personal", personal), ("mahalanobis", baseline)):
                accuracy = float(triplet_correct(vectors, test).mean())
                accuracies.setdefault(name, {}).setdefault(count, []).append(accuracy)
    return {
        name: [[n, float(np.mean(v)), min(v), max(v)] for n, v in sorted(counts.items())]
        for name, counts in accuracies.items()
    }


def draw(curves: Curves) -> str:
    """One panel a listener: accuracy over answers, with the range over repeats, as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT + 58}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{2 * WIDTH}" height="{HEIGHT + 58}" fill="#ffffff"/>'
    ]
    for panel, (listener, lines) in enumerate(curves.items()):
        parts += _panel(panel * WIDTH + LEFT, listener, lines)
    for n, (name, colour) in enumerate(COLOURS.items()):
        parts.append(
            f'<rect x="{LEFT + 230 * n}" y="{HEIGHT + 36}" width="14" height="4" '
            f'fill="{colour}"/><text x="{LEFT + 20 + 230 * n}" y="{HEIGHT + 42}">{NAMES[name]}'
            "</text>"
        )
    parts.append(
        f'<text x="{2 * WIDTH - 20}" y="{HEIGHT + 42}" text-anchor="end" fill="#555555">'
        "accuracy (%) over answers; dashed: chance</text></svg>"
    )
    return "".join(parts) + "\n"


def _panel(x0: int, listener: str, lines: dict[str, list[list[float]]]) -> list[str]:
    """The SVG elements of one listener's panel, whose plot area starts at ``x0``."""
    counts = [row[0] for row in next(iter(lines.values()))]
    x1 = x0 + WIDTH - LEFT - 20

    def x(n: float) -> float:
        return x0 + (x1 - x0) * counts.index(n) / max(1, len(counts) - 1)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP) * (0.9 - share) / 0.6

    parts = [f'<text x="{x0}" y="18" font-weight="600">a listener for {listener} only</text>']
    for tick in (0.3, 0.5, 0.7, 0.9):
        parts.append(
            f'<line x1="{x0}" x2="{x1}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}" stroke="#dddddd"/><text x="{x0 - 6}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{100 * tick:.0f}</text>'
        )
    parts.append(
        f'<line x1="{x0}" x2="{x1}" y1="{y(1 / 3):.1f}" '
        f'y2="{y(1 / 3):.1f}" stroke="#888888" stroke-dasharray="3 3"/>'
    )
    for n in counts:
        parts.append(f'<text x="{x(n):.1f}" y="{HEIGHT + 16}" text-anchor="middle">{n:.0f}</text>')
    for name, rows in lines.items():
        upper = [f"{x(n):.1f},{y(high):.1f}" for n, _, _, high in rows]
        lower = [f"{x(n):.1f},{y(low):.1f}" for n, _, low, _ in reversed(rows)]
        middle = " ".join(f"{x(n):.1f},{y(mean):.1f}" for n, mean, _, _ in rows)
        parts.append(
            f'<polygon points="{" ".join(upper + lower)}" fill="{COLOURS[name]}" '
            f'opacity="0.15"/><polyline points="{middle}" fill="none" '
            f'stroke="{COLOURS[name]}" stroke-width="2"/>'
        )
    return parts


def simulate(model: Feelprint, corpus: Corpus, cache: Path, config: FitConfig) -> Curves:
    """The curves of both listeners, on the first excerpt of every validation and test track.

    Raises BaselineError without bliss, CacheError for a split of fewer than three tracks.
    """
    train, test = (excerpts(corpus, split, EXCERPT_S, cache) for split in SPLIT_ROLES)
    clips = [*train.audio[:, 0], *test.audio[:, 0]]  # (samples,) each
    bliss, rate = Bliss(), model.config.sample_rate
    bliss_features = np.stack([bliss(clip) for clip in clips]).astype(np.float64)
    bliss.close()
    with torch.inference_mode():
        parts = [model.encode(torch.from_numpy(clip)[None]) for clip in clips]
    tracks = EncodedTracks(
        [*train.tracks, *test.tracks],
        torch.cat([tokens for tokens, _ in parts]).clone(),
        torch.cat([window_weight for _, window_weight in parts]).clone(),
    )
    is_test = np.arange(len(clips)) >= len(train.tracks)
    return {
        name: curve(
            model,
            tracks,
            standardised(np.stack([features_of(clip, rate) for clip in clips])),
            bliss_features,
            is_test,
            config,
        )
        for name, features_of in LISTENER_FEATURES.items()
    }


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.ablations.simulated_listeners", description=__doc__
    )
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    parser.add_argument(
        "--corpus", type=Path, default=CORPUS, help=f"the corpus of the tracks ({CORPUS})"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("data/cache"), help="the folder of cached excerpts"
    )
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
    write_text(options.out.with_suffix(".json"), json.dumps(curves, indent=1) + "\n")
    write_text(options.out.with_suffix(".svg"), draw(curves))
    for listener, lines in curves.items():
        for name, rows in lines.items():
            shown = ", ".join(f"{n:.0f}: {100 * mean:.1f}" for n, mean, _, _ in rows)
            print(f"{listener}, {name}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
