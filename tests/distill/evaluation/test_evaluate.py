"""A model, its teachers and its baselines are measured once, on the same excerpts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus
from distill.config import CacheConfig, EvaluateConfig, RunConfig
from distill.evaluation import evaluate as module
from distill.evaluation.evaluate import (
    cosine_to_teacher,
    evaluate_model,
    evaluation_key,
    model_digest,
)
from distill.features.recordings import Recording
from distill.reporting import report
from distill.teachers.base import TeacherError
from distill.teachers.wheel import Wheel
from distill.training.batches import Targets
from distill.training.teacher_space import fit_space
from student import Feelprint
from tests.distill.reporting.made_report import TINY

EPS = 1e-12


class Bands:
    """A teacher whose embedding is the energy of four bands of a window of one second."""

    name, revision, licence = "bands", "1", "MIT"
    sample_rate, window, dim, level_db = 11_025, 11_025, 4, -13.0

    def key(self) -> dict[str, Any]:
        return {"name": self.name}

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(windows).abs()
        return torch.stack([band.mean(dim=1) for band in spectrum.chunk(4, dim=1)], dim=1).log()


def config_of(corpus: Path, folder: Path, **evaluate: Any) -> RunConfig:
    return RunConfig(
        name="evaluated",
        corpora=(str(corpus),),
        student=TINY,
        cache=CacheConfig(folder=str(folder)),
        evaluate=EvaluateConfig(
            **({"split": "test", "excerpt_s": 4.0, "bootstrap": 20} | evaluate)
        ),
    )


@pytest.fixture
def model() -> Feelprint:
    torch.manual_seed(1)
    return Feelprint(TINY).eval().fold_for_inference()


@pytest.fixture(autouse=True)
def no_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without the external baselines; musicnn's weights cannot be had."""

    def unavailable(_: Wheel, folder: Path) -> Path:
        raise TeacherError(f"no wheel in {folder}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distill.teachers.wheel.Wheel.fetch", unavailable)


@pytest.mark.slow
def test_every_row_is_measured_and_what_is_absent_is_named(
    tones: Path, tmp_path: Path, model: Feelprint
) -> None:
    config = config_of(tones, tmp_path / "cache")
    measured = evaluate_model(model, config, Corpus(tones), [Bands()], None)
    assert set(measured["figures"]) == {"student", "untrained", "mfcc", "bands"}
    assert set(measured["differences"]) == {"untrained", "mfcc", "bands"}
    assert set(measured["absent"]) == {"mecomp", "bliss", "mood"}
    assert (measured["tracks"], measured["albums"], measured["mood_triplets"]) == (6, 2, 0)
    names = {
        "triplet", "odd_one_out", "track_recall@1", "track_mrr", "album_precision@1",
        "album_precision@5",
    }  # fmt: skip
    for row in measured["figures"].values():
        assert set(row) == names
        for score in row.values():
            assert set(score) == {"value", "low", "high", "n"}
            # equal up to rounding where all tracks have the same score
            assert 0 <= score["low"] <= score["value"] + EPS
            assert score["value"] - EPS <= score["high"] <= 1
    for name, row in measured["differences"].items():
        for metric, score in row.items():
            ours, theirs = (measured["figures"][n][metric]["value"] for n in ("student", name))
            assert score["value"] == pytest.approx(ours - theirs)
    assert measured["excerpt_cosine_to_teacher"] is None
    assert json.loads(json.dumps(measured)) == measured


def test_a_second_evaluation_embeds_nothing(
    tones: Path, tmp_path: Path, model: Feelprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tones, tmp_path / "cache")
    first = evaluate_model(model, config, Corpus(tones), [Bands()], None)

    def never(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(module, "embed_all", never)
    assert evaluate_model(model, config, Corpus(tones), [Bands()], None) == first


def test_the_key_changes_with_model_split_and_baseline(
    tones: Path, tmp_path: Path, model: Feelprint
) -> None:
    corpus, config = Corpus(tones), config_of(tones, tmp_path)
    baseline = tmp_path / "mecomp.onnx"
    key = evaluation_key(model, config, corpus, baseline)
    assert key == evaluation_key(model, config, corpus, baseline)
    baseline.write_bytes(b"a model")
    other = dataclasses.replace(
        config, evaluate=dataclasses.replace(config.evaluate, split="validation")
    )
    untrained = Feelprint(TINY).eval().fold_for_inference()
    keys = [
        key,
        evaluation_key(model, config, corpus, baseline),
        evaluation_key(model, other, corpus, baseline),
        evaluation_key(untrained, config, corpus, baseline),
    ]
    assert len(set(keys)) == 4


def test_the_released_file_holds_the_model_that_was_evaluated(
    tmp_path: Path, model: Feelprint
) -> None:
    model.save(str(tmp_path))
    assert model_digest(Feelprint.from_pretrained(str(tmp_path)).eval()) == model_digest(model)


def test_the_report_reads_what_the_stage_measured(
    tones: Path, tmp_path: Path, model: Feelprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, config = Corpus(tones), config_of(tones, tmp_path / "cache")
    mecomp = tmp_path / "none.onnx"
    measured = evaluate_model(model, config, corpus, [Bands()], None, mecomp)
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluate": measured}))
    calls = []

    def measured_again(*given: object) -> dict[str, Any]:
        calls.append(given)
        return {}

    monkeypatch.setattr(report, "evaluate_model", measured_again)
    given = (config, corpus, [Bands()], mecomp)
    assert report.evaluation(tmp_path, model, *given) == measured
    assert not calls
    torch.manual_seed(2)
    other = Feelprint(TINY).eval().fold_for_inference()
    assert report.evaluation(tmp_path, other, *given) == {}
    assert len(calls) == 1


def test_the_cosine_to_the_teacher_by_hand() -> None:
    rng = np.random.default_rng(0)
    space = fit_space(rng.standard_normal((80, 10)), np.repeat(np.arange(20), 4), 6)
    teacher = rng.standard_normal((5, 10)).astype(np.float16)
    recordings = [
        Recording(None, number, np.zeros((15, 2, 2), np.float16), np.ones(15), (teacher,))  # type: ignore[arg-type]
        for number in (0, 1)
    ]
    target = space(teacher.astype(np.float32).mean(axis=0)[None], 4)[0]

    class Constant:
        """A student with a constant embedding."""

        def __init__(self, embedding: np.ndarray):
            self.embedding, self.head = torch.from_numpy(embedding.astype(np.float32)), self

        def eval(self) -> Any:
            return self

        def tokens(self, mel: torch.Tensor) -> torch.Tensor:
            assert mel.shape == (1, 15, 2, 2)
            return mel

        def unit_embedding(self, tokens: torch.Tensor, nonsilent_ratio: torch.Tensor) -> Any:
            return self.embedding[None], None

    for embedding, cosine in ((target, 1.0), (-target, -1.0)):
        made = cosine_to_teacher(Constant(embedding), recordings, Targets(space))  # type: ignore[arg-type]
        assert made["mean"] == pytest.approx(cosine, abs=1e-5)
        assert made["clips"] == 1  # the augmented copy is not counted
