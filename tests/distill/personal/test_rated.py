"""The head fitted to ratings: what it learns from, what it may not see, and the second model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from datasets_scripts.musifeast import build_musifeast
from datasets_scripts.ratings import Ratings
from distill.evaluation.people import figures
from distill.personal import rated
from distill.personal.answers import AnswersError
from distill.personal.rated import Clips, RatedConfig, fit_rated, trainable_clips
from student import Feelprint
from tests.datasets_scripts.made_musifeast import CLIPS, write_musifeast


@pytest.fixture(scope="module")
def released() -> Feelprint:
    return Feelprint.from_pretrained("rust/models").eval().without_ratings()


def ratings(n: int = 40, seed: int = 0) -> Ratings:
    rng = np.random.default_rng(seed)
    names = np.array([str(i) for i in range(n)])
    return Ratings(names, names, names, rng.uniform(1, 5, n), rng.uniform(1, 5, n))


def test_positives_are_near_and_negatives_far_among_the_clips_that_may_train() -> None:
    known = ratings()
    among = np.arange(40) % 3 > 0
    near, far = trainable_clips(known, among)
    distance = np.linalg.norm(known.plane[:, None] - known.plane[None], axis=2)
    assert near.any() and far.any() and (distance[near] < 0.6).all() and (distance[far] > 1.5).all()
    assert not (near | far)[~among].any() and not (near | far)[:, ~among].any()
    assert not near.diagonal().any()


def test_clips_that_do_not_differ_cannot_be_learned_from() -> None:
    with pytest.raises(AnswersError, match=r"none of 1 clips has one of similar"):
        trainable_clips(ratings(4), np.arange(4) == 0)


def made_clips(model: Feelprint, known: Ratings) -> Clips:
    """Features of which one is the arousal."""
    size = model.cnn.token.in_features
    features = torch.randn(len(known), 5, size, generator=torch.Generator().manual_seed(0))
    features[:, :, 0] = torch.from_numpy(10 * (known.arousal - 3))[:, None]
    return Clips(features, torch.ones(len(known), 5))


def test_a_fit_learns_what_the_ratings_depend_on_and_a_prior_holds_it(released: Feelprint) -> None:
    known = ratings(80)
    clips, every = made_clips(released, known), np.ones(80, dtype=bool)
    config = RatedConfig("x", "base", "corpus", "licence", steps=60, learning_rate=2e-3)
    before = figures(clips.embed(released), known, 10)
    loose = fit_rated(released, clips, known, every, dataclasses.replace(config, prior=0.1))
    tight = fit_rated(released, clips, known, every, dataclasses.replace(config, prior=1e5))
    after = figures(clips.embed(loose), known, 10)
    assert after["arousal_r"]["value"] > before["arousal_r"]["value"] + 0.1
    assert after["feel"]["value"] > before["feel"]["value"] + 0.1

    def moved(model: Feelprint) -> float:
        unit = [
            m.head.unit_embedding(m.cnn.token(clips.features), clips.window_weight)[0]
            for m in (released, model)
        ]
        return float((1 - (unit[0] * unit[1]).sum(dim=1)).mean())

    assert moved(tight) < 0.02 < moved(loose)
    again = fit_rated(released, clips, known, every, dataclasses.replace(config, prior=0.1))
    assert np.array_equal(clips.embed(loose), clips.embed(again))
    for name, value in released.state_dict().items():  # nothing below the token layer
        if name.startswith("cnn.") and not name.startswith("cnn.token"):
            assert torch.equal(value, loose.state_dict()[name]), name


def test_a_fold_is_fitted_without_its_clips(
    released: Feelprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fit sees the clips of the other folds alone, and each clip is held out once a seed."""
    known, seen = ratings(), []

    def watched(base: Feelprint, clips: Clips, ratings: Ratings, among: np.ndarray, _: object):
        seen.append(among)
        return base

    monkeypatch.setattr(rated, "fit_rated", watched)
    config = RatedConfig("x", "base", "corpus", "licence", fold_seeds=2)
    found = rated.cross_validate(released, made_clips(released, known), known, config)
    held_out = ~np.stack(seen)
    assert len(seen) == 10 and (held_out.sum(axis=0) == 2).all()
    assert found["valence_r"]["n"] == 40


@pytest.mark.slow
def test_ratings_give_a_second_model_under_their_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_musifeast(write_musifeast(tmp_path / "in"), tmp_path / "corpus")
    values = {
        "name": "rated",
        "base": "rust/models",
        "corpus": str(tmp_path / "corpus"),
        "licence": "non-commercial",
        "steps": 3,
        "fold_seeds": 1,
    }
    path = tmp_path / "rated.yaml"
    path.write_text(yaml.safe_dump(values))
    assert rated.main(["--config", str(path), "--runs", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "rated" / "metrics.json").read_text())["rated"]
    feel = found["figures"]["feel"]
    assert found["figures"]["valence_r"]["n"] == CLIPS
    assert f"{feel['value']:.3f} [{feel['low']:.3f}, {feel['high']:.3f}]" in capsys.readouterr().out
    meta = {m.key: m.value for m in onnx.load(tmp_path / "rated/feelprint.onnx").metadata_props}
    base = {m.key: m.value for m in onnx.load("rust/models/feelprint.onnx").metadata_props}
    assert meta["feelprint.licence"] == "non-commercial"
    assert meta["feelprint.version"] == base["feelprint.version"] + "+rated"
    assert rated.main(["--config", str(path), "--priors", "1", "100"]) == 0
    assert "| prior 100 | " in capsys.readouterr().out

    path.write_text(yaml.safe_dump(values | {"corpus": str(tmp_path)}))
    assert rated.main(["--config", str(path)]) == 1
    assert "is not a corpus" in capsys.readouterr().err
    path.write_text(yaml.safe_dump(values | {"steps": 0}))
    assert rated.main(["--config", str(path)]) == 1
    assert "steps must be 1 or more, got 0" in capsys.readouterr().err
