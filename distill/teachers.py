"""Teachers: pretrained encoders behind one small interface, windows of audio in, embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distill import musicnn
from distill.clap import Clap
from distill.config import TeacherConfig
from distill.mert import Mert
from distill.pretrained import TeacherError
from student import FeelprintConfig
from student.frontend import SILENCE, LogMel, audible_frames, audible_mean

__all__ = ["Clap", "Mert", "Musicnn", "Spectrum", "Teacher", "TeacherError", "load_teacher"]


class Teacher(Protocol):
    """What the cache needs to know of a teacher, and what the model card says of it."""

    name: str
    revision: str
    licence: str
    sample_rate: int  # Hz
    window: int  # samples that one embedding hears
    dim: int  # of one embedding

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on: name, revision, layers, window."""
        ...

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples, about -1 to 1 -> (batch, dim) float32, on the CPU."""
        ...


class Musicnn:
    """musicnn: the mid-end's 753 features, their maximum and mean over a 3 s patch."""

    model = musicnn.MODELS[0]
    revision = musicnn.WHEEL_SHA256[:16]
    licence = "ISC"
    sample_rate = musicnn.SAMPLE_RATE
    window = musicnn.PATCH_SAMPLES - 1  # frames are centred: 187 of them
    dim = 2 * musicnn.FRAME_DIM

    def __init__(self, config: TeacherConfig, device: torch.device = musicnn.CPU):
        if config.layers:
            raise TeacherError(f"musicnn takes no layers, got {list(config.layers)}")
        self.device, self.name = device, self.model
        folder = Path(config.path or "data/teacher")
        self.network = musicnn.load_network(folder, device, self.model)

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on."""
        return {"name": self.name, "revision": self.revision, "window": self.window}

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, 1506) float32, on the CPU."""
        log_mel = musicnn.log_mel(windows.to(self.device))
        return self.network.pool(self.network.frames(log_mel)).cpu()


class MusicnnMtt(Musicnn):
    """musicnn as trained on MagnaTagATune; the same shape and licence."""

    model = musicnn.MODELS[1]


class Spectrum:
    """The average spectrum over 3 s: the student's own log-mel, its mean over the audible windows.

    Beside a network it teaches what the student can hear without a fault, on music of any kind.
    """

    name = "spectrum"
    licence = "MIT"
    windows = 3  # of the student's

    def __init__(self, config: TeacherConfig, device: torch.device = musicnn.CPU):
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
        log_mel, audible = self.front_end(windows.to(self.device).view(batch * self.windows, -1))
        means = audible_mean(log_mel, audible_frames(log_mel, self.front_end.floor))
        means = means.view(batch, self.windows, -1).transpose(1, 2)
        return audible_mean(means, audible.view(batch, 1, 1, self.windows)).cpu()


def load_teacher(config: TeacherConfig, device: torch.device = musicnn.CPU) -> Teacher:
    """The teacher that ``config`` names, on ``device``. Raises TeacherError if it cannot be had."""
    known: dict[str, type[Musicnn] | type[Spectrum] | type[Mert] | type[Clap]] = {
        "musicnn": Musicnn,
        "musicnn-mtt": MusicnnMtt,
        "spectrum": Spectrum,
        "mert": Mert,
        "clap": Clap,
    }
    if config.name not in known:
        raise TeacherError(f"unknown teacher {config.name}; known: {', '.join(known)}")
    return known[config.name](config, device)
