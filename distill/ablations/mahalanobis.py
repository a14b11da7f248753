"""A Mahalanobis matrix fitted to answers: what a listener of bliss can have today.

The objective is that of bliss-metric-learning (github.com/Polochon-street/bliss-metric-learning,
learn.py), written anew: with d(x, y) = |L'(x - y)|, each answer (x, y, odd) brings
-log Phi((d(y, odd) - d(x, y)) / s) - log Phi((d(x, odd) - d(x, y)) / s), s = 2, plus a penalty
l |L|^2; L starts at the identity, l is chosen by five-fold cross-validation. Phi is the normal
distribution's, as in Thurstone's law of comparative judgement (1927).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from distill.personal.answers import Answers, folds, right

SIGMA = 2.0
PENALTIES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 5
DISTANCE_EPS = 1e-9  # keeps the root's slope finite where two songs are the same


def fit_matrix(features: np.ndarray, answers: Answers, penalty: float) -> np.ndarray:
    """L (dim, dim), fitted by L-BFGS to ``answers`` about songs of ``features`` (songs, dim)."""
    dim = features.shape[1]
    x, y, odd = (torch.from_numpy(features[answers.rows[:, i]]).double() for i in range(3))
    weight = torch.from_numpy(answers.weight)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = torch.from_numpy(flat.reshape(dim, dim).copy()).requires_grad_(True)

        def d(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
            return (((p - q) @ matrix).square().sum(dim=1) + DISTANCE_EPS).sqrt()

        near = d(x, y)
        told = [torch.special.log_ndtr((far - near) / SIGMA) for far in (d(y, odd), d(x, odd))]
        loss = -((told[0] + told[1]) * weight).sum() + penalty * matrix.square().sum()
        loss.backward()
        assert matrix.grad is not None
        return loss.item(), matrix.grad.numpy().reshape(-1)

    found = minimize(
        objective, np.eye(dim).reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    return found.x.reshape(dim, dim)


def learn(features: np.ndarray, answers: Answers, seed: int = 0) -> np.ndarray:
    """L (dim, dim) with the penalty that five-fold cross-validation likes best.

    Fewer than five answers are too few to choose by: the strongest but one is then taken.
    """
    penalty = PENALTIES[-2]
    if len(answers) >= FOLDS:
        fold = folds(np.arange(len(answers)), FOLDS, seed)
        going = []
        for candidate in PENALTIES:
            hits = 0.0
            for number in range(FOLDS):
                held = fold == number
                matrix = fit_matrix(features, answers.part(~held), candidate)
                hits += right(features @ matrix, answers.part(held)).sum()
            going.append(hits)
        penalty = PENALTIES[int(np.argmax(going))]
    return fit_matrix(features, answers, penalty)
