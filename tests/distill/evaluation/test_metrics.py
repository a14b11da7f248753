"""The metrics on cases worked out by hand, and against the published triplet accuracy."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

from distill.evaluation import metrics
from distill.evaluation.metrics import (
    TRIPLETS_PER_TRACK,
    PerItemScores,
    Triplets,
    album_triplets,
    difference,
    interval,
    standardised,
)
from distill.features.shards import CacheError

METRIC = Path(__file__).parents[3] / "metrics" / "triplet_accuracy"

# four tracks on two albums, two excerpts each, far apart by album
PLANE = np.array(
    [
        [[0.0, 0.0], [0.0, 0.1]],
        [[1.0, 0.0], [1.0, 0.1]],
        [[9.0, 0.0], [9.0, 0.1]],
        [[9.5, 0.0], [9.5, 5.0]],
    ]
)
PLANE_ALBUMS = np.array([0, 0, 1, 1])
# three tracks of two excerpts on a line; the first two are of one album
LINE = np.array([[[0.0], [1.0]], [[1.4], [10.0]], [[18.0], [19.0]]])
LINE_ALBUMS = np.array([0, 0, 1])


def random_vectors(tracks: int = 30, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((tracks, 2, dim)), np.arange(tracks) % 5


# --- triplets --------------------------------------------------------------------------------


def test_both_definitions_by_hand() -> None:
    # anchor 0, positive 1.4: d 1.4; negative 18: farther from both. Then anchor 10, positive 0:
    # d 10; negative 18: d 8, wrong. Then anchor 1, positive 10, negative 19: d 9 < 18 is right,
    # and 9 = d(positive, negative) is a tie, which is wrong for the odd one out.
    triplets = Triplets(
        np.array([[0, 0], [1, 1], [0, 1]]),
        np.array([[1, 0], [0, 0], [1, 1]]),
        np.array([[2, 0], [2, 0], [2, 1]]),
    )
    scores = metrics.triplet_scores(LINE, LINE_ALBUMS, triplets)
    assert scores["triplet"].values.tolist() == [1, 0, 1]
    assert scores["odd_one_out"].values.tolist() == [1, 0, 0]
    assert interval(scores["triplet"], 50)["value"] == pytest.approx(2 / 3)
    assert interval(scores["odd_one_out"], 50)["value"] == pytest.approx(1 / 3)
    assert interval(scores["triplet"], 50)["n"] == 3


@pytest.mark.parametrize("definition", ["triplet", "odd_one_out"])
def test_triplet_accuracy_equals_the_published_metric(definition: str) -> None:
    # float32, as `evaluate` stores embeddings; a third of the items coincide, which makes ties
    vectors = np.random.default_rng(3).standard_normal((30, 2, 6)).astype(np.float32)
    vectors[:10] = vectors[0, 0]
    albums = np.arange(30) % 5
    triplets = album_triplets(albums)
    published = evaluate.load(str(METRIC)).compute(
        anchor=vectors[triplets.anchor[:, 0], triplets.anchor[:, 1]],
        positive=vectors[triplets.positive[:, 0], triplets.positive[:, 1]],
        negative=vectors[triplets.negative[:, 0], triplets.negative[:, 1]],
        definition=definition,
        groups=albums[triplets.anchor[:, 0]],
        bootstrap=300,
    )
    assert published["ties"] > 0
    assert published["chance"] == metrics.chance_levels(albums)[definition]
    ours = interval(metrics.triplet_scores(vectors, albums, triplets)[definition], 300)
    assert ours == {
        "value": published["accuracy"],
        "low": published["low"],
        "high": published["high"],
        "n": published["n"],
    }


def test_triplets_by_hand_and_ties() -> None:
    rows = np.array([[0, 0], [0, 0]])
    triplets = Triplets(rows, np.array([[1, 0], [2, 0]]), np.array([[2, 0], [1, 0]]))
    scores = metrics.triplet_scores(PLANE, PLANE_ALBUMS, triplets)
    assert scores["triplet"].values.tolist() == [1, 0]
    tie = metrics.triplet_scores(np.zeros((3, 2, 2)), np.zeros(3, int), triplets)
    assert tie["triplet"].values.tolist() == [0, 0]


def test_a_constant_embedding_scores_zero_and_a_perfect_one_scores_one() -> None:
    albums = np.repeat(np.arange(4), 3)
    triplets = album_triplets(albums)
    constant = np.ones((12, 2, 8)) / np.sqrt(8)
    scores = metrics.triplet_scores(constant, albums, triplets)
    assert scores["triplet"].values.max() == scores["odd_one_out"].values.max() == 0
    perfect = np.repeat(np.eye(4)[albums][:, None], 2, axis=1)
    perfect += 1e-3 * np.random.default_rng(0).standard_normal(perfect.shape)
    scores = metrics.triplet_scores(perfect, albums, triplets)
    assert scores["triplet"].values.min() == scores["odd_one_out"].values.min() == 1


def test_triplets_are_of_albums() -> None:
    albums = np.array([0, 0, 0, 1, 1, 2])  # the last is alone on its album: only ever a negative
    triplets = album_triplets(albums)
    anchor, positive, negative = (
        rows[:, 0] for rows in (triplets.anchor, triplets.positive, triplets.negative)
    )
    assert np.bincount(anchor).tolist() == [TRIPLETS_PER_TRACK] * 5
    assert (albums[anchor] == albums[positive]).all()
    assert (anchor != positive).all()
    assert (albums[anchor] != albums[negative]).all()
    assert 5 in negative
    assert set(np.unique(triplets.anchor[:, 1])) == {0, 1}
    again = album_triplets(albums)
    assert np.array_equal(triplets.negative, again.negative)
    with pytest.raises(CacheError, match="no album of the split has two tracks"):
        album_triplets(np.arange(5))


def test_mood_triplets_are_of_three_albums_and_follow_the_mood() -> None:
    rng = np.random.default_rng(1)
    moods, albums = rng.standard_normal((40, 3)), np.arange(40) % 8
    triplets = metrics.mood_triplets(moods, albums)
    a, p, n = (rows[:, 0] for rows in (triplets.anchor, triplets.positive, triplets.negative))
    assert len(a) > 1_000
    assert ((albums[a] != albums[p]) & (albums[a] != albums[n]) & (albums[p] != albums[n])).all()
    perfect = moods[:, None].repeat(2, axis=1) / moods.std(axis=0)
    scores = metrics.triplet_scores(perfect, albums, triplets)
    assert scores["triplet"].values.mean() == 1.0
    unrelated = rng.standard_normal((40, 2, 3))
    scores = metrics.triplet_scores(unrelated, albums, triplets)
    assert abs(scores["triplet"].values.mean() - 0.5) < 0.1


# --- nearest neighbours ----------------------------------------------------------------------


def test_retrieval_on_a_line_by_hand() -> None:
    scores = metrics.retrieval_scores(LINE, LINE_ALBUMS)
    # 0 finds 1; 1 finds 1.4; 1.4 finds 1; 10 finds 18; 18 and 19 find each other
    recall = interval(scores["track_recall@1"], 100)
    assert recall["value"] == pytest.approx(3 / 6)
    assert recall["n"] == 6
    # among other tracks: 0, 1 and 1.4 find their album, 10 does not; the third is alone on its own
    precision = interval(scores["album_precision@1"], 100)
    assert precision["value"] == pytest.approx(3 / 4)
    assert precision["n"] == 4


def test_retrieval_in_a_plane_by_hand() -> None:
    scores = metrics.retrieval_scores(PLANE, PLANE_ALBUMS)
    # only the last track's excerpts are nearer to others than to each other
    assert scores["track_recall@1"].values.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    # its first excerpt lies 5.0 from the second; the third track's two lie at 0.5 and 0.51
    assert scores["track_mrr"].values[6] == pytest.approx(1 / 3)
    assert scores["album_precision@1"].values.tolist() == [1] * 8
    # three other tracks, one of them of the album
    assert scores["album_precision@5"].values.tolist() == [pytest.approx(1 / 3)] * 4


def test_a_collapsed_space_retrieves_nothing() -> None:
    scores = metrics.retrieval_scores(np.zeros((10, 2, 3)), np.arange(10) % 2)
    assert scores["track_recall@1"].values.sum() == 0
    assert scores["track_mrr"].values.max() < 0.1


def test_chance_levels_match_a_random_space() -> None:
    vectors, albums = random_vectors(tracks=200)
    scores, chance = metrics.retrieval_scores(vectors, albums), metrics.chance_levels(albums)
    for name, row in scores.items():
        assert row.values.mean() == pytest.approx(chance[name], abs=0.06), name


def test_hubness_of_a_ring_and_of_a_star() -> None:
    angles = 2 * np.pi * np.arange(60) / 60
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None].repeat(2, axis=1)
    albums = np.arange(60) % 2
    even = metrics.hubness(ring, albums)
    assert even is not None
    assert even["orphans"] == 0.0
    assert even["largest"] == pytest.approx(10 / 59)
    assert abs(even["skew"]) < 1e-6
    # 59 tracks lie far out in directions of their own, and one lies in the middle of them
    star = np.eye(60)[:, None].repeat(2, axis=1) * 5
    star[0] = 0.5
    hub = metrics.hubness(star, albums)
    assert hub is not None
    assert hub["largest"] == 1.0
    assert hub["skew"] > 1
    assert metrics.hubness(ring[:15], albums[:15]) is None


def test_same_album_share_against_chance() -> None:
    vectors = np.repeat(np.arange(4), 11)[:, None, None] * 100.0 + np.zeros((44, 2, 1))
    vectors[:, :, 0] += np.arange(44)[:, None] * 0.01
    hub = metrics.hubness(vectors, np.repeat(np.arange(4), 11))
    assert hub is not None
    assert hub["same_album"] == 1.0
    assert hub["same_album_chance"] == pytest.approx(10 / 43)


# --- intervals -------------------------------------------------------------------------------


def test_an_interval_by_hand() -> None:
    values = np.array([1.0, 1, 0, 0, 1, 0])
    # one group: nothing to draw from but itself
    one = interval(PerItemScores(values, np.zeros(6, int)), 200)
    assert (one["value"], one["low"], one["high"], one["n"]) == (0.5, 0.5, 0.5, 6)
    # two groups, one right and one wrong: 0, 1/2 or 1
    two = interval(PerItemScores(np.repeat([1.0, 0.0], 3), np.repeat([0, 1], 3)), 200)
    assert (two["value"], two["low"], two["high"]) == (0.5, 0.0, 1.0)
    # the more groups agree, the narrower
    many = interval(PerItemScores(np.tile([1.0, 0.0], 100), np.arange(200)), 500)
    assert 0.40 < many["low"] < 0.5 < many["high"] < 0.60


def test_the_interval_is_over_groups_and_seeded() -> None:
    values, groups = np.repeat([1.0, 0.0], 100), np.repeat(np.arange(10), 20)
    score = interval(PerItemScores(values, groups), 500)
    assert score["value"] == 0.5
    assert score["high"] - score["low"] > 0.4  # ten groups, not two hundred items
    assert score == interval(PerItemScores(values, groups), 500)


def test_a_paired_difference_finds_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 10)
    difficulty = rng.random(20)[groups]  # albums differ far more than the two models do
    theirs = (rng.random(200) < difficulty).astype(float)
    ours = theirs.copy()
    ours[::10] = 1.0  # a little better on every album
    paired = difference(PerItemScores(ours, groups), PerItemScores(theirs, groups), 500)
    assert paired["low"] > 0 and paired["value"] == pytest.approx((ours - theirs).mean())
    one, other = (interval(PerItemScores(v, groups), 500) for v in (ours, theirs))
    assert one["low"] < other["high"]
    with pytest.raises(ValueError, match="cannot be paired"):
        difference(PerItemScores(ours, groups), PerItemScores(theirs[:100], groups[:100]), 10)


def test_standardised_vectors_do_not_depend_on_units() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 2, 5))
    scaled = vectors * rng.uniform(0.01, 100, 5) + rng.standard_normal(5)
    assert np.allclose(standardised(vectors), standardised(scaled))
    assert np.allclose(np.linalg.norm(standardised(vectors), axis=2), 1)
    constant = np.concatenate([vectors, np.full((6, 2, 1), 3.0)], axis=2)
    assert np.allclose(standardised(constant)[..., :5], standardised(vectors))
