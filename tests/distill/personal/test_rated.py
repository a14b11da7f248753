"""The head fitted to ratings: what it learns from, what it may not see, and the second model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from datasets_scripts.musifeast import build_musifeast
from datasets_scripts.ratings import Ratings
from distill.personal import rated
from distill.personal.answers import AnswersError, EncodedTracks
from distill.personal.rated import RatedConfig, rated_answers
from tests.datasets_scripts.made_musifeast import CLIPS, write_musifeast


def ratings(n: int = 40, seed: int = 0) -> Ratings:
    rng = np.random.default_rng(seed)
    names = np.array([str(i) for i in range(n)])
    return Ratings(names, names, names, rng.uniform(1, 5, n), rng.uniform(1, 5, n))


def test_answers_are_near_and_far_among_the_clips_that_may_train() -> None:
    known = ratings()
    among = np.arange(40) % 3 > 0
    answers = rated_answers(known, among, 500, 0)
    plane, (anchor, positive, negative) = known.plane, answers.rows.T
    assert among[answers.rows].all()
    assert (np.linalg.norm(plane[anchor] - plane[positive], axis=1) < 0.6).all()
    assert (np.linalg.norm(plane[anchor] - plane[negative], axis=1) > 1.5).all()
    assert (anchor != positive).all() and answers.weight.sum() == pytest.approx(1.0)
    counts = np.bincount(anchor)[np.bincount(anchor) > 0]
    assert counts.max() - counts.min() <= 1  # each clip as often an anchor


def test_clips_that_do_not_differ_give_no_answers() -> None:
    known = ratings(4)
    with pytest.raises(AnswersError, match=r"none of 1 clips has one of similar"):
        rated_answers(known, np.arange(4) == 0, 10, 0)


def test_a_fold_is_fitted_without_its_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fit sees the clips of the other folds alone, and each clip is judged once a seed."""
    known, seen = ratings(), []

    def fit_rated(head, tracks, ratings, among, config, seed):
        seen.append(among)
        return head

    vectors = np.random.default_rng(1).standard_normal((40, 8))
    monkeypatch.setattr(rated, "fit_rated", fit_rated)
    monkeypatch.setattr(rated, "embed", lambda head, tracks: vectors)
    config = RatedConfig("x", "base", "corpus", "licence", fold_seeds=2)
    tracks = EncodedTracks([], None, None)  # type: ignore[arg-type]
    figures = rated.cross_validate(None, tracks, known, config)  # type: ignore[arg-type]
    held_out = ~np.stack(seen)
    assert len(seen) == 10 and (held_out.sum(axis=0) == 2).all()
    assert figures["valence_r"]["n"] == 40


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
        "triplets": 100,
        "fold_seeds": 1,
        "fit": {"steps": 3, "rank": 0},
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
    path.write_text(yaml.safe_dump(values | {"triplets": 0}))
    assert rated.main(["--config", str(path)]) == 1
    assert "triplets and fold_seeds must be 1 or more" in capsys.readouterr().err
