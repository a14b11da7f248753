from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

_TrackFields: TypeAlias = tuple[
    Path,  # path
    int | None,  # track of a cue sheet
    float | None,  # start_s
    float | None,  # end_s
    str | None,  # title
    str | None,  # artist
    float | None,  # distance
    float | None,  # step
]
_Analysis: TypeAlias = tuple[npt.NDArray[np.float32], float, bool, str | None]

MAX_DISTANCE: float
__version__: str
__all__ = [
    "MAX_DISTANCE",
    "AudioError",
    "Error",
    "Index",
    "Model",
    "ModelError",
    "__version__",
    "audio_files",
    "is_audio_name",
    "main",
    "nearest",
]

class Error(Exception):
    """What was given, what was expected, and for which file: the line that the command prints."""

class AudioError(Error):
    """The audio is at fault: it cannot be decoded, is empty, or has samples that are not finite."""

class ModelError(Error):
    """The model is at fault: it is not an ONNX file, or not a feelprint model."""

@final
class Model:
    def __new__(cls, path: str | None, whole: bool) -> Model: ...
    @property
    def version(self) -> str: ...
    def analyse(self, path: str) -> _Analysis: ...
    def analyse_bytes(self, content: bytes) -> _Analysis: ...
    def analyse_many(self, paths: list[str], threads: int) -> list[_Analysis | Exception]: ...
    def embed_samples(
        self, samples: npt.NDArray[np.float32], rate: int
    ) -> npt.NDArray[np.float32]: ...

@final
class Index:
    def __new__(cls, path: str | None, model: Model) -> Index: ...
    @property
    def path(self) -> Path: ...
    def update(
        self,
        folders: list[str],
        exclude: list[str],
        force: bool,
        dry_run: bool,
        threads: int,
        progress: Callable[[int, int], object] | None,
    ) -> tuple[dict[str, int], list[Path], list[str]]: ...
    def similar(
        self, songs: list[str], n: int, exclude_songs: list[str], exclude_artists: list[str]
    ) -> tuple[list[_TrackFields], list[str]]: ...
    def playlist(
        self,
        songs: list[str],
        n: int,
        max_per_album: int | None,
        max_per_artist: int | None,
        exclude_songs: list[str],
        exclude_artists: list[str],
    ) -> tuple[list[_TrackFields], list[str]]: ...
    def duplicates(
        self, within: float
    ) -> tuple[list[tuple[bool, list[_TrackFields]]], list[str]]: ...
    def map(self, out: str, folders: list[str], relative: bool) -> tuple[int, list[str]]: ...
    def tracks(self) -> tuple[list[_TrackFields], npt.NDArray[np.float32], list[str]]: ...
    def paths(self) -> list[Path]: ...
    def forget(self, paths: list[str], dry_run: bool) -> int: ...

def audio_files(folder: str) -> tuple[list[Path], list[str]]: ...
def is_audio_name(name: str) -> bool: ...
def main(arguments: list[str]) -> int: ...
def nearest(
    embeddings: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], n: int, threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]: ...
