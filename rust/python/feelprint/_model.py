"""The model: files and samples to embeddings."""

from __future__ import annotations

import dataclasses
import operator
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from feelprint import _feelprint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

StrPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

DIM_EMBEDDING = 32


class DamageWarning(UserWarning):
    """A file is damaged, and its embedding is that of the audio that could be decoded."""


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """An audio file that was decoded and embedded."""

    embedding: npt.NDArray[np.float32]
    """(32,) float32, of a Euclidean norm of about 1, but not exactly 1."""
    duration_s: float
    """The duration of the decoded audio, in seconds."""
    silent: bool
    """Whether every frame is silent. All silent tracks have the same embedding."""
    damage: str | None
    """The first damage of the file, if there is any. The embedding is that of the audio that could
    be decoded."""


class Model:
    """A loaded model. Threads can share one; a pickled one is loaded again.

    Args:
        path: An ONNX file, or a folder that holds `feelprint.onnx`; without one, the released
            model.
        whole: Whether every window of a track is used, which takes about three times as long. Such
            embeddings are of a version of their own, which ends with `+whole`, and can be compared
            with each other only.

    Raises:
        ModelError: The file is not a feelprint model.
        OSError: It cannot be read.
    """

    def __init__(self, path: StrPath | None = None, whole: bool = False) -> None:
        self._path = None if path is None else os.fsdecode(path)
        self._whole = whole
        self._model = _feelprint.Model(self._path, whole)

    @property
    def version(self) -> str:
        """The version in the model file's metadata and a digest of the file.

        Embeddings of two versions cannot be compared: store it with them.
        """
        return self._model.version

    def embed(self, path: StrPath) -> npt.NDArray[np.float32]:
        """The embedding of an audio file of any length.

        Returns:
            (32,) float32. Near tracks have a small Euclidean distance; the norm is about 1, but not
            exactly 1.

        Raises:
            AudioError: The file has no audio that can be decoded, or more than 24 hours of it.
            OSError: It cannot be read.

        Warns:
            DamageWarning: The file is damaged.
        """
        track = self.analyse(path)
        _warn_of_damage(path, track)
        return track.embedding

    def embed_many(
        self, paths: Iterable[StrPath], threads: int | None = None
    ) -> list[npt.NDArray[np.float32] | Exception]:
        """The embeddings of audio files, in the order of `paths`.

        Other Python threads run meanwhile, and Ctrl-C stops the work within a second.

        Args:
            paths: Audio files.
            threads: How many threads analyse files; without it, one per processor.

        Returns:
            For each file its embedding, (32,) float32, or the exception that `embed` raises.

        Raises:
            TypeError: `paths` is a single path.
            ValueError: `threads` is less than 1.

        Warns:
            DamageWarning: A file is damaged.
        """
        paths = _several(paths)
        results: list[npt.NDArray[np.float32] | Exception] = []
        for path, track in zip(paths, self.analyse_many(paths, threads), strict=True):
            if isinstance(track, Exception):
                results.append(track)
            else:
                _warn_of_damage(path, track)
                results.append(track.embedding)
        return results

    def embed_samples(self, samples: npt.ArrayLike, rate: int) -> npt.NDArray[np.float32]:
        """The embedding of decoded audio: that of a WAV file with these samples.

        Args:
            samples: (samples,) or (samples, channels), floating point, nominally from -1 to 1.
                Channels are averaged; where they cancel, one of them counts.
            rate: The sample rate in Hz, from 1,000 to 768,000.

        Returns:
            (32,) float32, as `embed`.

        Raises:
            AudioError: There is no sample, or one is not finite or too large, or the rate is out of
                its range.
            TypeError: The samples are not floating point.
            ValueError: They have another shape.
        """
        import numpy as np

        array = np.asarray(samples)
        if array.dtype.kind != "f":
            raise TypeError(
                f"samples of type {array.dtype}, expected floating point from -1 to 1: divide "
                "integers by their full scale"
            )
        if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= 64):
            raise ValueError(
                f"samples of shape {array.shape}, expected (samples,) or (samples, channels) with "
                "1 to 64 channels"
            )
        if array.ndim == 1:
            array = array[:, None]
        rate = operator.index(rate)
        if not 0 < rate < 2**31:
            raise _feelprint.AudioError(f"a sample rate of {rate} Hz; expected 1000 to 768000 Hz")
        return self._model.embed_samples(array.astype(np.float32, copy=False), rate)

    def analyse(self, path: StrPath) -> Track:
        """The embedding of an audio file, with its duration and damage.

        Raises:
            AudioError: The file has no audio that can be decoded, or more than 24 hours of it.
            OSError: It cannot be read.
        """
        return Track(*self._model.analyse(os.fsdecode(path)))

    def analyse_bytes(self, content: bytes) -> Track:
        """As `analyse`, of the content of an audio file, such as an object of a cloud storage.

        Raises:
            AudioError: As `analyse`.
        """
        return Track(*self._model.analyse_bytes(content))

    def analyse_many(
        self, paths: Iterable[StrPath], threads: int | None = None
    ) -> list[Track | Exception]:
        """As `embed_many`, with the duration and the damage of each file.

        Returns:
            For each file a `Track`, or the exception that `analyse` raises.

        Raises:
            TypeError: `paths` is a single path.
            ValueError: `threads` is less than 1.
        """
        names = [os.fsdecode(path) for path in _several(paths)]
        results = self._model.analyse_many(names, thread_count(threads))
        return [it if isinstance(it, Exception) else Track(*it) for it in results]

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self._path, self._whole)

    def __repr__(self) -> str:
        return f"<feelprint.Model {self.version}>"


def thread_count(threads: int | None) -> int:
    """`threads`, or 0 for one per processor.

    Raises:
        ValueError: It is less than 1.
    """
    if threads is None:
        return 0
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    return threads


def _several(paths: Iterable[StrPath]) -> list[StrPath]:
    """The paths as a list; a single one would be taken for its letters."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError(f"one path, {os.fsdecode(paths)}, expected a list of paths")
    return list(paths)


def _warn_of_damage(path: StrPath, track: Track) -> None:
    if track.damage is not None:
        warnings.warn(f"{os.fsdecode(path)}: {track.damage}", DamageWarning, stacklevel=4)
