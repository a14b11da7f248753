"""Simulated raters: how many answers active selection saves against random rounds.

A track has observed features, the model's input, and a latent embedding, by which the raters
answer: a linear map of the features, so that a model can learn it. A rater picks the odd one out
with the probabilities of the softmax over squared distances, or, with the lapse rate, at random.
The model is the ensemble that the survey itself refits (`survey.rounds.ensemble`); its accuracy is
measured on held-out triplets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from survey.results.plots import Series, lines
from survey.rounds import active
from survey.rounds.ensemble import EnsembleConfig, fit_ensemble, identity_maps, mean_accuracy

STRATEGIES = ("active", "random")


@dataclass(frozen=True)
class Simulation:
    """The parameters of a simulated survey.

    tracks, features, dim: numbers of tracks, observed features and latent dimensions;
    temperature: of the raters' softmax; lapse_rate: share of answers given at random;
    initial_answers: to random rounds, before the first model; batch: answers between two models;
    answers: in all; members: models that the ensemble starts from, as an owner names one table of
    embeddings or several, of which the survey makes six members or more; steps: of Adam in each
    fit; held_out: triplets on which the accuracy is measured.
    """

    tracks: int = 300
    features: int = 24
    dim: int = 6
    temperature: float = 0.15
    lapse_rate: float = 0.05
    initial_answers: int = 100
    batch: int = 50
    answers: int = 800
    members: int = 1
    steps: int = 150
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
    latent = x @ (rng.normal(size=(setting.features, setting.dim)) * scale)
    latent = latent[None] / np.sqrt((latent**2).sum(axis=1).mean())  # as long as unit vectors
    artists = np.arange(setting.tracks)
    held_out = active.draw_triplets(artists, setting.held_out, rng)
    truth = active.odd_probabilities(latent, held_out, setting.temperature)[0].argmax(-1)

    def simulate_answers(triplets: np.ndarray) -> np.ndarray:
        p = active.odd_probabilities(latent, triplets, setting.temperature)[0]
        p = (1 - setting.lapse_rate) * p + setting.lapse_rate / 3
        return (p.cumsum(axis=-1) > rng.random((len(triplets), 1))).argmax(axis=-1)

    count = max(setting.members, EnsembleConfig.members)
    fit = EnsembleConfig(count, setting.steps, temperature=setting.temperature)
    # Squared distances of about 2, as between unit vectors.
    models = rng.standard_normal((setting.members, setting.features, setting.dim))
    models /= np.sqrt(setting.features * setting.dim)
    start = models[np.arange(count) % setting.members] @ identity_maps(setting.dim, fit, rng)
    triplets = active.draw_triplets(artists, setting.initial_answers, rng)
    odd = simulate_answers(triplets)
    curve = []
    while True:
        vectors = fit_ensemble(x[None], start, triplets, odd, fit, rng)
        curve.append(mean_accuracy(vectors, held_out, truth, setting.temperature))
        if len(triplets) + setting.batch > setting.answers:
            return curve
        if strategy == "active":
            new = active.select_uncertain(vectors, artists, setting.batch, setting.temperature, rng)
        else:
            new = active.draw_triplets(artists, setting.batch, rng)
        triplets = np.concatenate([triplets, new])
        odd = np.concatenate([odd, simulate_answers(new)])


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
