"""The teachers' space, reduced to the coordinates that the student learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from datasets_scripts.files import atomic_path

PCA_DIM = 256  # principal components in which the within-track covariance is estimated
WCCN_EXPONENT = 0.75  # 0: the geometry is unchanged; 1: the within-track covariance is whitened
# times the mean within-track variance, added to the within-track variance of every axis; without
# it the discriminants would be axes of almost no variance, within tracks or in total
RIDGE = 2.0
METRIC_WCCN_EXPONENT = 0.5  # as WCCN_EXPONENT, for the student's unit embeddings
# the mean of fewer tracks depends more on the tracks than on what they have in common
MIN_TRACKS_PER_ALBUM = 3
ROUNDING = 1e-6  # smaller differences between unit vectors are rounding errors


@dataclass(frozen=True)
class TeacherSpace:
    """From the mean of a clip's teacher embeddings (dim,) to coordinates of the student (k,).

    `mean` and `scale` (dim,) standardise; the result is scaled to unit length; `centre` (dim,) is
    subtracted; `components` (dim, k) are axes along which tracks differ, the most discriminative
    first. They are not whitened, which would give every axis the same weight. See `fit_space`.
    """

    mean: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    components: np.ndarray

    def normalise(self, clips: np.ndarray) -> np.ndarray:
        """Clips (n, dim) -> (n, dim), standardised and of unit length."""
        x = (clips.astype(np.float32) - self.mean) / self.scale
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    def __call__(self, clips: np.ndarray, k: int | None = None) -> np.ndarray:
        """Clips (n, dim) -> the first ``k`` coordinates (n, k), of unit length."""
        y = (self.normalise(clips) - self.centre) @ self.components[:, :k]
        return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-9)

    def save(self, path: Path) -> None:
        """Write the arrays to ``path`` as safetensors, completely or not at all."""
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(self).items()}
        with atomic_path(path) as part:
            save_file(arrays, part)

    @staticmethod
    def load(path: Path) -> TeacherSpace:
        """Read what `save` wrote."""
        return TeacherSpace(**load_file(path))


class SpaceError(ValueError):
    """Embeddings to which no space or metric can be fitted."""


def fit_space(
    clips: np.ndarray,
    tracks: np.ndarray,
    k: int,
    dims: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> TeacherSpace:
    """Fit to training clips (n, dim) of the teachers, and the number of each one's track (n,).

    ``dims`` are the dimensions of the teachers that are concatenated in ``clips`` (default: one
    teacher). A teacher's share of the squared length of a clip is proportional to its entry in
    ``weights`` (default: equal shares), whatever its scale and dimension.

    Principal components would keep the largest variance, between tracks or within them. The
    differences between clips of one track say little about the track, so they are shrunk first, by
    the within-track covariance to the power ``-WCCN_EXPONENT / 2``. This is within-class covariance
    normalisation (A. Hatch et al., 2006), but partial: full whitening would amplify axes of little
    variance over the teacher's geometry. Then the axes with the largest ratio of total to
    within-track variance are chosen (R. Fisher's discriminants, 1936, with a ridge); distances
    along them are left unchanged.

    Raises SpaceError where a teacher never changes, or there are too few clips or dimensions.
    """
    clips = clips.astype(np.float32)
    dims = dims or [clips.shape[1]]
    weights = weights or [1.0] * len(dims)
    mean = clips.mean(axis=0)
    scales = [safe_std(part.std(axis=0)) for part in np.split(clips, np.cumsum(dims)[:-1], axis=1)]
    active = [int(np.isfinite(scale).sum()) for scale in scales]
    # the teachers share the squared length of a clip; a single one keeps its scale
    shares = [sum(active) * weight / sum(weights) for weight in weights]
    parts = zip(scales, shares, active, strict=True)
    scale = np.concatenate([scale / np.sqrt(share / n) for scale, share, n in parts])
    standardising = TeacherSpace(mean, scale.astype(np.float32), np.zeros_like(mean), np.eye(0))
    x = standardising.normalise(clips)
    centre = x.mean(axis=0)
    pca = _principal(x - centre, min(PCA_DIM, len(x) - 1, x.shape[1]))
    y = (x - centre) @ pca
    means, number = _means(y, tracks)
    counts = np.bincount(number)
    # a track of n clips is weighted by the root of n, as in training
    within = _covariance((y - means[number]) / np.sqrt(counts[number])[:, None])
    shrinkage = _power(within, 1.0, -WCCN_EXPONENT / 2)
    y = y @ shrinkage
    axes = discriminants(y - y.mean(axis=0), shrinkage @ within @ shrinkage, min(k, y.shape[1]))
    components = pca @ shrinkage @ axes
    if components.shape[1] < k:
        raise SpaceError(
            f"{len(clips)} clips of {clips.shape[1]} dimensions are too few for {k} components; "
            "lower distill.components (and student.embedding_dim)"
        )
    return TeacherSpace(mean, scale.astype(np.float32), centre, components.astype(np.float32))


def safe_std(deviation: np.ndarray) -> np.ndarray:
    """Standard deviations (dim,) to divide by, infinite where a dimension never varies.

    A dimension below a thousandth of the root mean square of all varies by rounding errors alone;
    the quotient is then 0. Raises SpaceError where no dimension varies.
    """
    if not np.any(deviation > 0):
        raise SpaceError(
            "a teacher gives the same embedding for every clip; expected a corpus of several tracks"
        )
    rms = np.sqrt(np.square(deviation).mean())  # a median would be noise where most never vary
    return np.where(deviation > 1e-3 * rms, deviation, np.inf)


def fit_metric_transform(embeddings: np.ndarray, albums: np.ndarray, weight: float) -> np.ndarray:
    """Fit a linear metric (d, d), by which unit embeddings are multiplied from the right.

    ``embeddings`` (tracks, clips, d) are the unit embeddings of clips, ``albums`` (tracks,) names
    the album of each track. The within-track covariance is shrunk, as in `fit_space`. Then the
    principal axes of the albums' means, the largest variance first, are scaled by
    ``sqrt(1 + weight * v)``, v being an axis's variance divided by the mean variance. Albums of
    fewer than MIN_TRACKS_PER_ALBUM tracks are ignored, the others have equal weights. Finally all
    axes are scaled so that the tracks' mean squared length is unchanged.

    The result is not normalised again: a track with small coordinates on the discriminative axes
    then lies near the origin, instead of far out on the other axes.

    Raises SpaceError as `eligible_albums`.
    """
    tracks = embeddings.mean(axis=1)
    within = _covariance((embeddings - tracks[:, None]).reshape(-1, tracks.shape[1]))
    shrinkage = _power(within, 1.0, -METRIC_WCCN_EXPONENT / 2)
    means = _means(tracks @ shrinkage, albums)[0][eligible_albums(albums)]
    centred = means - means.mean(axis=0)
    if np.abs(centred).max() < ROUNDING:  # the albums' means are equal
        return np.eye(tracks.shape[1], dtype=np.float32)
    axes = _principal(centred, tracks.shape[1])
    # an axis has two signs: its largest coordinate is made positive
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    variances = np.square(centred @ axes).mean(axis=0)
    transform = shrinkage @ axes * np.sqrt(1 + weight * variances / variances.mean())
    kept = np.square(tracks).sum() / np.square(tracks @ transform).sum()
    return (transform * np.sqrt(kept)).astype(np.float32)


def eligible_albums(albums: Sequence[str] | np.ndarray) -> np.ndarray:
    """Which albums have MIN_TRACKS_PER_ALBUM tracks or more; ``albums`` has one name per track.

    Returns one boolean per album, in the order of their sorted names. Raises SpaceError where fewer
    than two albums are eligible.
    """
    eligible = np.unique(albums, return_counts=True)[1] >= MIN_TRACKS_PER_ALBUM
    if eligible.sum() < 2:
        raise SpaceError(
            f"of the training albums, {eligible.sum()} have {MIN_TRACKS_PER_ALBUM} tracks or more "
            "in the corpus that is evaluated on; a metric is fitted to at least two such albums: "
            "set finetune.metric_weight to 0, or add tracks"
        )
    return eligible


def _means(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each group's mean of the rows (n, dim): (groups, dim), and the group number of each row."""
    number = np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(number, column) for column in values.T], axis=1)
    return sums / np.bincount(number)[:, None], number


