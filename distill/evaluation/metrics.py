"""Triplet, retrieval and hubness metrics of embeddings, as functions of arrays.

Embeddings are (tracks, 2, dim): two excerpts of every track. Each metric is first computed as one
score per item (`PerItemScores`), so that two models can be compared item by item; the means,
their intervals and the paired differences follow from those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import skew

from datasets_scripts.statistics import bootstrap_interval, paired_difference
from distill.features.shards import CacheError

N_NEIGHBOURS = 10  # k of the k-occurrence
TRIPLETS_PER_TRACK = 40
MOOD_TRIPLETS_PER_TRACK = 40
# the tags that name a mood, by their index among the 50 MSD tags (musicnn's configuration.py)
MOOD_TAGS = {
    "beautiful": 10,
    "chillout": 12,
    "Mellow": 17,
    "chill": 22,
    "party": 35,
    "easy listening": 37,
    "sexy": 38,
    "catchy": 39,
    "sad": 47,
    "happy": 49,
}

Score = dict[str, float | int]  # value, low, high (95 % interval) and n (items)


@dataclass(frozen=True)
class PerItemScores:
    """One metric before its mean is taken: a score and an album number per item, both (n,)."""

    values: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Anchor, positive and negative, each as (track, excerpt) indices (n, 2)."""

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


# --- triplets --------------------------------------------------------------------------------


def album_triplets(albums: np.ndarray, seed: int = 0) -> Triplets:
    """Two tracks of one album and one of another, TRIPLETS_PER_TRACK for every possible anchor.

    ``albums`` (tracks,) are album numbers. Raises CacheError where no album has two tracks.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int]] = []
    for anchor, album in enumerate(albums):
        positives = np.flatnonzero((albums == album) & (np.arange(len(albums)) != anchor))
        negatives = np.flatnonzero(albums != album)
        if len(positives) and len(negatives):
            for _ in range(TRIPLETS_PER_TRACK):
                rows.append((anchor, int(rng.choice(positives)), int(rng.choice(negatives))))
    if not rows:
        raise CacheError("no album of the split has two tracks, so no triplet can be made")
    return _with_excerpts(np.array(rows), rng)


def mood_triplets(moods: np.ndarray, albums: np.ndarray, seed: int = 0) -> Triplets:
    """Anchor, a track of a similar mood, one of a different mood; of three different albums.

    ``moods`` (tracks, tags) are standardised here. Among the tracks of other albums, the positive
    is drawn from the quarter nearest to the anchor in mood, the negative from the farthest
    quarter.
    """
    rng = np.random.default_rng(seed)
    distance = distances((moods - moods.mean(axis=0)) / np.maximum(moods.std(axis=0), 1e-9))
    rows = []
    for anchor in range(len(albums)):
        others = np.flatnonzero(albums != albums[anchor])
        others = others[np.argsort(distance[anchor, others])]
        quarter = len(others) // 4
        for _ in range(MOOD_TRIPLETS_PER_TRACK if quarter else 0):
            positive = int(rng.choice(others[:quarter]))
            negative = int(rng.choice(others[-quarter:]))
            if albums[positive] != albums[negative]:
                rows.append((anchor, positive, negative))
    return _with_excerpts(np.array(rows, dtype=np.int64).reshape(-1, 3), rng)


def _with_excerpts(tracks: np.ndarray, rng: np.random.Generator) -> Triplets:
    """Choose one of the two excerpts of every track of the triplets ``tracks`` (n, 3)."""
    excerpt = rng.integers(2, size=tracks.shape)
    return Triplets(*(np.stack([tracks[:, i], excerpt[:, i]], axis=1) for i in range(3)))


def triplet_scores(
    vectors: np.ndarray, albums: np.ndarray, triplets: Triplets
) -> dict[str, PerItemScores]:
    """Both definitions of triplet accuracy, 1 or 0 per triplet; a tie counts as wrong.

    triplet: d(anchor, positive) < d(anchor, negative). odd_one_out: d(anchor, positive) is the
    smallest of the three distances. The public definition is `metrics/triplet_accuracy`.
    """
    anchor, positive, negative = (
        vectors[rows[:, 0], rows[:, 1]].astype(np.float64)
        for rows in (triplets.anchor, triplets.positive, triplets.negative)
    )
    to_positive, to_negative, between = (
        np.linalg.norm(x - y, axis=1)
        for x, y in ((anchor, positive), (anchor, negative), (positive, negative))
    )
    groups = albums[triplets.anchor[:, 0]]
    odd_one_out = to_positive < np.minimum(to_negative, between)
    return {
        "triplet": PerItemScores((to_positive < to_negative).astype(float), groups),
        "odd_one_out": PerItemScores(odd_one_out.astype(float), groups),
    }


# --- nearest neighbours ----------------------------------------------------------------------


def distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances between the rows of (n, dim): (n, n), float64, inf on the diagonal."""
    x = vectors.astype(np.float64)
    squares = (x**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0))
    np.fill_diagonal(distance, np.inf)
    return distance


def nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """The k nearest other rows of every row of (n, dim), nearest first: (n, min(k, n - 1))."""
    k = min(k, len(vectors) - 1)
    return np.argsort(distances(vectors), axis=1, kind="stable")[:, :k]


