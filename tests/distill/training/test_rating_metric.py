"""The metric that is fitted to people's ratings: by hand, and against its definition."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from datasets_scripts.ratings import Ratings
from distill.training.rating_metric import fit_rating_metric


def random_ratings(n: int) -> Ratings:
    rng = np.random.default_rng(0)
    names = np.array([str(i) for i in range(n)])
    return Ratings(names, names, names, rng.uniform(1, 5, n), rng.uniform(1, 5, n))


def test_the_metric_by_hand() -> None:
    ratings = random_ratings(40)
    valence = ratings.plane[:, 0]
    # an axis that is the valence, and one that says nothing: of equal variance, uncorrelated
    noise = np.random.default_rng(1).standard_normal(40)
    for seen in (np.ones(40), *ratings.plane.T):
        noise -= seen * (noise @ seen) / (seen @ seen)
    other = noise - noise.mean()
    other -= valence * (other @ valence) / (valence @ valence)
    embeddings = np.stack([valence, other / other.std()], axis=1)
    # one axis predicts everything: s² = 2, M = diag(1 + 2 weight², 1) / (1 + weight²)
    for weight in (1, 3):
        root = fit_rating_metric(embeddings, ratings, weight, 1e-9)
        wanted = np.sqrt(np.array([1 + 2 * weight**2, 1]) / (1 + weight**2))
        assert np.diag(root) == pytest.approx(wanted, abs=0.02)
        assert abs(root[0, 1]) < 0.1


def test_the_metric_adds_the_prediction_of_a_ridge_regression() -> None:
    ratings = random_ratings(50)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((50, 6)) + ratings.plane @ rng.standard_normal((2, 6)) + 4
    root = fit_rating_metric(x, ratings, 0.7, 0.3)
    least = np.linalg.eigvalsh(root).min()
    assert np.allclose(root, root.T) and least == pytest.approx(1 / np.sqrt(1 + 0.7**2))
    centred = x - x.mean(axis=0)
    penalty = 0.3 * np.linalg.eigvalsh(centred.T @ centred).mean()
    w = np.linalg.inv(centred.T @ centred + penalty * np.eye(6)) @ centred.T @ ratings.plane
    predicted = centred @ w
    predicted *= np.sqrt((centred**2).sum() / (predicted**2).sum())
    wanted = pdist(np.concatenate([x, 0.7 * predicted], axis=1)) / np.sqrt(1 + 0.7**2)
    assert pdist(x @ root) == pytest.approx(wanted)
    assert (pdist(x @ root) ** 2).mean() == pytest.approx((pdist(x) ** 2).mean())
    assert fit_rating_metric(x, ratings, 0, 0.3) == pytest.approx(np.eye(6))
    with pytest.raises(ValueError, match="predict neither valence nor arousal"):
        fit_rating_metric(np.ones((50, 6)), ratings, 1, 0.3)
