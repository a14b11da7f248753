"""The teachers by name."""

from __future__ import annotations

import torch

from distill.config import TeacherConfig
from distill.teachers.base import Teacher, TeacherError
from distill.teachers.clap import Clap
from distill.teachers.mert import Mert
from distill.teachers.musicnn import CPU, Musicnn, MusicnnMtt
from distill.teachers.spectrum import Spectrum


def load_teacher(config: TeacherConfig, device: torch.device = CPU) -> Teacher:
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
