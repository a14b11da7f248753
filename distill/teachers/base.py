"""What every teacher provides: windows of audio in, embeddings out."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class TeacherError(RuntimeError):
    """A teacher that cannot be loaded, or is not what it should be."""


class Teacher(Protocol):
    """What the cache and the model card need to know of a teacher."""

    name: str
    revision: str
    licence: str
    sample_rate: int  # Hz
    window: int  # samples per embedding
    dim: int  # of one embedding

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on: name, revision, layers, window."""
        ...

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples, nominally -1 to 1 -> (batch, dim) float32, on the CPU."""
        ...
