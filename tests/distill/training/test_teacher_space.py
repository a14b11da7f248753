"""The teachers' space: which axes it keeps, and that every teacher has its share."""

from pathlib import Path

import numpy as np
import pytest

from distill.training.teacher_space import (
    METRIC_WCCN_EXPONENT,
    SpaceError,
    TeacherSpace,
    discriminants,
    fit_metric_transform,
    fit_space,
)


def clips(
    tracks: int = 60, per_track: int = 4, dim: int = 20, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Clips whose first 5 dimensions depend on the track and whose others differ between clips."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tracks * per_track, dim))
    number = np.repeat(np.arange(tracks), per_track)
    x[:, :5] = rng.standard_normal((tracks, 5))[number]
    return (3 + x * rng.uniform(0.1, 10, dim)).astype(np.float32), number


def test_vectors_have_unit_length_and_fewer_components_are_the_first_ones() -> None:
    x, tracks = clips()
    space = fit_space(x, tracks, 12)
    made = space(x)
    assert made.shape == (len(x), 12)
    assert np.abs(np.linalg.norm(made, axis=1) - 1).max() < 1e-5
    few = made[:, :4] / np.linalg.norm(made[:, :4], axis=1, keepdims=True)
    assert np.abs(space(x, 4) - few).max() < 1e-5


def test_the_scale_of_a_dimension_has_no_effect() -> None:
    x, tracks = clips()
    scaled = x * np.random.default_rng(1).uniform(0.01, 100, x.shape[1]).astype(np.float32)
    plain, other = fit_space(x, tracks, 8)(x), fit_space(scaled, tracks, 8)(scaled)
    assert np.abs(plain @ plain.T - other @ other.T).max() < 1e-3


def test_dimensions_of_the_track_come_before_those_of_the_clip() -> None:
    x, tracks = clips()
    made = fit_space(x, tracks, 5)(x)
    same = made.reshape(60, 4, 5)
    within = np.einsum("tad,tbd->tab", same, same).mean()
    assert within > 0.8  # five components hold the five dimensions that differ between tracks
    shuffled = fit_space(x, np.random.default_rng(0).permutation(tracks), 5)(x).reshape(60, 4, 5)
    assert within > np.einsum("tad,tbd->tab", shuffled, shuffled).mean() + 0.1


def test_axes_that_differ_between_tracks_come_before_those_that_differ_within() -> None:
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    x = (rng.standard_normal((4000, 3)) * [3.0, 2.9, 0.1]) @ turned.T
    # the first axis has most variance, within tracks; the second between tracks; the third little
    within = turned @ np.diag([8.5, 0.2, 0.0]) @ turned.T
    axes = discriminants(x - x.mean(axis=0), within, 2)
    assert np.abs(axes.T @ axes - np.eye(2)).max() < 1e-6
    assert abs(axes[:, 0] @ turned[:, 1]) > 0.99
    assert abs(axes[:, 1] @ turned[:, 0]) > 0.99  # the ridge excludes the third


def test_a_dimension_that_never_varies_is_ignored() -> None:
    x, tracks = clips()
    x[:, 3] = 7
    x[:, 4] = 1e-9 * np.random.default_rng(0).standard_normal(len(x))
    space = fit_space(x, tracks, 8)
    before = space(x)
    x[:, 3], x[:, 4] = 9, 5
    assert np.isfinite(before).all()
    assert np.array_equal(space(x), before)


def test_tracks_of_one_clip_can_be_fitted_to() -> None:
    x, _ = clips()
    made = fit_space(x, np.arange(len(x)), 8)(x)
    assert np.isfinite(made).all()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    x, tracks = clips()
    space = fit_space(x, tracks, 8)
    space.save(tmp_path / "space")
    assert np.array_equal(TeacherSpace.load(tmp_path / "space")(x), space(x))


def test_too_little_to_fit_is_an_error() -> None:
    x, tracks = clips()
    with pytest.raises(SpaceError, match="240 clips of 20 dimensions are too few for 21 comp"):
        fit_space(x, tracks, 21)
    with pytest.raises(SpaceError, match="6 clips of 20 dimensions are too few for 8 components"):
        fit_space(x[:6], tracks[:6], 8)
    with pytest.raises(SpaceError, match="the same embedding for every clip"):
        fit_space(np.ones((9, 4), np.float32), np.arange(9), 2)


# --- several teachers ----------------------------------------------------------------------


def test_one_teacher_named_is_one_teacher() -> None:
    x, tracks = clips()
    plain, named = fit_space(x, tracks, 8), fit_space(x, tracks, 8, [20])
    for name, array in vars(plain).items():
        assert np.array_equal(array, getattr(named, name)), name


def test_teachers_have_equal_shares_whatever_their_dimension_and_scale() -> None:
    (large, tracks), (small, _) = clips(dim=120, seed=1), clips(dim=12, seed=2)
    large[:, 7] = 0  # constant: 119 active dimensions
    both = np.concatenate([large, 1e-4 * small], axis=1)
    space = fit_space(both, tracks, 16, [120, 12])
    x = (both - space.mean) / space.scale
    share = np.square(x[:, :120]).sum() / np.square(x).sum()
    assert share == pytest.approx(0.5, abs=1e-3)
    # without the dimensions, the larger one has nine tenths
    alone = fit_space(np.concatenate([large, small], axis=1), tracks, 16)
    x = (np.concatenate([large, small], axis=1) - alone.mean) / alone.scale
    assert np.square(x[:, :120]).sum() / np.square(x).sum() == pytest.approx(119 / 131, abs=1e-3)


@pytest.mark.parametrize("weights", [[1.0, 0.25], [4.0, 1.0]])
def test_a_teachers_share_is_its_weight(weights: list[float]) -> None:
    (large, tracks), (small, _) = clips(dim=40, seed=1), clips(dim=12, seed=2)
    both = np.concatenate([large, small], axis=1)
    space = fit_space(both, tracks, 16, [40, 12], weights)
    x = (both - space.mean) / space.scale
    assert np.square(x[:, :40]).sum() / np.square(x).sum() == pytest.approx(0.8, abs=1e-3)


def test_rounding_noise_is_ignored_though_most_of_a_teacher_never_varies() -> None:
    x, tracks = clips(dim=20)
    noise = np.random.default_rng(1).standard_normal((len(x), 60)) * 1e-11
    space = fit_space(np.concatenate([x, noise], axis=1), tracks, 8)
    assert np.isfinite(space.scale).tolist() == [True] * 20 + [False] * 60


def embeddings(
    between: list[float], within: list[float], albums: np.ndarray, clips: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Clips of tracks of ``albums``, (tracks, clips, 4), and the axes (4, 4) they are rotated to.

    ``between`` and ``within`` are standard deviations along each axis: of the albums, and of the
    clips of a track.
    """
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    of_album = rng.standard_normal((albums.max() + 1, 4))[albums] * between
    x = of_album[:, None] + rng.standard_normal((len(albums), clips, 4)) * within
    return x @ turned.T, turned


def squares(transform: np.ndarray, axis: np.ndarray) -> float:
    """Weight of ``axis`` in a squared distance, relative to the sum over all axes."""
    return float(np.square(axis @ transform).sum() / np.square(transform).sum())


def test_the_metric_gives_axes_that_differ_between_albums_more_weight() -> None:
    albums = np.repeat(np.arange(300), 3)
    x, turned = embeddings([3.0, 1.0, 0.0, 0.0], [1.0] * 4, albums)
    transform = fit_metric_transform(x, albums, 2.0)
    lengths = np.linalg.norm(transform, axis=0)
    assert abs(transform[:, 0] @ turned[:, 0]) > 0.97 * lengths[0] and (np.diff(lengths) < 0).all()
    axes = transform / lengths
    assert (
        np.abs(axes.T @ axes - np.eye(4)).max() < 0.05
    )  # equal within-track variances, but for sampling
    counts = [squares(transform, axis) for axis in turned.T]
    # clips have the same variance along all axes, so that only the albums' variances matter
    variances = np.array([9.0, 1.0, 0.0, 0.0]) + 1 / 18
    expected = 1 + 2 * variances / variances.mean()
    assert np.allclose(counts, expected / expected.sum(), atol=0.02)


def test_the_metric_gives_axes_that_differ_within_tracks_less_weight() -> None:
    albums = np.repeat(np.arange(300), 3)
    x, turned = embeddings([1.0] * 4, [0.5, 0.5, 0.5, 4.0], albums, clips=40)
    counts = [squares(fit_metric_transform(x, albums, 0.0), axis) for axis in turned.T]
    variances = np.array([0.25, 0.25, 0.25, 16.0])
    expected = (variances + variances.mean()) ** -METRIC_WCCN_EXPONENT
    assert np.allclose(counts, expected / expected.sum(), atol=0.01)


def test_albums_of_three_tracks_have_equal_weights_and_smaller_ones_none() -> None:
    # fifty tracks per album differ along one axis, three along another, pairs along a third
    albums = np.repeat(np.arange(7), [50, 50, 3, 3, 2, 2, 2])
    x = np.zeros((len(albums), 3, 4))
    for album, (axis, value) in enumerate(
        [(0, 1), (0, -1), (1, 1), (1, -1), (2, 9), (2, 0), (2, -9)]
    ):
        x[albums == album, :, axis] = value
    counts = [squares(fit_metric_transform(x, albums, 1.0), axis) for axis in np.eye(4)]
    expected = 1 + np.array([2.0, 2.0, 0.0, 0.0])
    assert np.allclose(counts, expected / expected.sum(), atol=1e-5)


def test_the_metric_keeps_the_tracks_mean_squared_length() -> None:
    albums = np.repeat(np.arange(300), 3)
    x, _ = embeddings([3.0, 1.0, 0.5, 0.2], [1.0, 0.5, 2.0, 0.1], albums)
    tracks = x.mean(axis=1)
    transformed = tracks @ fit_metric_transform(x, albums, 0.7)
    assert np.isclose(np.square(transformed).sum(), np.square(tracks).sum(), rtol=1e-5)


def test_the_metric_of_tracks_of_one_clip_depends_on_the_albums_alone() -> None:
    albums = np.repeat(np.arange(300), 3)
    x, _ = embeddings([3.0, 1.0, 0.5, 0.2], [1.0] * 4, albums)
    rotation = fit_metric_transform(x[:, :1], albums, 0.0)
    assert np.abs(rotation.T @ rotation - np.eye(4)).max() < 1e-5


def test_the_metric_of_equal_albums_is_the_identity() -> None:
    assert np.array_equal(
        fit_metric_transform(np.ones((9, 2, 4)), np.repeat([0, 1, 2], 3), 0.5), np.eye(4)
    )


def test_the_metric_needs_two_albums_of_three_tracks() -> None:
    albums = np.array([0, 0, 0, 1, 1, 2])
    x, _ = embeddings([1.0] * 4, [1.0] * 4, albums)
    with pytest.raises(SpaceError, match="1 have 3 tracks or more"):
        fit_metric_transform(x, albums, 0.5)
