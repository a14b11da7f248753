"""The ensemble of linear maps: its gradient, what it learns, and that the survey refits it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from survey.clips import ClipLibrary
from survey.config import RatersPerTriplet, Shares
from survey.database.store import Store
from survey.rounds import active
from survey.rounds.assign import Assigner
from survey.rounds.ensemble import EnsembleConfig, fit_ensemble, identity_maps, mean_accuracy

from .conftest import CONFIG


def listener(tracks: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, (1, tracks, dim), and those by which a listener answers: two axes count."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, tracks, dim)) / np.sqrt(dim)
    return x, x[..., :2] * np.sqrt(dim / 2)


def answers(latent: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random triplets, and the odd ones by the latent embeddings."""
    rng = np.random.default_rng(seed)
    triplets = active.draw_triplets(np.arange(latent.shape[1]), count, rng)
    return triplets, active.odd_probabilities(latent, triplets, 0.1)[0].argmax(-1)


def test_the_ensemble_learns_a_listener() -> None:
    x, latent = listener(150, 8, seed=0)
    triplets, odd = answers(latent, 300, seed=1)
    held_out, truth = answers(latent, 2000, seed=2)
    config = EnsembleConfig()
    rng = np.random.default_rng(0)
    start = identity_maps(8, config, rng)
    before = fit_ensemble(x, start, triplets[:0], odd[:0], config, rng)
    after = fit_ensemble(x, start, triplets, odd, config, rng)
    assert before.shape == after.shape == (6, 150, 8)
    base = mean_accuracy(before, held_out, truth, 0.1)
    assert base < 0.65 and mean_accuracy(after, held_out, truth, 0.1) > base + 0.15


def test_without_answers_one_member_is_the_table_itself() -> None:
    x, _ = listener(20, 4, seed=0)
    config = EnsembleConfig(members=1)
    rng = np.random.default_rng(0)
    start = identity_maps(4, config, rng)
    none = np.empty((0, 3), np.int64), np.empty(0, np.int64)
    np.testing.assert_allclose(fit_ensemble(x, start, *none, config, rng), x)


def test_a_strong_prior_keeps_the_start() -> None:
    x, latent = listener(50, 4, seed=0)
    config = EnsembleConfig(members=1, prior=1e6)
    rng = np.random.default_rng(0)
    start = identity_maps(4, config, rng)
    fitted = fit_ensemble(x, start, *answers(latent, 100, seed=1), config, rng)
    np.testing.assert_allclose(fitted, x, atol=0.05)


def test_the_survey_refits_by_itself_after_fifty_answers(lite: Store, library: ClipLibrary) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, len(library.tracks), 4)) / 2
    shares, per = Shares(1.0, 0.0, 0.0, 0.0), RatersPerTriplet(active=9, random=9)
    config = replace(CONFIG, shares=shares, raters_per_triplet=per)
    assigner = Assigner(lite, library, config, (list(library.tracks), vectors), seed=0)
    assert assigner.refit() and not assigner.refit()
    before = assigner._ensemble
    assert before is not None and before.shape == (6, len(library.tracks), 4)
    given = 0
    while given < 50:
        rater = lite.add_rater("", "", "")
        for current in assigner.rounds(rater, 20):
            lite.show(current)
            lite.answer(rater, current.token, 0, [4.0, 4.0, 4.0])
            given += 1
            if given == 49:
                assert not assigner.refit()
    assert assigner.refit()
    assert np.abs(assigner._ensemble - before).max() > 0.01
    assert np.array_equal(assigner.embeddings[1], vectors)  # the scored model stays as it was


def test_a_survey_without_embeddings_has_nothing_to_fit(lite: Store, library: ClipLibrary) -> None:
    assert not Assigner(lite, library, CONFIG, seed=0).refit()


@pytest.mark.parametrize("tables", [1, 2])
def test_several_tables_take_turns(tables: int) -> None:
    x = np.stack([listener(30, 4, seed=n)[0][0] for n in range(tables)])
    config = EnsembleConfig(members=3)
    rng = np.random.default_rng(0)
    start = identity_maps(4, config, rng)
    none = np.empty((0, 3), np.int64), np.empty(0, np.int64)
    found = fit_ensemble(x, start, *none, config, rng)
    np.testing.assert_allclose(found[2], x[2 % tables] @ start[2])
