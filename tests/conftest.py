"""Fixtures for the tests of several folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when numpy and torch are first imported

if TYPE_CHECKING:
    from student import Feelprint


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Feelprint, Path]:
    """An untrained student, fused, and its ONNX file."""
    import torch

    from distill.export import Origin, export_onnx
    from student import Feelprint

    torch.manual_seed(0)
    model = Feelprint().eval().fold_for_inference()
    path = tmp_path_factory.mktemp("exported") / "feelprint.onnx"
    export_onnx(model, path, Origin("1.2.3", "0123456789abcdef", "a teacher", "MIT"))
    return model, path
