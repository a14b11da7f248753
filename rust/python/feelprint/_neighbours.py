"""The exact search among embeddings in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feelprint import _feelprint
from feelprint._model import DIM_EMBEDDING, thread_count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def nearest(
    embeddings: npt.ArrayLike, queries: npt.ArrayLike, n: int = 10, threads: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The nearest embeddings to each query, by an exact search.

    Args:
        embeddings: (tracks, 32), all of one version of the model. A contiguous float32 array is not
            copied.
        queries: (queries, 32), of the same version.
        n: How many nearest.
        threads: How many threads search; without it, one per processor.

    Returns:
        The indices of the nearest tracks, (queries, min(n, tracks)) int64, nearest first, and their
        Euclidean distances, float32. Of equally near ones, the first in `embeddings` comes first.

    Raises:
        ValueError: An array has another shape or a value that is not finite, `n` is negative, or
            `threads` is less than 1.
    """
    import numpy as np

    arrays = []
    for name, values in (("embeddings", embeddings), ("queries", queries)):
        array = np.ascontiguousarray(values, np.float32)
        if array.ndim != 2 or array.shape[1] != DIM_EMBEDDING:
            shape = np.shape(values)
            raise ValueError(f"{name} of shape {shape}, expected (rows, {DIM_EMBEDDING})")
        # The sum in float64 is finite if and only if every float32 is; it needs no other array.
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise ValueError(f"{name} have a value that is not finite")
        arrays.append(array)
    if n < 0:
        raise ValueError(f"n is {n}, expected at least 0")
    return _feelprint.nearest(arrays[0], arrays[1], n, thread_count(threads))
