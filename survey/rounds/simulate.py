"""Simulated raters: how many answers active selection saves against random rounds.

A track has observed features, the model's input, and a latent embedding, by which the raters
answer: a linear map of the features, so that a model can learn it. A rater picks the odd one out
with the probabilities of the softmax over cosine similarities, or, with the lapse rate, at random.
The model is an ensemble of linear maps, fitted to all answers so far by maximum likelihood; its
accuracy is measured on held-out triplets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from survey.results.plots import Series, lines
from survey.rounds import active

STRATEGIES = ("active", "random")


@dataclass(frozen=True)
class Simulation:
    """The parameters of a simulated survey.

    tracks, features, dim: numbers of tracks, observed features and latent dimensions;
    temperature: of the raters' softmax; lapse_rate: share of answers given at random;
    initial_answers: to random rounds, before the first model; batch: answers between two models;
    answers: in all; members: of the ensemble; steps: of Adam in each fit; held_out: triplets on
    which the accuracy is measured.
    """

    tracks: int = 300
    features: int = 24
    dim: int = 6
    temperature: float = 0.15
    lapse_rate: float = 0.05
    initial_answers: int = 100
    batch: int = 50
    answers: int = 800
    members: int = 6
    steps: int = 200
    held_out: int = 4000


@dataclass(frozen=True)
class Curves:
    """answers: (n,) counts; accuracy: by strategy, (seeds, n), on held-out triplets."""

    answers: list[int]
    accuracy: dict[str, np.ndarray]

    def answers_needed(self, strategy: str, accuracy: float) -> float:
        """Answers after which the mean curve of `strategy` reaches `accuracy`; inf if never.

        Linear interpolation between two batches.
        """
        mean = self.accuracy[strategy].mean(axis=0)
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
    """The learning curves of both strategies; a seed fixes the tracks, the raters and the model."""
    found: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
    for seed in seeds:
        for strategy in STRATEGIES:
            found[strategy].append(_learning_curve(setting, seed, strategy))
        ends = ", ".join(f"{strategy} {found[strategy][-1][-1]:.3f}" for strategy in STRATEGIES)
        report(f"seed {seed}: accuracy after {setting.answers} answers: {ends}")
    counts = list(range(setting.initial_answers, setting.answers + 1, setting.batch))
    return Curves(counts, {strategy: np.asarray(found[strategy]) for strategy in STRATEGIES})


def _learning_curve(setting: Simulation, seed: int, strategy: str) -> list[float]:
    """The held-out accuracy after each batch of answers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(setting.tracks, setting.features))
    scale = np.exp(-np.arange(setting.features) / 6)[:, None]  # the first features count most
    latent = _unit(x @ (rng.normal(size=(setting.features, setting.dim)) * scale))[None]
    artists = np.arange(setting.tracks)
    held_out = active.draw_triplets(artists, setting.held_out, rng)
    truth = active.odd_probabilities(latent, held_out, setting.temperature)[0].argmax(-1)

    def simulate_answers(triplets: np.ndarray) -> np.ndarray:
        p = active.odd_probabilities(latent, triplets, setting.temperature)[0]
        p = (1 - setting.lapse_rate) * p + setting.lapse_rate / 3
        return (p.cumsum(axis=-1) > rng.random((len(triplets), 1))).argmax(axis=-1)

    triplets = active.draw_triplets(artists, setting.initial_answers, rng)
    odd = simulate_answers(triplets)
    curve = []
    while True:
        vectors = _fit(setting, x, triplets, odd, rng)
        p = active.odd_probabilities(vectors, held_out, setting.temperature)
        curve.append(float((p.mean(axis=0).argmax(-1) == truth).mean()))
        if len(triplets) + setting.batch > setting.answers:
            return curve
        if strategy == "active":
            new = active.select_uncertain(vectors, artists, setting.batch, setting.temperature, rng)
        else:
            new = active.draw_triplets(artists, setting.batch, rng)
        triplets = np.concatenate([triplets, new])
        odd = np.concatenate([odd, simulate_answers(new)])


def _fit(
    setting: Simulation,
    x: np.ndarray,
    triplets: np.ndarray,
    odd: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The ensemble's unit vectors, (members, tracks, dim), fitted to the answers.

    Each member has its own random initialisation and its own bootstrap of the answers, by
    Poisson(1) weights. An L2 penalty on the distance from the initialisation keeps the members
    different where no answer constrains them.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shape = (setting.members, setting.features, setting.dim)
    start = torch.randn(shape, generator=generator) / setting.features**0.5
    maps = start.clone().requires_grad_(True)  # (members, features, dim)
    weight = torch.tensor(rng.poisson(1.0, (setting.members, len(odd))), dtype=torch.float32)
    observed = torch.tensor(x, dtype=torch.float32)  # (tracks, features)
    a, b, c = torch.tensor(triplets).T  # each (answers,)
    answer = torch.tensor(odd).expand(setting.members, -1)[..., None]  # (members, answers, 1)
    adam = torch.optim.Adam([maps], lr=0.05)
    for _ in range(setting.steps):
        v = torch.nn.functional.normalize(observed @ maps, dim=-1)  # (members, tracks, dim)
        pairs = [(v[:, i] * v[:, j]).sum(-1) for i, j in ((b, c), (a, c), (a, b))]
        logits = torch.stack(pairs, dim=-1) / setting.temperature  # (members, answers, 3)
        log_likelihood = torch.log_softmax(logits, dim=-1).gather(-1, answer)[..., 0]
        penalty = 0.1 * ((maps - start) ** 2).sum()
        loss = (penalty - (weight * log_likelihood).sum()) / len(odd)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return _unit(np.einsum("nf,mfd->mnd", x, maps.detach().numpy()))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def plot(curves: Curves) -> str:
    """The curves as an SVG: means over the seeds, and bands from the lowest to the highest seed."""
    series = []
    for strategy in STRATEGIES:
        runs = curves.accuracy[strategy]
        band = zip(curves.answers, runs.min(axis=0), runs.max(axis=0), strict=True)
        points = zip(curves.answers, runs.mean(axis=0), strict=True)
        series.append(Series(f"{strategy} rounds", list(points), list(band)))
    title = "Accuracy on held-out triplets by number of answers, active and random rounds"
    return lines(title, series, "answers", standalone=True)
