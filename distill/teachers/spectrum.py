"""The mean log-mel as a teacher: a target that the student's own front end holds exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.config import TeacherConfig
from distill.teachers.base import TeacherError
from student import FeelprintConfig
from student.frontend import SILENCE, LogMel, activity_mask, masked_mean


class Spectrum:
    """The average spectrum over 3 s: the student's own log-mel, its mean over the nonsilent_ratio windows.

    Beside a network it teaches what the student can hear without a fault, on music of any kind.
    """

    name = "spectrum"
    licence = "MIT"
    windows = 3  # of the student's

    def __init__(self, config: TeacherConfig, device: torch.device = torch.device("cpu")):
        if config.path or config.layers:
            raise TeacherError(
                f"spectrum takes no path and no layers, got {config.path!r} and "
                f"{list(config.layers)}"
            )
        hears = FeelprintConfig()
        self.device, self.front_end = device, LogMel(hears).to(device)
        self.sample_rate, self.window = hears.sample_rate, self.windows * hears.window_length
        self.dim = hears.n_mels
        self.revision = (
            f"{hears.n_mels} mels of {hears.f_min:g} to {hears.f_max:g} Hz, n_fft {hears.n_fft}, "
            f"hop {hears.hop_length}, floor {hears.floor:g}, silence {SILENCE:g}"
        )

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on."""
        return {"name": self.name, "revision": self.revision, "window": self.window}

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, 64) float32, on the CPU."""
        batch = len(windows)
        log_mel, nonsilent_ratio = self.front_end(
            windows.to(self.device).view(batch * self.windows, -1)
        )
        means = masked_mean(log_mel, activity_mask(log_mel, self.front_end.floor))
        means = means.view(batch, self.windows, -1).transpose(1, 2)
        return masked_mean(means, nonsilent_ratio.view(batch, 1, 1, self.windows)).cpu()
