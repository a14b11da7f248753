"""Music similarity from audio: a track of any length becomes an embedding of 32 numbers.

>>> import feelprint
>>> a = feelprint.embed("a.mp3")
>>> b = feelprint.embed("b.flac")
>>> distance = float(((a - b) ** 2).sum() ** 0.5)  # Euclidean: near tracks sound similar

The functions use the released model, which is part of the package. `Model` loads another one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from feelprint._feelprint import AudioError, Error, ModelError, __version__
from feelprint._index import Duplicates, Index, IndexedTrack, IndexWarning, Update
from feelprint._model import DIM_EMBEDDING, DamageWarning, Model, StrPath, Track
from feelprint._neighbours import nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "DIM_EMBEDDING",
    "AudioError",
    "DamageWarning",
    "Duplicates",
    "Error",
    "Index",
    "IndexWarning",
    "IndexedTrack",
    "Model",
    "ModelError",
    "Track",
    "Update",
    "__version__",
    "analyse",
    "analyse_bytes",
    "analyse_many",
    "embed",
    "embed_many",
    "embed_samples",
    "model_version",
    "nearest",
]

model_version: str
"""The version of the released model. Embeddings of two versions cannot be compared: store it with
them."""


def embed(path: StrPath) -> npt.NDArray[np.float32]:
    """The embedding of an audio file, (32,) float32: see `Model.embed`."""
    return released_model().embed(path)


def embed_many(
    paths: Iterable[StrPath], threads: int | None = None
) -> list[npt.NDArray[np.float32] | Exception]:
    """The embedding of each file, (32,) float32, or its error: see `Model.embed_many`."""
    return released_model().embed_many(paths, threads)


def embed_samples(samples: npt.ArrayLike, rate: int) -> npt.NDArray[np.float32]:
    """The embedding of samples, (32,) float32: see `Model.embed_samples`."""
    return released_model().embed_samples(samples, rate)


def analyse(path: StrPath) -> Track:
    """The embedding of an audio file with its duration and damage: see `Model.analyse`."""
    return released_model().analyse(path)


def analyse_bytes(content: bytes) -> Track:
    """As `analyse`, of the content of a file: see `Model.analyse_bytes`."""
    return released_model().analyse_bytes(content)


def analyse_many(paths: Iterable[StrPath], threads: int | None = None) -> list[Track | Exception]:
    """As `analyse` for each file, or its error: see `Model.analyse_many`."""
    return released_model().analyse_many(paths, threads)


@functools.cache
def released_model() -> Model:
    """The model that is part of the package, loaded once."""
    return Model()


def __getattr__(name: str) -> Any:
    # Loads the model, which an import does not.
    if name == "model_version":
        return released_model().version
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
