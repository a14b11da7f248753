"""The command: from answers to a model's file, or an error in one line."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from datasets_scripts.corpora.corpus import Corpus
from datasets_scripts.triplets.table import Triplet, write_triplets
from distill.personal import personalize
from student import Feelprint
from tests.tones import melody, write_tones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(write_tones(tmp_path_factory.mktemp("tones") / "corpus", seconds=4.0, albums=8))


def answers(corpus: Corpus, path: Path, guesses: bool) -> Path:
    """150 answers of a listener to whom albums of equal parity are alike, or of one who guesses."""
    rng = np.random.default_rng(0)
    sides: list[list[str]] = [[], []]
    for track in corpus.tracks:
        sides[int(track.album.split()[1]) % 2].append(track.id)
    rows = []
    for _ in range(150):
        own, other = rng.permutation(2)
        three = [*rng.choice(sides[own], 2, replace=False), rng.choice(sides[other])]
        odd = three[rng.integers(3) if guesses else 2]
        rows.append(Triplet(*map(str, three), str(odd), "survey-random_train", "me"))
    write_triplets(rows, path)
    return path


def personalized(corpus: Corpus, folder: Path, guesses: bool) -> tuple[int, Path]:
    """The command's exit status on such answers, and where its model goes."""
    table, out = answers(corpus, folder / "answers.parquet", guesses), folder / "mine"
    given = ["--answers", str(table), "--corpus", str(corpus.folder), "--out", str(out)]
    return personalize.main(given), out


@pytest.mark.slow
def test_consistent_answers_give_a_model_file(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = personalized(corpus, tmp_path, guesses=False)
    assert status == 0
    verdict = json.loads((out / "personal.json").read_text())["verdict"]
    assert verdict["answers"] == 150 and verdict["p"] < 0.05
    assert verdict["personal"] > verdict["base"]
    assert f"{out / 'feelprint.onnx'} is the model" in capsys.readouterr().out

    base, mine = (folder / "feelprint.onnx" for folder in (personalize.BASE, out))
    metadata = [{m.key: m.value for m in onnx.load(path).metadata_props} for path in (base, mine)]
    assert metadata[1]["feelprint.version"] == metadata[0]["feelprint.version"] + "+personal"
    assert metadata[1]["feelprint.config_hash"] != metadata[0]["feelprint.config_hash"]
    audio = melody(0, 0, 4.0)[None]
    made = [
        onnxruntime.InferenceSession(str(path)).run(None, {"audio": audio})[0]
        for path in (base, mine)
    ]
    assert made[1].shape == (1, 32)
    transform = Feelprint.from_pretrained(str(out)).head.transform.numpy()
    assert np.linalg.norm(made[1] @ np.linalg.inv(transform)) == pytest.approx(1, abs=1e-5)
    assert np.abs(made[1] - made[0]).max() > 1e-3


def test_guesses_give_no_model(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = personalized(corpus, tmp_path, guesses=True)
    assert status == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: no personal model was written") and "150 answers" in error
    assert not out.exists()


def test_answers_about_tracks_that_are_gone_are_left_out_alone(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c, d = (track.id for track in corpus.tracks[:4])
    rows = [
        Triplet(a, b, c, a, "survey-random_train", "me"),
        Triplet(a, b, "gone", "gone", "survey-random_train", "me"),
        Triplet(a, "gone@12.5", "lost", None, "survey-random", "me"),
        Triplet(f"{b}@3.0", c, d, d, "survey-random", "me"),
    ]
    assert personalize.answers_about(rows, [corpus]) == [rows[0], rows[3]]
    said = capsys.readouterr().out
    assert "left out 2 of 4 answers: 2 of their tracks are not in" in said
    assert personalize.answers_about(rows[:1], [corpus]) == rows[:1]
    assert capsys.readouterr().out == ""
    with pytest.raises(personalize.AnswersError, match="none of the 1 answers is about tracks of"):
        personalize.answers_about(rows[1:2], [corpus])
