"""Ablations: one change a row, which leaves the released model's parts as they are."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import student.model
from distill.ablations import ablations
from distill.config import TeacherConfig, load
from student import Feelprint
from tests.distill.test_run import CONFIGS, miniature


class Bands:
    """23 numbers of a clip, instead of bliss's."""

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(audio))
        return np.array([np.log(band.mean() + 1e-9) for band in np.array_split(spectrum, 23)])

    def close(self) -> None:
        """There is no program to end."""


@pytest.mark.slow
def test_rows_are_trained_once_measured_and_printed(
    tones: Path,
    wheel_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load(CONFIGS / "ablations.yaml")
    teachers = (TeacherConfig(path=str(wheel_folder)),)
    evaluated = dataclasses.replace(config.evaluate, split="test", excerpt_s=4.0, bootstrap=20)
    given = miniature(config, tones, tmp_path, teachers=teachers, evaluate=evaluated)[:2]
    monkeypatch.setattr(ablations, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(ablations, "Bliss", Bands)
    assert ablations.main(["gru", "int8", "hand-made", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("| `gru` | GRU over the tokens | 0.")
    assert lines[-2].startswith("| `int8` | weights in int8 | 0.")
    assert lines[-1].startswith("| `hand-made` | 23 hand-made features (bliss) and a small network")
    gru, int8 = (json.loads((tmp_path / "runs" / f"{n}.json").read_text()) for n in ("gru", "int8"))
    assert gru["parameters"] != int8["parameters"]
    # int8 uses the base's model; the changes of a row do not outlast it
    assert sorted(p.name for p in (tmp_path / "runs").iterdir() if p.is_dir()) == ["base", "gru"]
    assert isinstance(Feelprint().head, student.model.AttentionPool)
    # again: nothing is trained, the table is the same
    with patch.object(ablations, "compare", side_effect=AssertionError):
        assert ablations.main(["gru", "int8", "hand-made", *given]) == 0
    assert capsys.readouterr().out.splitlines() == lines[-5:]


@torch.inference_mode()
@pytest.mark.parametrize("head", [ablations.MeanPool, ablations.GruPool])
def test_other_heads_ignore_silent_windows_at_the_end(head: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    model = Feelprint()
    pool = head(model.config).eval()
    tokens = torch.randn(2, 5, model.config.dim)
    window_weight = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    made = pool(tokens, window_weight)[0]
    assert made.shape == (2, model.config.embedding_dim)
    tokens[0, 3:] = 7
    assert torch.allclose(pool(tokens, window_weight)[0], made, atol=1e-6)
    assert not torch.allclose(pool(tokens, torch.ones(2, 5))[0][0], made[0], atol=1e-3)


def test_unknown_row_is_an_error_that_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablations.main(["windwo-3"])
    assert "unknown row windwo-3; known: base, sliding" in capsys.readouterr().err
