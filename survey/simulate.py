"""Raters of known noise over a known space: what active selection saves against random rounds.

The tracks have features that a model sees and a place in a space of feeling that only the raters
know: a linear map of the features, so that a model can learn it from answers. A rater chooses the
odd one out by the softmax over similarities, and now and then by chance. The model is an ensemble
of linear maps, fitted to all answers so far by the odd-one-out likelihood; it is scored on
triplets of its own that nobody is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from survey import active
from survey.plots import Series, lines

WAYS = ("active", "random")


@dataclass(frozen=True)
class Simulation:
    """One simulated survey.

    tracks, features, dim: sizes of the corpus, of what the model sees, and of the space of
    feeling; temperature: of the raters' softmax; lapse: share of answers given by chance;
    first: answers to random rounds before the first model; batch: answers between two models;
    answers: where it ends; members: of the ensemble; steps: of Adam in each fit; held_out:
    triplets that the accuracy is measured on.
    """

    tracks: int = 300
    features: int = 24
    dim: int = 6
    temperature: float = 0.15
    lapse: float = 0.05
    first: int = 100
    batch: int = 50
    answers: int = 800
    members: int = 6
    steps: int = 200
    held_out: int = 4000


@dataclass(frozen=True)
class Curves:
    """answers: (n,) counts; accuracy: for each way, (seeds, n), on held-out triplets."""

    answers: list[int]
    accuracy: dict[str, np.ndarray]

    def needed(self, way: str, accuracy: float) -> float:
        """Answers until the mean curve of `way` reaches `accuracy`, interpolated; inf if never."""
        mean = self.accuracy[way].mean(axis=0)
        above = np.flatnonzero(mean >= accuracy)
        if not len(above):
            return float("inf")
        i = int(above[0])
        if i == 0:
            return float(self.answers[0])
        part = (accuracy - mean[i - 1]) / (mean[i] - mean[i - 1])
        return self.answers[i - 1] + float(part) * (self.answers[i] - self.answers[i - 1])


def simulate(
    setting: Simulation, seeds: Sequence[int], report: Callable[[str], None] = print
) -> Curves:
    """Both ways of asking, for every seed; a seed fixes the space, the raters and the model."""
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way in WAYS:
            found[way].append(_one(setting, seed, way))
        ends = ", ".join(f"{way} {found[way][-1][-1]:.3f}" for way in WAYS)
        report(f"seed {seed}: accuracy after {setting.answers} answers: {ends}")
    counts = list(range(setting.first, setting.answers + 1, setting.batch))
    return Curves(counts, {way: np.asarray(found[way]) for way in WAYS})


def _one(setting: Simulation, seed: int, way: str) -> list[float]:
    """The held-out accuracy after each batch of answers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(setting.tracks, setting.features))
    fading = np.exp(-np.arange(setting.features) / 6)[:, None]  # some features matter more
    feeling = _unit(x @ (rng.normal(size=(setting.features, setting.dim)) * fading))[None]
    artists = np.arange(setting.tracks)
    held_out = active.draw_triples(artists, setting.held_out, rng)
    truth = active.odd_probabilities(feeling, held_out, setting.temperature)[0].argmax(-1)

    def ask(triples: np.ndarray) -> np.ndarray:
        p = active.odd_probabilities(feeling, triples, setting.temperature)[0]
        p = (1 - setting.lapse) * p + setting.lapse / 3
        return (p.cumsum(axis=-1) > rng.random((len(triples), 1))).argmax(axis=-1)

    triples = active.draw_triples(artists, setting.first, rng)
    odd = ask(triples)
    curve = []
    while True:
        vectors = _fit(setting, x, triples, odd, rng)
        p = active.odd_probabilities(vectors, held_out, setting.temperature)
        curve.append(float((p.mean(axis=0).argmax(-1) == truth).mean()))
        if len(triples) + setting.batch > setting.answers:
            return curve
        if way == "active":
            new = active.least_sure(vectors, artists, setting.batch, setting.temperature, rng)
        else:
            new = active.draw_triples(artists, setting.batch, rng)
        triples, odd = np.concatenate([triples, new]), np.concatenate([odd, ask(new)])


def _fit(
    setting: Simulation,
    x: np.ndarray,
    triples: np.ndarray,
    odd: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The ensemble's unit vectors, (members, tracks, dim), fitted to the answers.

    Every member starts elsewhere and weighs the answers by its own Poisson(1) draw, a bootstrap;
    a weak pull to where it started keeps the members apart on what no answer has told yet.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shape = (setting.members, setting.features, setting.dim)
    start = torch.randn(shape, generator=generator) / setting.features**0.5
    maps = start.clone().requires_grad_(True)  # (members, features, dim)
    weight = torch.tensor(rng.poisson(1.0, (setting.members, len(odd))), dtype=torch.float32)
    seen = torch.tensor(x, dtype=torch.float32)  # (tracks, features)
    a, b, c = torch.tensor(triples).T  # each (answers,)
    answer = torch.tensor(odd).expand(setting.members, -1)[..., None]  # (members, answers, 1)
    adam = torch.optim.Adam([maps], lr=0.05)
    for _ in range(setting.steps):
        v = torch.nn.functional.normalize(seen @ maps, dim=-1)  # (members, tracks, dim)
        pairs = [(v[:, i] * v[:, j]).sum(-1) for i, j in ((b, c), (a, c), (a, b))]
        logits = torch.stack(pairs, dim=-1) / setting.temperature  # (members, answers, 3)
        given = torch.log_softmax(logits, dim=-1).gather(-1, answer)[..., 0]
        pull = 0.1 * ((maps - start) ** 2).sum()
        loss = (pull - (weight * given).sum()) / len(odd)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return _unit(np.einsum("nf,mfd->mnd", x, maps.detach().numpy()))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def plot(curves: Curves) -> str:
    """The curves as an SVG file: means, and bands from the lowest to the highest seed."""
    series = []
    for way in WAYS:
        runs = curves.accuracy[way]
        band = zip(curves.answers, runs.min(axis=0), runs.max(axis=0), strict=True)
        points = zip(curves.answers, runs.mean(axis=0), strict=True)
        series.append(Series(f"{way} rounds", list(points), list(band)))
    title = "Accuracy on held-out triplets by number of answers, active and random rounds"
    return lines(title, series, "answers", alone=True)
