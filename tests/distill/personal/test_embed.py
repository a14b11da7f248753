"""The table of embeddings, from which the survey chooses its active rounds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus
from datasets_scripts.corpora.open import open_corpus
from distill.personal import embed
from student import Feelprint
from survey.rounds.active import read_embeddings
from tests.distill.reporting.made_report import TINY
from tests.tones import melody, write_tones


def test_table_is_read_by_the_survey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus(write_tones(tmp_path / "corpus", seconds=4.0, albums=3, tracks=1))
    torch.manual_seed(0)
    model = Feelprint(TINY).eval()
    model.save(str(tmp_path / "model"))
    (tmp_path / "model" / "feelprint.onnx").touch()
    given = ["--corpus", str(corpus.folder), "--base", str(tmp_path / "model"), "--out"]
    out = tmp_path / "new" / "embeddings.parquet"
    assert embed.main([*given, str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: 3 tracks\n")
    assert [path.name for path in out.parent.iterdir()] == ["embeddings.parquet"]

    ids, vectors = read_embeddings([out, out], [t.id for t in corpus.tracks])
    assert ids == [t.id for t in corpus.tracks] and vectors.shape == (2, 3, TINY.embedding_dim)
    album = int(corpus.tracks[0].album.split()[1])
    with torch.inference_mode():
        expected = model(torch.from_numpy(melody(album, 0, 4.0))[None])[0].numpy()
    assert np.abs(vectors[0, 0] - expected).max() < 1e-2  # the corpus holds 16 bits

    shutil.rmtree(tmp_path / "model")
    assert embed.main([*given, str(out)]) == 1
    assert "is not a model's folder: it has no feelprint.onnx" in capsys.readouterr().err


def test_a_folder_of_music_is_taken_as_the_survey_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of the table are those of the survey of this folder; a broken file is left out."""
    monkeypatch.setattr(embed, "SURVEY", tmp_path / "data")
    write_tones(tmp_path / "corpus", seconds=4.0, albums=4, tracks=1)
    music = tmp_path / "corpus-files"
    (music / "broken.flac").write_bytes((music / "0-0.flac").read_bytes()[:200])
    torch.manual_seed(0)
    Feelprint(TINY).eval().save(str(tmp_path / "model"))
    (tmp_path / "model" / "feelprint.onnx").touch()
    out = tmp_path / "base.parquet"
    given = ["--corpus", str(music), "--base", str(tmp_path / "model"), "--out", str(out)]
    assert embed.main(given) == 0
    assert f"{out}: 4 tracks" in capsys.readouterr().out
    survey = open_corpus(music, tmp_path / "data")
    assert len(survey.tracks) >= 4
    ids, _ = read_embeddings([out], [t.id for t in survey.tracks])
    assert len(ids) == 4
