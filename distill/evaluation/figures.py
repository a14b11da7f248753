"""Every figure as one value an item, so that two representations can be compared item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.evaluation.metrics import Triplets

NEIGHBOURS = 10  # of the k-occurrence
# the tags that name a mood, by their place among the 50 MSD tags (musicnn's configuration.py)
MOODS = {
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
MOOD_TRIPLETS_A_TRACK = 40


@dataclass(frozen=True)
class Items:
    """A figure before its mean is taken: values and the soundtrack of each, both (n,)."""

    values: np.ndarray
    groups: np.ndarray


def distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances between the rows of (n, dim): (n, n), float64, infinite to itself."""
    x = vectors.astype(np.float64)
    squares = (x**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0))
    np.fill_diagonal(distance, np.inf)
    return distance


def mood_triplets(moods: np.ndarray, albums: np.ndarray, seed: int = 0) -> Triplets:
    """Anchor, a track of a near mood, one of a far mood; three different soundtracks.

    ``moods`` (tracks, tags) are standardised here. Of the tracks of other soundtracks, the
    positive is drawn from the quarter nearest to the anchor in mood, the negative from the
    farthest quarter.
    """
    rng = np.random.default_rng(seed)
    distance = distances((moods - moods.mean(axis=0)) / np.maximum(moods.std(axis=0), 1e-9))
    rows = []
    for anchor in range(len(albums)):
        negatives = np.flatnonzero(albums != albums[anchor])
        negatives = negatives[np.argsort(distance[anchor, negatives])]
        quarter = len(negatives) // 4
        for _ in range(MOOD_TRIPLETS_A_TRACK if quarter else 0):
            near = int(rng.choice(negatives[:quarter]))
            far = int(rng.choice(negatives[-quarter:]))
            if albums[near] != albums[far]:
                rows.append((anchor, near, far))
    tracks = np.array(rows, dtype=np.int64).reshape(-1, 3)
    excerpt = rng.integers(2, size=tracks.shape)
    return Triplets(*(np.stack([tracks[:, i], excerpt[:, i]], axis=1) for i in range(3)))


def triplet_items(vectors: np.ndarray, albums: np.ndarray, triplets: Triplets) -> dict[str, Items]:
    """Both definitions of triplet accuracy, one value a triplet; a tie is wrong."""
    a, p, n = (
        vectors[rows[:, 0], rows[:, 1]].astype(np.float64)
        for rows in (triplets.anchor, triplets.positive, triplets.negative)
    )
    near, far, rest = (np.linalg.norm(x - y, axis=1) for x, y in ((a, p), (a, n), (p, n)))
    groups = albums[triplets.anchor[:, 0]]
    return {
        "triplet": Items((near < far).astype(float), groups),
        "odd_one_out": Items((near < np.minimum(far, rest)).astype(float), groups),
    }


def neighbour_items(vectors: np.ndarray, albums: np.ndarray) -> dict[str, Items]:
    """Retrieval among all excerpts (tracks, 2, dim), one value an excerpt or a track.

    track_recall@1, track_mrr: rank of the track's other excerpt (1 over it for
    the mean reciprocal rank). album_precision@1: the nearest excerpt of another track.
    album_precision@5: share of the five nearest tracks, by their mean vectors, that are of
    the same soundtrack. The last two leave out tracks that are alone on their soundtrack.
    """
    tracks = len(vectors)
    distance = distances(vectors.reshape(2 * tracks, -1))
    of_track = np.repeat(np.arange(tracks), 2)
    mate = np.arange(2 * tracks) ^ 1  # the two excerpts of a track stand side by side
    to_mate = distance[np.arange(2 * tracks), mate]
    rank = (distance <= to_mate[:, None]).sum(axis=1)  # a tie counts against
    groups = albums[of_track]
    others = np.where(of_track[:, None] == of_track[None], np.inf, distance)
    same = (albums[of_track[others.argmin(axis=1)]] == groups).astype(float)
    has_mate = np.bincount(albums)[albums] > 1
    five = nearest(vectors.mean(axis=1), 5)
    precision = (albums[five] == albums[:, None]).mean(axis=1)
    return {
        "track_recall@1": Items((rank == 1).astype(float), groups),
        "track_mrr": Items(1 / rank, groups),
        "album_precision@1": Items(same[has_mate[of_track]], groups[has_mate[of_track]]),
        "album_precision@5": Items(precision[has_mate], albums[has_mate]),
    }


def nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """The k nearest other rows of every row of (n, dim), nearest first: (n, min(k, n - 1))."""
    k = min(k, len(vectors) - 1)
    return np.argsort(distances(vectors), axis=1, kind="stable")[:, :k]


def hubness(vectors: np.ndarray, albums: np.ndarray) -> dict[str, float] | None:
    """How evenly the tracks (tracks, 2, dim), by their mean vectors, are each other's neighbours.

    skew: third standardised moment of the 10-occurrence (how many tracks have a track among
    their ten nearest); M. Radovanovic et al., "Hubs in space", 2010, section 2. orphans: share of
    tracks that are among nobody's ten. largest: share of tracks that have the most frequent
    neighbour among their ten. same_album: share of all those neighbours that are of the same
    soundtrack; same_album_chance: the same for neighbours drawn at random. None for so few
    tracks that ten neighbours are half of them.
    """
    if len(vectors) <= 2 * NEIGHBOURS:
        return None
    near = nearest(vectors.mean(axis=1), NEIGHBOURS)
    tracks = len(near)
    occurrence = np.bincount(near.reshape(-1), minlength=tracks).astype(float)
    centred = occurrence - occurrence.mean()
    deviation = centred.std()
    sizes = np.bincount(albums)[albums]
    return {
        "skew": float((centred**3).mean() / deviation**3) if deviation else 0.0,
        "orphans": float((occurrence == 0).mean()),
        "largest": float(occurrence.max() / (tracks - 1)),
        "same_album": float((albums[near] == albums[:, None]).mean()),
        "same_album_chance": float(((sizes - 1) / (tracks - 1)).mean()),
    }


def all_items(
    vectors: np.ndarray, albums: np.ndarray, triplets: Triplets, moods: Triplets | None
) -> dict[str, Items]:
    """Every figure of one representation (tracks, 2, dim) that is a mean over items."""
    items = triplet_items(vectors, albums, triplets) | neighbour_items(vectors, albums)
    if moods is not None and len(moods.anchor):
        items["mood"] = triplet_items(vectors, albums, moods)["triplet"]
    return items


def chance_levels(albums: np.ndarray) -> dict[str, float]:
    """What drawing at random would reach, figure by figure, for tracks of ``albums`` (tracks,)."""
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


def _means(items: Items, resamples: int) -> np.ndarray:
    """Means of resamples of the soundtracks, (resamples,); the same draw for the same groups."""
    number = np.unique(items.groups, return_inverse=True)[1]
    sums, counts = np.bincount(number, items.values), np.bincount(number)
    drawn = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)


def interval(items: Items, resamples: int) -> dict[str, Any]:
    """The mean, and its 95 % interval by bootstrap over soundtracks."""
    low, high = np.percentile(_means(items, resamples), [2.5, 97.5])
    return {
        "accuracy": float(items.values.mean()),
        "low": float(low),
        "high": float(high),
        "n": len(items.values),
    }


def difference(ours: Items, theirs: Items, resamples: int) -> dict[str, float]:
    """Ours minus theirs with the 95 % interval of a paired bootstrap over soundtracks."""
    if not np.array_equal(ours.groups, theirs.groups):
        raise ValueError("the two rows are not of the same items, so they cannot be paired")
    both = Items(ours.values - theirs.values, ours.groups)
    low, high = np.percentile(_means(both, resamples), [2.5, 97.5])
    return {"difference": float(both.values.mean()), "low": float(low), "high": float(high)}


def differences(
    rows: Mapping[str, Mapping[str, Items]], ours: str, resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The paired differences of ``ours`` to every other row, figure by figure."""
    return {
        name: {figure: difference(rows[ours][figure], row[figure], resamples) for figure in row}
        for name, row in rows.items()
        if name != ours
    }
