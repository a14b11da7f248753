"""The command for many raters' answers: the model, its figures, and errors in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from datasets_scripts.corpora.corpus import Corpus, write_corpus
from datasets_scripts.triplets.table import Triplet, write_triplets
from distill.personal import crowd
from tests.datasets_scripts.sounds import items


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration for 60 answers of three raters to 20 questions, each about other tracks."""
    folder = tmp_path_factory.mktemp("crowd")
    write_corpus(items(folder, 60), folder / "corpus", "")
    corpus = Corpus(folder / "corpus")
    rng = np.random.default_rng(0)
    rows = []
    for question in np.array([t.id for t in corpus.tracks]).reshape(20, 3):
        a, b, c = map(str, question)
        odd = str(rng.choice(question))
        rows += [Triplet(a, b, c, odd, "survey-cold", rater) for rater in ("ann", "bob")]
        rows.append(Triplet(a, b, c, a, "survey-cold", "cat"))
    write_triplets(rows, folder / "answers.parquet")
    path = folder / "human.yaml"
    values = {
        "name": "human",
        "base": "rust/models",
        "corpora": [str(corpus.folder)],
        "answers": str(folder / "answers.parquet"),
        "repeats": 2,
        "fit": {"steps": 10, "prior": 50.0},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_answers_give_a_model_and_figures(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crowd.main(["--config", str(config), "--runs", str(tmp_path / "runs")]) == 0
    figures = json.loads((tmp_path / "runs" / "human" / "metrics.json").read_text())["human"]
    assert figures["import"].startswith("60 rows: 60 used")
    assert figures["sizes"] == [30, 18, 12] and figures["test"]["n"] == 12
    assert figures["repeated"]["n"] == 60 and len(figures["repeated"]["by_repeat"]) == 2
    for accuracy in (figures["test"], figures["repeated"]):
        assert 0 <= accuracy["low"] <= accuracy["accuracy"] <= accuracy["high"] <= 1
    gain = figures["repeated"]["gain"]["difference"]
    assert gain == pytest.approx(figures["repeated"]["accuracy"] - figures["repeated"]["base"])
    assert (tmp_path / "runs" / "human" / "feelprint.onnx").is_file()
    assert "split [30, 18, 12]: " in capsys.readouterr().out


def test_unknown_key_is_an_error_in_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(config.read_text() + "repeat: 3\n")
    assert crowd.main(["--config", str(wrong), "--runs", str(tmp_path / "runs")]) == 1
    assert "unknown key repeat; known keys: answers, base" in capsys.readouterr().err
    assert crowd.main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert "no configuration at" in capsys.readouterr().err
