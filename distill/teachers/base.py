"""The protocol of every teacher: windows of audio in, embeddings out."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class TeacherError(RuntimeError):
    """A teacher that cannot be loaded, or whose files are not those expected."""


LEVEL_DB = -13.0  # chosen for musicnn (docs/log/2026-11-22-target-space.md)


class Teacher(Protocol):
    """An encoder with the attributes that the cache and the model card need."""

    name: str
    revision: str
    licence: str
    sample_rate: int  # Hz
    window: int  # samples per embedding
    dim: int  # of one embedding
    level_db: float  # RMS, dB of full scale, to which its input is scaled

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on: name, revision, layers, window."""
        ...

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples, nominally -1 to 1 -> (batch, dim) float32, on the CPU.

        A window of several segments may be shorter: a track that is shorter than it.
        """
        ...
