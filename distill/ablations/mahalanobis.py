"""A Mahalanobis matrix fitted to answers: the personalisation that bliss offers, as a baseline.

The objective is that of bliss-metric-learning (github.com/Polochon-street/bliss-metric-learning,
learn.py), reimplemented: with d(x, y) = |L'(x - y)|, each answer (x, y, odd) brings
-log Phi((d(y, odd) - d(x, y)) / s) - log Phi((d(x, odd) - d(x, y)) / s), s = 2, plus a penalty
l |L|^2; L starts at the identity, l is chosen by five-fold cross-validation. Phi is the normal
distribution's, as in Thurstone's law of comparative judgement (1927).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from distill.personal.answers import Answers, folds, triplet_correct

SIGMA = 2.0
PENALTIES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 5
DISTANCE_EPS = 1e-9  # keeps the gradient of the root finite for equal features


def fit_matrix(features: np.ndarray, answers: Answers, penalty: float) -> np.ndarray:
    """L (dim, dim), fitted by L-BFGS to ``answers`` about tracks of ``features`` (tracks, dim)."""
    dim = features.shape[1]
    x, y, odd = (torch.from_numpy(features[answers.rows[:, i]]).double() for i in range(3))
    weight = torch.from_numpy(answers.weight)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = torch.from_numpy(flat.reshape(dim, dim).copy()).requires_grad_(True)

        def d(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
            return (((p - q) @ matrix).square().sum(dim=1) + DISTANCE_EPS).sqrt()

        near = d(x, y)
        distances = (d(y, odd), d(x, odd))
        log_likelihood = sum(torch.special.log_ndtr((far - near) / SIGMA) for far in distances)
        nll = -(log_likelihood * weight).sum()
        loss = nll + penalty * matrix.square().sum()
        loss.backward()
        assert matrix.grad is not None
        return loss.item(), matrix.grad.numpy().reshape(-1)

    found = minimize(
        objective, np.eye(dim).reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    return found.x.reshape(dim, dim)


def fit_cross_validated(features: np.ndarray, answers: Answers, seed: int = 0) -> np.ndarray:
    """L (dim, dim) with the penalty that is best in five-fold cross-validation.

    With fewer than five answers, the second strongest penalty is taken.
    """
    penalty = PENALTIES[-2]
    if len(answers) >= FOLDS:
        fold = folds(np.arange(len(answers)), FOLDS, seed)
        correct = []
        for candidate in PENALTIES:
            count = 0.0
            for number in range(FOLDS):
                test = fold == number
                matrix = fit_matrix(features, answers.subset(~test), candidate)
                count += triplet_correct(features @ matrix, answers.subset(test)).sum()
            correct.append(count)
        penalty = PENALTIES[int(np.argmax(correct))]
    return fit_matrix(features, answers, penalty)
