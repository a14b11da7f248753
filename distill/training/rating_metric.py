"""The linear metric that is fitted to people's ratings, and how a student holds it."""

from __future__ import annotations

import numpy as np

from datasets_scripts.ratings import Ratings
from student import Feelprint

# of the predicted plane against the embedding, and of the regression; chosen by cross-validation
# (docs/log/2026-11-27-rating-metric.md, 2026-11-27-axes-of-free-music.md)
RATING_WEIGHT, RIDGE = 0.6, 0.3
SAME_FIT = 0.02  # relative difference; a released transform is rounded to float16


def fit_rating_metric(
    embeddings: np.ndarray,
    ratings: Ratings,
    weight: float = RATING_WEIGHT,
    ridge: float = RIDGE,
) -> np.ndarray:
    """A linear metric that weights the axes which predict the ratings: symmetric, (dim, dim).

    With X the centred embeddings (n, dim) and Y the z-scored valence and arousal (n, 2), ridge
    regression gives W = (X'X + ridge tr(X'X) / dim I)^-1 X'Y; ``ridge`` is thus relative to the
    mean eigenvalue of X'X. s² scales the predicted plane XW to the mean square norm of X. The
    metric is M = (I + weight² s² W W') / (1 + weight²), and M^(1/2) is returned: distances between
    rows of ``embeddings @ M^(1/2)`` are proportional to those between [x, weight s x W], and their
    mean square is that of the embeddings.

    Raises ValueError for embeddings from which nothing is predicted, such as constant ones.
    """
    x = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    gram = x.T @ x
    dim = len(gram)
    penalised = gram + ridge * np.trace(gram) / dim * np.eye(dim)
    w = np.linalg.lstsq(penalised, x.T @ ratings.plane, rcond=None)[0]  # (dim, 2)
    predicted = ((x @ w) ** 2).sum()
    if not predicted > 0:
        raise ValueError("these embeddings predict neither valence nor arousal: all are the same")
    metric = np.eye(dim) + weight**2 * (np.trace(gram) / predicted) * w @ w.T
    values, vectors = np.linalg.eigh(metric / (1 + weight**2))
    return (vectors * np.sqrt(values)) @ vectors.T


def is_fitted_to(model: Feelprint, embeddings: np.ndarray, ratings: Ratings) -> bool:
    """Whether `fit_rating_metric` gives the model's rating transform.

    ``embeddings`` (n, dim) are those of the rated clips by ``model.without_ratings()``.
    """
    wanted = fit_rating_metric(embeddings, ratings)
    difference = model.head.rating_transform.numpy() - wanted
    return bool(np.linalg.norm(difference) < SAME_FIT * np.linalg.norm(wanted))
