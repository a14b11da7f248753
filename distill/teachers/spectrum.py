"""The mean log-mel as a teacher: a target that the student's front end can compute exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.config import TeacherConfig
from distill.teachers.base import LEVEL_DB, TeacherError
from student import FeelprintConfig
from student.frontend import SILENCE_RATIO, LogMel, activity_mask, masked_mean


class Spectrum:
    """The mean log-mel (n_mels,) of three student windows, over their non-silent frames.

    Besides a network, it gives the student a target that generalises to music of any kind.
    """

    name = "spectrum"
    licence = "MIT"
    level_db = LEVEL_DB
    windows = 3  # of the student's

    def __init__(self, student: FeelprintConfig, config: TeacherConfig, device: torch.device):
        if config.path or config.layers:
            raise TeacherError(
                f"spectrum takes no path and no layers, got {config.path!r} and "
                f"{list(config.layers)}"
            )
        self.device, self.front_end = device, LogMel(student).to(device)
        self.sample_rate, self.window = student.sample_rate, self.windows * student.window_length
        self.dim = student.n_mels
        self.revision = (
            f"{student.n_mels} mels of {student.f_min:g} to {student.f_max:g} Hz, "
            f"n_fft {student.n_fft}, hop {student.hop_length}, floor {student.floor:g}, "
            f"silence {SILENCE_RATIO:g}"
        )

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on."""
        key = {"name": self.name, "revision": self.revision, "window": self.window}
        return key | {"sample_rate": self.sample_rate}

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, n_mels) float32, on the CPU."""
        batch = len(windows)
        log_mel, nonsilent_ratio = self.front_end(
            windows.to(self.device).view(batch * self.windows, -1)
        )
        means = masked_mean(log_mel, activity_mask(log_mel, self.front_end.floor))
        means = means.view(batch, self.windows, -1).transpose(1, 2)
        return masked_mean(means, nonsilent_ratio.view(batch, 1, 1, self.windows)).cpu()
