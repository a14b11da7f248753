"""An ensemble of linear maps of the embeddings, fitted to the answers so far, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from survey.rounds.active import odd_probabilities

BETA = (0.9, 0.999)  # Adam's decay rates (Kingma and Ba 2015)


@dataclass(frozen=True)
class EnsembleConfig:
    """members: linear maps; steps, learning_rate: of Adam; prior: weight of the L2 penalty.

    temperature: of the odd-one-out softmax over half the squared distances.
    """

    members: int = 6
    steps: int = 150
    learning_rate: float = 0.02
    prior: float = 0.1
    temperature: float = 0.1


def identity_maps(dim: int, config: EnsembleConfig, rng: np.random.Generator) -> np.ndarray:
    """Maps near the identity, (members, dim, dim): before any answer, the members nearly agree."""
    noise = rng.standard_normal((config.members, dim, dim)) * 0.1 / np.sqrt(dim)
    return np.eye(dim) + (noise if config.members > 1 else np.zeros_like(noise))


def fit_ensemble(
    x: np.ndarray,
    start: np.ndarray,
    triplets: np.ndarray,
    odd: np.ndarray,
    config: EnsembleConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """The embeddings by each fitted map, (members, tracks, dim).

    x: (tables, tracks, features), of which member m maps table m modulo tables; start: (members,
    features, dim); triplets: (answers, 3) track indices; odd: (answers,) 0, 1 or 2. Each member
    maximises the likelihood of its own bootstrap of the answers, by Poisson(1) weights (BALD's
    ensemble; Lakshminarayanan et al. 2017), minus `prior` times the squared distance from its
    start, which keeps the members apart where no answer constrains them.
    """
    found = []
    for member, first in enumerate(start):
        features = x[member % len(x)]
        weight = rng.poisson(1.0, len(odd)).astype(float) if len(start) > 1 else np.ones(len(odd))
        fitted = _fit_map(features, first, triplets, odd, weight, config) if len(odd) else first
        found.append(features @ fitted)
    return np.stack(found)


def _fit_map(
    x: np.ndarray,
    start: np.ndarray,
    triplets: np.ndarray,
    odd: np.ndarray,
    weight: np.ndarray,
    config: EnsembleConfig,
) -> np.ndarray:
    a, b, c = x[triplets.T]  # (answers, features) each
    pairs = np.stack([b - c, a - c, a - b])  # (3, answers, features)
    chosen = np.eye(3)[odd]  # (answers, 3)
    fitted = start.copy()
    mean, square = np.zeros_like(start), np.zeros_like(start)
    for step in range(1, config.steps + 1):
        mapped = pairs @ fitted  # (3, answers, dim)
        logits = -(mapped**2).sum(-1).T / 2 / config.temperature
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        # d(-log p)/d(logit) = p - chosen, and d(logit)/d(map) = -pair^T mapped / temperature.
        slope = ((p - chosen) * weight[:, None]).T[..., None] / -config.temperature
        gradient = np.einsum("kaf,kad->fd", pairs, slope * mapped, optimize=True)
        gradient = (gradient + 2 * config.prior * (fitted - start)) / max(1.0, weight.sum())
        mean = BETA[0] * mean + (1 - BETA[0]) * gradient
        square = BETA[1] * square + (1 - BETA[1]) * gradient**2
        m, v = mean / (1 - BETA[0] ** step), square / (1 - BETA[1] ** step)
        fitted -= config.learning_rate * m / (np.sqrt(v) + 1e-8)
    return fitted


def mean_accuracy(
    vectors: np.ndarray, triplets: np.ndarray, odd: np.ndarray, temperature: float
) -> float:
    """Share of triplets whose odd one the ensemble's mean probability picks."""
    p = odd_probabilities(vectors, triplets, temperature).mean(axis=0)
    return float((p.argmax(axis=-1) == odd).mean())
