"""The report's figures, worked out by hand on points in a plane."""

import numpy as np
import pytest

from distill.evaluation import figures
from distill.evaluation.figures import Items
from distill.evaluation.metrics import Triplets, retrieval

# four tracks on two albums, two excerpts each, far apart by album
PLANE = np.array(
    [
        [[0.0, 0.0], [0.0, 0.1]],
        [[1.0, 0.0], [1.0, 0.1]],
        [[9.0, 0.0], [9.0, 0.1]],
        [[9.5, 0.0], [9.5, 5.0]],
    ]
)
ALBUMS = np.array([0, 0, 1, 1])


def random_vectors(tracks: int = 30, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((tracks, 2, dim)), np.arange(tracks) % 5


def test_neighbours_by_hand():
    items = figures.neighbour_items(PLANE, ALBUMS)
    # only the last track's excerpts are nearer to others than to each other
    assert items["track_recall@1"].values.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    # its first excerpt lies 5.0 from the second; the third track's two lie at 0.5 and 0.51
    assert items["track_mrr"].values[6] == pytest.approx(1 / 3)
    assert items["album_precision@1"].values.tolist() == [1] * 8
    # three other tracks, one of them of the album
    assert items["album_precision@5"].values.tolist() == [pytest.approx(1 / 3)] * 4


def test_the_stage_evaluate_and_the_report_say_the_same():
    vectors, albums = random_vectors()
    items, stage = figures.neighbour_items(vectors, albums), retrieval(vectors, albums, 200)
    for name in ("track_recall@1", "album_precision@1"):
        assert figures.interval(items[name], 200) == pytest.approx(stage[name])


def test_a_collapsed_space_finds_nothing():
    items = figures.neighbour_items(np.zeros((10, 2, 3)), np.arange(10) % 2)
    assert items["track_recall@1"].values.sum() == 0
    assert items["track_mrr"].values.max() < 0.1


def test_triplets_by_hand_and_ties():
    rows = np.array([[0, 0], [0, 0]])
    triplets = Triplets(rows, np.array([[1, 0], [2, 0]]), np.array([[2, 0], [1, 0]]))
    items = figures.triplet_items(PLANE, ALBUMS, triplets)
    assert items["triplet"].values.tolist() == [1, 0]
    tie = figures.triplet_items(np.zeros((3, 2, 2)), np.zeros(3, int), triplets)
    assert tie["triplet"].values.tolist() == [0, 0]


def test_hubness_of_a_ring_and_of_a_star():
    angles = 2 * np.pi * np.arange(60) / 60
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None].repeat(2, axis=1)
    albums = np.arange(60) % 2
    even = figures.hubness(ring, albums)
    assert even["orphans"] == 0.0
    assert even["largest"] == pytest.approx(10 / 59)
    assert abs(even["skew"]) < 1e-6
    # all 60 lie far out in directions of their own, and one song in the middle of them
    star = np.eye(60)[:, None].repeat(2, axis=1) * 5
    star[0] = 0.5
    hub = figures.hubness(star, albums)
    assert hub["largest"] == 1.0
    assert hub["skew"] > 1
    assert figures.hubness(ring[:15], albums[:15]) is None


def test_same_album_bias_against_chance():
    vectors = np.repeat(np.arange(4), 11)[:, None, None] * 100.0 + np.zeros((44, 2, 1))
    vectors[:, :, 0] += np.arange(44)[:, None] * 0.01
    found = figures.hubness(vectors, np.repeat(np.arange(4), 11))
    assert found["same_album"] == 1.0
    assert found["same_album_chance"] == pytest.approx(10 / 43)


def test_mood_triplets_cross_soundtracks_and_follow_the_mood():
    rng = np.random.default_rng(1)
    moods, albums = rng.standard_normal((40, 3)), np.arange(40) % 8
    triplets = figures.mood_triplets(moods, albums)
    a, p, n = (rows[:, 0] for rows in (triplets.anchor, triplets.positive, triplets.negative))
    assert len(a) > 1_000
    assert ((albums[a] != albums[p]) & (albums[a] != albums[n]) & (albums[p] != albums[n])).all()
    perfect = moods[:, None].repeat(2, axis=1) / moods.std(axis=0)
    assert figures.triplet_items(perfect, albums, triplets)["triplet"].values.mean() == 1.0
    other = rng.standard_normal((40, 2, 3))
    assert abs(figures.triplet_items(other, albums, triplets)["triplet"].values.mean() - 0.5) < 0.1


def test_the_interval_is_over_groups_and_seeded():
    values, groups = np.repeat([1.0, 0.0], 100), np.repeat(np.arange(10), 20)
    found = figures.interval(Items(values, groups), 500)
    assert found["accuracy"] == 0.5
    assert found["high"] - found["low"] > 0.4  # ten groups, not two hundred items
    assert found == figures.interval(Items(values, groups), 500)


def test_a_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 10)
    hard = rng.random(20)[groups]  # soundtracks differ far more than the two models do
    theirs = (rng.random(200) < hard).astype(float)
    ours = theirs.copy()
    ours[::10] = 1.0  # a little better on every soundtrack
    found = figures.difference(Items(ours, groups), Items(theirs, groups), 500)
    assert found["low"] > 0 and found["difference"] == pytest.approx((ours - theirs).mean())
    one, other = (figures.interval(Items(v, groups), 500) for v in (ours, theirs))
    assert one["low"] < other["high"]
    with pytest.raises(ValueError, match="cannot be paired"):
        figures.difference(Items(ours, groups), Items(theirs[:100], groups[:100]), 10)


def test_chances_match_a_random_space():
    vectors, albums = random_vectors(tracks=200)
    items, chance = figures.neighbour_items(vectors, albums), figures.chance_levels(albums)
    for name, row in items.items():
        assert row.values.mean() == pytest.approx(chance[name], abs=0.06), name
