"""The teachers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from distill.config import TeacherConfig
from distill.teachers.base import Teacher, TeacherError
from distill.teachers.clap import Clap
from distill.teachers.mert import Mert
from distill.teachers.musicnn import CPU, Musicnn, MusicnnMtt, MusicnnTags
from distill.teachers.spectrum import Spectrum
from distill.teachers.vibenet import VibeNet
from student import FeelprintConfig


def load_teacher(
    config: TeacherConfig, student: FeelprintConfig, device: torch.device = CPU
) -> Teacher:
    """The teacher that ``config`` names, on ``device``.

    ``student`` is the configuration of the student that is trained: `spectrum` uses its front end.
    Raises TeacherError where the name is unknown or the teacher cannot be loaded.
    """
    known: dict[str, Callable[[TeacherConfig, torch.device], Teacher]] = {
        "musicnn": Musicnn,
        "musicnn-tags": MusicnnTags,
        "musicnn-mtt": MusicnnMtt,
        "vibenet": VibeNet,
        "spectrum": partial(Spectrum, student),
        "mert": Mert,
        "clap": Clap,
    }
    if config.name not in known:
        raise TeacherError(f"unknown teacher {config.name}; known: {', '.join(known)}")
    return known[config.name](config, device)
