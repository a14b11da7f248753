"""The protocol of every teacher: windows of audio in, embeddings out."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class TeacherError(RuntimeError):
    """A teacher that cannot be loaded, or whose files are not those expected."""


class Teacher(Protocol):
    """An encoder with the attributes that the cache and the model card need."""

    name: str
    revision: str
    licence: str
    sample_rate: int  # Hz
    window: int  # samples per embedding
    dim: int  # of one embedding

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on: name, revision, layers, window."""
        ...

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples, nominally -1 to 1 -> (batch, dim) float32, on the CPU."""
        ...
