"""The teachers' space, reduced to what the student learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PCA_DIM = 256  # principal components that the within-track scatter is measured in
WCCN_EXPONENT = 0.75  # 0: the geometry as it is; 1: within-track scatter is made even
# of the mean within-track scatter; without, what hardly moves within tracks would come first
RIDGE = 2.0
METRIC_WCCN_EXPONENT = 0.5  # as WCCN_EXPONENT, of the student's own directions
ALBUM = 3  # tracks; fewer tell how each of them sounds, and little of what they have in common
ROUNDING = 1e-6  # of vectors of unit length; what differs by less is alike


@dataclass(frozen=True)
class TeacherSpace:
    """From the mean of a clip's teacher embeddings to coordinates that the student learns.

    `mean` and `scale` (dim,) standardise; the result is brought to unit length; `components`
    (dim, k) are axes that tell tracks apart, most eligible_albums first, not whitened: whitening would
    make the axes that tell little as loud as those that tell much. See `fit_space`.
    """

    mean: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    components: np.ndarray

    def normalise(self, clips: np.ndarray) -> np.ndarray:
        """(n, dim) -> (n, dim), standardised and of unit length."""
        x = (clips.astype(np.float32) - self.mean) / self.scale
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    def __call__(self, clips: np.ndarray, k: int | None = None) -> np.ndarray:
        """(n, dim) -> (n, k), unit length."""
        y = (self.normalise(clips) - self.centre) @ self.components[:, :k]
        return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-9)

    def save(self, path: Path) -> None:
        """Write the arrays to ``path`` as safetensors."""
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(self).items()}
        save_file(arrays, path)

    @staticmethod
    def load(path: Path) -> TeacherSpace:
        """Read what `save` wrote."""
        return TeacherSpace(**load_file(path))


class SpaceError(ValueError):
    """Embeddings that no space can be fitted on."""


def fit_space(
    clips: np.ndarray,
    tracks: np.ndarray,
    k: int,
    dims: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> TeacherSpace:
    """Fit on training clips (n, dim) of the teachers, and the number of each one's track (n,).

    ``dims`` are the teachers' dimensions, side by side in ``clips`` (none given: one teacher).
    Every teacher counts by its weight (none given: as much as another), whatever its scale and
    its size.

    Principal components would keep what moves most, be it between tracks or within one. What
    differs between the clips of one track says little of how the track feels, so these directions
    are shrunk first: by the within-track covariance to the power ``-WCCN_EXPONENT / 2``, in the manner of
    within-class covariance normalisation (A. Hatch et al., 2006), but not all the way: fully
    whitened, small directions drown the teacher's geometry. Then the axes are chosen that have
    the most scatter for their scatter within tracks (R. Fisher's discriminants, 1936, with a
    ridge); the geometry along them is left as it is.

    Raises SpaceError where a teacher never changes, or there are too few clips or dimensions.
    """
    clips = clips.astype(np.float32)
    dims = dims or [clips.shape[1]]
    weights = weights or [1.0] * len(dims)
    mean = clips.mean(axis=0)
    scales = [unit(part.std(axis=0)) for part in np.split(clips, np.cumsum(dims)[:-1], axis=1)]
    living = [int(np.isfinite(scale).sum()) for scale in scales]
    # the squared length of a clip is shared by the teachers; one alone is left as it is
    shares = [sum(living) * weight / sum(weights) for weight in weights]
    parts = zip(scales, shares, living, strict=True)
    scale = np.concatenate([scale / np.sqrt(share / n) for scale, share, n in parts])
    whole = TeacherSpace(mean, scale.astype(np.float32), np.zeros_like(mean), np.eye(0))
    x = whole.normalise(clips)
    centre = x.mean(axis=0)
    rough = _principal(x - centre, min(PCA_DIM, len(x) - 1, x.shape[1]))
    y = (x - centre) @ rough
    means, number = _means(y, tracks)
    counts = np.bincount(number)
    # a long track counts as the root of its clips, as it does in training
    within = _scatter((y - means[number]) / np.sqrt(counts[number])[:, None])
    shrunk = _power(within, 1.0, -WCCN_EXPONENT / 2)
    y = y @ shrunk
    axes = discriminants(y - y.mean(axis=0), shrunk @ within @ shrunk, min(k, y.shape[1]))
    components = rough @ shrunk @ axes
    if components.shape[1] < k:
        raise SpaceError(
            f"{len(clips)} clips of {clips.shape[1]} dimensions are too few for {k} components; "
            "lower distill.components (and student.embedding_dim)"
        )
    return TeacherSpace(mean, scale.astype(np.float32), centre, components.astype(np.float32))


def unit(deviation: np.ndarray) -> np.ndarray:
    """What to divide one teacher's dimensions by, (dim,), to have them of one size."""
    if not np.any(deviation > 0):
        raise SpaceError("a teacher says the same of every clip; is the corpus one clip?")
    # a feature that never moves carries nothing; dividing by its rounding noise would
    usual = np.sqrt(np.square(deviation).mean())  # a median would be noise where most never move
    return np.where(deviation > 1e-3 * usual, deviation, np.inf)