def retrieval_scores(vectors: np.ndarray, albums: np.ndarray) -> dict[str, PerItemScores]:
    """Retrieval among all excerpts of (tracks, 2, dim), one score per excerpt or per track.

    track_recall@1, track_mrr: whether the track's other excerpt is the nearest of all, and 1 over
    its rank. album_precision@1: whether the nearest excerpt of another track is of the same album.
    album_precision@5: share of the five nearest tracks, by mean vector, that are of the same
    album. The last two skip tracks that are alone on their album.
    """
    tracks = len(vectors)
    distance = distances(vectors.reshape(2 * tracks, -1))
    track_of = np.repeat(np.arange(tracks), 2)
    other_excerpt = np.arange(2 * tracks) ^ 1  # the two excerpts of a track are adjacent
    to_other = distance[np.arange(2 * tracks), other_excerpt]
    rank = (distance <= to_other[:, None]).sum(axis=1)  # a tie counts as wrong
    groups = albums[track_of]
    of_other_tracks = np.where(track_of[:, None] == track_of[None], np.inf, distance)
    same_album = (albums[track_of[of_other_tracks.argmin(axis=1)]] == groups).astype(float)
    has_positive = np.bincount(albums)[albums] > 1
    five = nearest(vectors.mean(axis=1), 5)
    precision = (albums[five] == albums[:, None]).mean(axis=1)
    by_excerpt = has_positive[track_of]
    return {
        "track_recall@1": PerItemScores((rank == 1).astype(float), groups),
        "track_mrr": PerItemScores(1 / rank, groups),
        "album_precision@1": PerItemScores(same_album[by_excerpt], groups[by_excerpt]),
        "album_precision@5": PerItemScores(precision[has_positive], albums[has_positive]),
    }


def hubness(vectors: np.ndarray, albums: np.ndarray) -> dict[str, float] | None:
    """How evenly the tracks (tracks, 2, dim), by mean vector, are each other's neighbours.

    skew: skewness of the 10-occurrence, the number of tracks that have a track among their ten
    nearest (M. Radovanovic et al., "Hubs in space", 2010, section 2). orphans: share of tracks
    that are among nobody's ten nearest. largest: share of tracks that have the most frequent
    neighbour among their ten nearest. same_album: share of all those neighbours that are of the
    same album; same_album_chance: the same for neighbours drawn at random. None for so few tracks
    that ten neighbours are half of them.
    """
    if len(vectors) <= 2 * N_NEIGHBOURS:
        return None
    near = nearest(vectors.mean(axis=1), N_NEIGHBOURS)
    tracks = len(near)
    occurrence = np.bincount(near.reshape(-1), minlength=tracks).astype(float)
    sizes = np.bincount(albums)[albums]
    return {
        "skew": float(skew(occurrence)) if np.ptp(occurrence) else 0.0,
        "orphans": float((occurrence == 0).mean()),
        "largest": float(occurrence.max() / (tracks - 1)),
        "same_album": float((albums[near] == albums[:, None]).mean()),
        "same_album_chance": float(((sizes - 1) / (tracks - 1)).mean()),
    }


# --- all metrics of a model ------------------------------------------------------------------


def per_item_scores(
    vectors: np.ndarray, albums: np.ndarray, triplets: Triplets, moods: Triplets | None = None
) -> dict[str, PerItemScores]:
    """Every metric of one model's embeddings (tracks, 2, dim) that is a mean over items."""
    scores = triplet_scores(vectors, albums, triplets) | retrieval_scores(vectors, albums)
    if moods is not None and len(moods.anchor):
        scores["mood"] = triplet_scores(vectors, albums, moods)["triplet"]
    return scores


def chance_levels(albums: np.ndarray) -> dict[str, float]:
    """Expected value of each metric for a random ranking of tracks of ``albums`` (tracks,)."""
    tracks = len(albums)
    others = 2 * tracks - 1
    sizes = np.bincount(albums)[albums]
    same_album = float(((sizes[sizes > 1] - 1) / (tracks - 1)).mean()) if (sizes > 1).any() else 0.0
    return {
        "triplet": 1 / 2,
        "odd_one_out": 1 / 3,
        "mood": 1 / 2,
        "track_recall@1": 1 / others,
        "track_mrr": float((1 / np.arange(1, others + 1)).mean()),
        "album_precision@1": same_album,
        "album_precision@5": same_album,
    }


def interval(scores: PerItemScores, resamples: int) -> Score:
    """The mean, and its 95 % interval by bootstrap over albums."""
    low, high = bootstrap_interval(scores.values, scores.groups, resamples)
    return {
        "value": float(scores.values.mean()),
        "low": low,
        "high": high,
        "n": len(scores.values),
    }


def difference(ours: PerItemScores, baseline: PerItemScores, resamples: int) -> Score:
    """Ours minus the baseline's, with the 95 % interval of a paired bootstrap over albums.

    Raises:
        ValueError: the two are not scores of the same items.
    """
    if not np.array_equal(ours.groups, baseline.groups):
        raise ValueError("the two rows are not of the same items, so they cannot be paired")
    value, low, high = paired_difference(ours.values, baseline.values, ours.groups, resamples)
    return {"value": value, "low": low, "high": high, "n": len(ours.values)}


def differences(
    rows: Mapping[str, Mapping[str, PerItemScores]], ours: str, resamples: int
) -> dict[str, dict[str, Score]]:
    """The paired differences of the row ``ours`` to every other row, metric by metric."""
    return {
        name: {metric: difference(rows[ours][metric], row[metric], resamples) for metric in row}
        for name, row in rows.items()
        if name != ours
    }


def standardised(vectors: np.ndarray) -> np.ndarray:
    """(tracks, 2, dim) scaled to unit deviation per dimension, then to unit length.

    For features whose dimensions have no common unit (MFCC statistics, a teacher's raw
    embeddings). An embedding that is meant for Euclidean distance is compared unscaled.
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    deviation = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return flat.reshape(vectors.shape)
