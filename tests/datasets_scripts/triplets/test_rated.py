"""Triplets from ratings: cases by hand."""

import numpy as np
import pytest

from datasets_scripts.triplets.rated import (
    artist_folds,
    near_and_far,
    rated_triplets,
    reliability,
    valence_arousal_plane,
)

# rated distances from the first: 0.5 near, 0.6 and 1.5 neither, 1.6 far
PLANE = np.array([[0.0, 0.0], [0.5, 0.0], [0.6, 0.0], [0.0, 1.5], [0.0, -1.6]])
ARTISTS = np.array(list("abcde"))


def test_the_plane_is_z_scored() -> None:
    plane = valence_arousal_plane(np.array([1.0, 3.0]), np.array([4.0, 2.0]))
    assert plane.tolist() == [[-1, 1], [1, -1]]
    with pytest.raises(ValueError, match="all 2 tracks have the same valence or the same arousal"):
        valence_arousal_plane(np.array([1.0, 3.0]), np.array([2.0, 2.0]))


def test_near_and_far_by_hand() -> None:
    near, far = near_and_far(PLANE, ARTISTS)
    assert near[0].tolist() == [False, True, False, False, False]
    assert far[0].tolist() == [False, False, False, False, True]
    near, far = near_and_far(PLANE, np.array(list("aabca")))
    assert not near[0].any() and not far[0].any()  # both are the anchor's own


def test_reliability_by_hand() -> None:
    means = np.array([[1.0, 2.0], [3.0, 4.0]])  # variance 1 in both measures
    sd = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert reliability(sd, means).tolist() == [1.0, 0.5]
    assert reliability(np.array([[2.0, 0.0]] * 2), means).tolist() == [1 / 3, 1 / 3]


def test_every_triplet_once_where_there_are_few() -> None:
    weights = np.array([0.9, 0.6, 0.3, 0.3, 0.3])
    triplets = rated_triplets("vwxyz", PLANE, ARTISTS, weights, "test", per_anchor=10)
    of_first = [t for t in triplets if t.a == "v"]
    assert [(t.a, t.b, t.c) for t in of_first] == [("v", "w", "z")]
    assert of_first[0].odd == "z" and of_first[0].weight == pytest.approx(0.6)
    # w is near x and v, far from y and z; x has w, and the same two
    assert {(t.a, t.b, t.c) for t in triplets if t.a == "w"} == {
        ("w", b, c) for b in "vx" for c in "yz"
    }
    assert not [t for t in triplets if t.a in "yz"]


def test_a_bounded_number_of_different_ones_by_seed() -> None:
    plane = np.repeat([[0.0, 0.0], [3.0, 0.0]], 10, axis=0)
    ids = [str(n) for n in range(20)]

    def drawn(seed: int) -> list[tuple[str, str, str]]:
        made = rated_triplets(ids, plane, np.array(ids), np.ones(20), "test", 7, seed)
        return [(t.a, t.b, t.c) for t in made]

    assert len(set(drawn(0))) == 7 * 20
    assert drawn(0) == drawn(0) != drawn(1)


def test_folds_keep_artists_together() -> None:
    artists = np.array(list("abcdefghij") * 2)
    folds = artist_folds(artists, 5, seed=3)
    assert folds[:10].tolist() == folds[10:].tolist()
    assert np.bincount(folds).tolist() == [4] * 5
    assert folds.tolist() == artist_folds(artists, 5, seed=3).tolist()
    assert folds.tolist() != artist_folds(artists, 5, seed=4).tolist()