def _covariance(residuals: np.ndarray) -> np.ndarray:
    """Covariance (dim, dim) of the residuals (n, dim) of clips from the mean of their track.

    The identity where all residuals are zero: then no track has two different clips, and nothing is
    shrunk.
    """
    if np.abs(residuals).max() < ROUNDING:
        return np.eye(residuals.shape[1])
    return residuals.T.astype(np.float64) @ residuals / len(residuals)


def _principal(centred: np.ndarray, k: int) -> np.ndarray:
    """The k principal axes of (n, dim), the largest variance first: (dim, k)."""
    _, axes = np.linalg.eigh(np.cov(centred.T, dtype=np.float64))
    return np.ascontiguousarray(axes[:, ::-1][:, :k])


def _power(covariance: np.ndarray, ridge: float, power: float) -> np.ndarray:
    """Power of a covariance (dim, dim), to which ``ridge`` times its mean variance is added."""
    values, axes = np.linalg.eigh(covariance)
    return (axes * (values + ridge * values.mean()) ** power) @ axes.T


def discriminants(centred: np.ndarray, within: np.ndarray, k: int) -> np.ndarray:
    """The k orthonormal axes of (n, dim) with the largest ratio of total to ``within`` variance."""
    root = _power(within, RIDGE, -0.5)
    return np.linalg.qr(root @ _principal(centred @ root, k))[0]