def fit_metric_transform(directions: np.ndarray, albums: np.ndarray, weight: float) -> np.ndarray:
    """How to stretch directions so that the axes on which soundtracks lie apart count for more.

    ``directions`` (tracks, clips, d) are those of clips, ``albums`` (tracks,) what each track is
    of. Returned is the (d, d) to multiply them by. What differs between the clips of a track is
    shrunk, as in `fit_space`. Then the principal axes of the albums' means are taken, the one along
    which they are farthest apart first; albums of fewer than ALBUM tracks have no say, the others
    count alike. In a squared distance an axis counts ``1 + weight v``, v being its variance over
    the mean variance of all; and all are scaled so that the tracks' mean squared length stays what
    it was.

    Multiplying after a vector was brought to unit length is not the same as before: a song that
    has little on the axes that matter comes to lie near the middle, and not far out on the others.

    Raises SpaceError as `eligible_albums`.
    """
    tracks = directions.mean(axis=1)
    within = _scatter((directions - tracks[:, None]).reshape(-1, tracks.shape[1]))
    shrunk = _power(within, 1.0, -METRIC_WCCN_EXPONENT / 2)
    means = _means(tracks @ shrunk, albums)[0][eligible_albums(albums)]
    centred = means - means.mean(axis=0)
    if np.abs(centred).max() < ROUNDING:  # all alike: no axis matters more
        return np.eye(tracks.shape[1], dtype=np.float32)
    axes = _principal(centred, tracks.shape[1])
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])  # of two signs
    variances = np.square(centred @ axes).mean(axis=0)
    stretch = shrunk @ axes * np.sqrt(1 + weight * variances / variances.mean())
    kept = np.square(tracks).sum() / np.square(tracks @ stretch).sum()
    return (stretch * np.sqrt(kept)).astype(np.float32)


def eligible_albums(albums: Sequence[str] | np.ndarray) -> np.ndarray:
    """Which albums have ALBUM tracks or more, in the order of their names; one name a track.

    Raises SpaceError where fewer than two have: there is then nothing to stretch by.
    """
    found = np.unique(albums, return_counts=True)[1] >= ALBUM
    if found.sum() < 2:
        raise SpaceError(
            f"of the albums that are learned from, {found.sum()} have {ALBUM} tracks or more in "
            "the corpus that is evaluated on, and to stretch by them takes two; set "
            "finetune.metric_weight to 0"
        )
    return found


def _means(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each group's mean of the rows (n, dim): (groups, dim), and the number of each row's (n,)."""
    number = np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(number, column) for column in values.T], axis=1)
    return sums / np.bincount(number)[:, None], number


def _scatter(apart: np.ndarray) -> np.ndarray:
    """Of clips around their tracks (n, dim): (dim, dim). Even, where no track has two clips."""
    if np.abs(apart).max() < ROUNDING:
        return np.eye(apart.shape[1])
    return apart.T.astype(np.float64) @ apart / len(apart)


def _principal(centred: np.ndarray, k: int) -> np.ndarray:
    """The k principal axes of (n, dim), most important first: (dim, k)."""
    _, axes = np.linalg.eigh(np.cov(centred.T, dtype=np.float64))
    return np.ascontiguousarray(axes[:, ::-1][:, :k])


def _power(scatter: np.ndarray, ridge: float, power: float) -> np.ndarray:
    """``scatter`` (dim, dim), and a ridge of so many times its mean, to a power."""
    values, axes = np.linalg.eigh(scatter)
    return (axes * (values + ridge * values.mean()) ** power) @ axes.T


def discriminants(centred: np.ndarray, within: np.ndarray, k: int) -> np.ndarray:
    """The k axes of (n, dim) with the most scatter for that ``within`` tracks, orthonormal."""
    root = _power(within, RIDGE, -0.5)
    return np.linalg.qr(root @ _principal(centred @ root, k))[0]
