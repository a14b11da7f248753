"""The Euclidean distance, as in the model card, by which the odd one out of three is chosen."""

from __future__ import annotations

from typing import Any


def opposite_squares(embeddings: Any, triplets: Any) -> tuple[Any, Any, Any]:
    """The squared Euclidean distance of the pair without each track of a triplet.

    embeddings: (..., tracks, dim), a NumPy array or a PyTorch tensor; triplets: (n, 3) track
    indices a, b, c. Returns the squares of bc, ac and ab, (..., n) each: the odd one out is the
    track whose opposite pair is the nearest. The probability that a is the odd one is
    proportional to exp(-bc / 2 / temperature), and so on; for unit vectors this is the softmax
    over dot products of SPoSE (Hebart et al. 2020, eq. 1).
    """
    a, b, c = (embeddings[..., triplets[:, i], :] for i in range(3))  # (..., n, dim) each
    return (((b - c) ** 2).sum(-1), ((a - c) ** 2).sum(-1), ((a - b) ** 2).sum(-1))
