"""Triplets from ratings: an anchor, a positive of similar ratings, a negative of dissimilar ones.

The ratings are valence and arousal, each z-scored over the tracks. Two tracks are similar
where the Euclidean distance between them in this plane is under `NEAR`, and dissimilar where it is
over `FAR`.
Since FAR is more than twice NEAR, the negative is also the odd one out of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from datasets_scripts.triplets.table import Triplet

NEAR, FAR = 0.6, 1.5  # standard deviations
TRIPLETS_PER_ANCHOR = 40


def valence_arousal_plane(valence: np.ndarray, arousal: np.ndarray) -> np.ndarray:
    """Valence and arousal (n,), each z-scored over the n tracks: (n, 2).

    Raises ValueError where all tracks have the same rating.
    """
    plane = np.stack([valence, arousal], axis=1).astype(np.float64)
    deviation = plane.std(axis=0)
    if not deviation.all():
        raise ValueError(
            f"all {len(plane)} tracks have the same valence or the same arousal; a z-score needs "
            "ratings that differ"
        )
    return (plane - plane.mean(axis=0)) / deviation


def near_and_far(plane: np.ndarray, artists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tracks may be an anchor's positives and its negatives, both (n, n) bool.

    ``plane`` (n, 2) as of `valence_arousal_plane`; ``artists`` (n,). Row: anchor. Tracks of the
    anchor's own artist are neither.
    """
    distance = cdist(plane, plane)
    other_artist = artists[:, None] != artists[None]
    return (distance < NEAR) & other_artist, (distance > FAR) & other_artist


def reliability(sd: np.ndarray, means: np.ndarray) -> np.ndarray:
    """How reliable one rater's rating of a track is, between 0 and 1: (n,).

    ``sd`` and ``means`` (n, measures) are over the raters of each track. The value is
    v / (v + s²), with v the variance of ``means`` over the tracks and s² the variance over the
    raters of this track, both averaged over the measures in units of v: the intraclass correlation
    ICC(1,1) (P. E. Shrout and J. L. Fleiss, 1979), with the variance within taken track by track.
    """
    return 1 / (1 + (sd**2 / means.var(axis=0)).mean(axis=1))


def rated_triplets(
    ids: Sequence[str],
    plane: np.ndarray,
    artists: np.ndarray,
    weights: np.ndarray,
    source: str,
    per_anchor: int = TRIPLETS_PER_ANCHOR,
    seed: int = 0,
) -> list[Triplet]:
    """For every anchor, at most ``per_anchor`` different pairs of a positive and a negative.

    The pairs are drawn without replacement from all that `near_and_far` allows. In a row, a is the
    anchor, b the positive, c the negative and the odd one; its weight is the mean of the three
    tracks' ``weights`` (n,). An anchor without a positive or a negative has no triplet.
    """
    near, far = near_and_far(plane, artists)
    rng = np.random.default_rng(seed)
    found = []
    for anchor in range(len(ids)):
        positives, negatives = np.flatnonzero(near[anchor]), np.flatnonzero(far[anchor])
        pairs = len(positives) * len(negatives)
        for pair in rng.choice(pairs, min(per_anchor, pairs), replace=False) if pairs else ():
            three = (anchor, positives[pair // len(negatives)], negatives[pair % len(negatives)])
            a, b, c = (ids[n] for n in three)
            found.append(Triplet(a, b, c, c, source, weight=float(weights[list(three)].mean())))
    return found


def artist_folds(artists: np.ndarray, folds: int = 5, seed: int = 0) -> np.ndarray:
    """A fold for each track (n,), 0 to folds - 1; all tracks of an artist are in one fold.

    The artists are permuted and dealt out in turn, so that folds hold equally many artists.
    """
    names, artist_of = np.unique(artists, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[artist_of]
