"""The index of a library: its tracks, found by their embeddings."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from feelprint import _feelprint
from feelprint._model import Model, StrPath, thread_count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class IndexWarning(UserWarning):
    """What the command would remark on standard error, such as tracks that are left out."""


@dataclasses.dataclass(frozen=True)
class IndexedTrack:
    """A track of the index, as a result."""

    path: Path
    """The canonical path of its file."""
    track: int | None
    """Its number in the cue sheet of the file; `None` if the file is one track."""
    start_s: float | None
    """Its start in the file in seconds, if it is a track of a cue sheet."""
    end_s: float | None
    """Its end in the file in seconds, if it is a track of a cue sheet."""
    title: str | None
    """From the tags or the cue sheet."""
    artist: str | None
    """From the tags or the cue sheet."""
    distance: float | None
    """The Euclidean distance to the nearest given song, or to the first track of a group of
    duplicates; `None` from `Index.tracks`."""
    step: float | None
    """In a playlist, the distance from the track before, or from the first given song."""


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Files that are the same recording."""

    identical: bool
    """Whether the files have the same content."""
    tracks: list[IndexedTrack]
    """The tracks, with their distances to the first."""


@dataclasses.dataclass(frozen=True)
class Update:
    """What an update did: numbers of tracks, and what was wrong."""

    unchanged: int
    analysed: int
    """With `dry_run`, the tracks that would be."""
    recognised: int
    """Known by their content, and not analysed again."""
    moved: int
    """Rows whose file was found under another path."""
    missing: int
    """Not found again; they stay in the index and are in no result."""
    excluded: int
    unreadable: int
    """Files and folders that could not be read; the next update tries again."""
    failed: int
    """Tracks without an embedding, which are counted above too."""
    damaged: int
    """Tracks of damaged files, which are counted above too."""
    problems: list[str]
    """One line for each file that failed or could not be read, and other remarks."""
    to_analyse: list[Path]
    """With `dry_run`, the files that would be analysed."""


class Index:
    """The index of a library, one SQLite file; the command `feelprint` uses the same one.

    Several processes may use one index: while one writes, others wait for up to a minute.

    Args:
        path: The file; without it, the command's: `feelprint/index.sqlite` in the user's data
            folder. `update` makes it if it is not there.
        model: The model; without it, the released one. Tracks that were embedded by another model
            are in no result.

    Raises of every method:
        Error: The file is not an index, or another process has been writing it for a minute.
        OSError: A file cannot be read.
    """

    def __init__(self, path: StrPath | None = None, model: Model | None = None) -> None:
        self.model = model if model is not None else _released_model()
        name = None if path is None else os.fsdecode(path)
        self._index = _feelprint.Index(name, self.model._model)

    @property
    def path(self) -> Path:
        """The file of the index."""
        return self._index.path

    @property
    def model_version(self) -> str:
        """The version of the model, see `Model.version`."""
        return self.model.version

    def update(
        self,
        folders: StrPath | Iterable[StrPath],
        *,
        exclude: Iterable[str] = (),
        force: bool = False,
        dry_run: bool = False,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Update:
        """Analyse what is new or changed under the folders, as `feelprint index` does.

        Ctrl-C stops it within a second. What is analysed by then is in the index, and the next
        update goes on from there.

        Args:
            folders: A folder or an audio file, or several.
            exclude: Globs of files and folders to leave out, as in `.gitignore`.
            force: Whether files are analysed again that have not changed.
            dry_run: Whether nothing is changed.
            threads: How many threads analyse files; without it, one per processor.
            progress: Called with the number of files that are analysed and that of all, up to 20
                times a second. An exception that it raises stops the update.

        Returns:
            What was done. A file that fails does not end the update: it is in `Update.problems`.

        Raises:
            Error: A folder is not there or has no audio file. The others have been updated.
            ValueError: `threads` is less than 1.
        """
        counts, to_analyse, notes = self._index.update(
            _paths(folders), list(exclude), force, dry_run, thread_count(threads), progress
        )
        moved = counts.pop("removed")
        return Update(**counts, moved=moved, problems=notes, to_analyse=to_analyse)

    def similar(
        self,
        songs: StrPath | Iterable[StrPath],
        n: int = 10,
        *,
        exclude_songs: Iterable[StrPath] = (),
        exclude_artists: Iterable[str] = (),
    ) -> list[IndexedTrack]:
        """The tracks of the index that are nearest to a song, as `feelprint similar` finds them.

        Args:
            songs: An audio file, in the index or not, or several: near is what is near to one of
                them. `album.flac#3` is the third track of the cue sheet of a file.
            n: How many tracks.
            exclude_songs: Files that are left out.
            exclude_artists: Names of artists whose tracks are left out.

        Returns:
            Up to `n` tracks, nearest first.

        Raises:
            AudioError: A song that is not in the index cannot be decoded.
            Error: There is no index, or no track in it that can be compared.
            ValueError: `n` is negative.

        Warns:
            IndexWarning: Tracks are left out since they are missing or of another model.
        """
        found, notes = self._index.similar(
            _paths(songs), _count("n", n), _paths(exclude_songs), list(exclude_artists)
        )
        _warn(notes)
        return [IndexedTrack(*fields) for fields in found]

    def playlist(
        self,
        songs: StrPath | Iterable[StrPath],
        n: int = 20,
        *,
        max_per_album: int | None = None,
        max_per_artist: int | None = None,
        exclude_songs: Iterable[StrPath] = (),
        exclude_artists: Iterable[str] = (),
    ) -> list[IndexedTrack]:
        """A playlist of tracks near a song, in an order with short steps, as `feelprint playlist`.

        The songs themselves are not in it. Each recording is in it once.

        Args:
            songs: An audio file, in the index or not, or several, which have equally many tracks
                near them; the playlist starts at the first.
            n: How many tracks.
            max_per_album: At most this many tracks of one album (by the tags; without one, by the
                folder).
            max_per_artist: At most this many tracks of one artist (by the tags; without one, no
                limit).
            exclude_songs: Files that are left out.
            exclude_artists: Names of artists whose tracks are left out.

        Returns:
            Up to `n` tracks in playing order.

        Raises:
            AudioError: A song that is not in the index cannot be decoded.
            Error: There is no index, or no track in it that can be compared.
            ValueError: There is no song, `n` is negative, or a limit is less than 1.

        Warns:
            IndexWarning: Tracks are left out since they are missing or of another model.
        """
        found, notes = self._index.playlist(
            _paths(songs),
            _count("n", n),
            None if max_per_album is None else _count("max_per_album", max_per_album),
            None if max_per_artist is None else _count("max_per_artist", max_per_artist),
            _paths(exclude_songs),
            list(exclude_artists),
        )
        _warn(notes)
        return [IndexedTrack(*fields) for fields in found]

    def duplicates(self, within: float | None = None) -> list[Duplicates]:
        """The groups of files that are the same recording, as `feelprint duplicates` finds them.

        Args:
            within: The largest distance between the embeddings of the same recording; without it,
                the command's.

        Raises:
            Error: There is no index, or no track in it that can be compared.
            ValueError: `within` is negative or not finite.
        """
        distance = _feelprint.MAX_DISTANCE if within is None else within
        groups, notes = self._index.duplicates(distance)
        _warn(notes)
        return [
            Duplicates(identical, [IndexedTrack(*fields) for fields in tracks])
            for identical, tracks in groups
        ]

    def map(
        self,
        out: StrPath,
        folders: StrPath | Iterable[StrPath] = (),
        *,
        relative: bool = False,
    ) -> int:
        """Write a page that shows the tracks in two dimensions, as `feelprint map` does.

        It is one HTML file that needs no network. After Ctrl-C no page is written, but the part of
        the work that arranges the tracks goes on in the background to its end.

        Args:
            out: The file of the page, such as `map.html`; a map that is there is replaced.
            folders: A folder or audio file, or several, whose tracks are shown; without one, all.
            relative: Whether the page links to the files by their way from its folder, so that both
                can be moved together, instead of by their absolute paths.

        Returns:
            How many tracks the page shows.

        Raises:
            Error: There is no index, or no track in it that can be compared, or none in one of the
                folders; `out` is a folder or a file that is no map.
            OSError: The page cannot be written.

        Warns:
            IndexWarning: Tracks are left out since they are missing or of another model.
        """
        shown, notes = self._index.map(os.fsdecode(out), _paths(folders), relative)
        _warn(notes)
        return shown

    def tracks(self) -> tuple[list[IndexedTrack], npt.NDArray[np.float32]]:
        """The tracks that can be compared, sorted by path, and their embeddings.

        Returns:
            The tracks, and their embeddings, (tracks, 32) float32.

        Raises:
            Error: There is no index, or no track in it that can be compared.

        Warns:
            IndexWarning: Tracks are left out since they are missing or of another model.
        """
        tracks, embeddings, notes = self._index.tracks()
        _warn(notes)
        return [IndexedTrack(*fields) for fields in tracks], embeddings

    def paths(self) -> list[Path]:
        """The path of each track in the index, those without an embedding included.

        Raises:
            Error: There is no index.
        """
        return self._index.paths()

    def forget(
        self, paths: StrPath | Iterable[StrPath] | None = None, *, dry_run: bool = False
    ) -> int:
        """Remove tracks that are gone on purpose, as `feelprint forget` does.

        Args:
            paths: A folder or file, or several, whose tracks are removed whether they are there or
                not; without it, the tracks whose files are gone.
            dry_run: Whether nothing is changed.

        Returns:
            How many tracks were removed, or would be.

        Raises:
            Error: There is no index, or it has no track at one of the paths; those at the others
                have been removed.
        """
        names = [] if paths is None else _paths(paths)
        if paths is not None and not names:
            return 0  # without a path, all missing tracks would go
        return self._index.forget(names, dry_run)

    def __repr__(self) -> str:
        return f"<feelprint.Index {str(self.path)!r}, model {self.model_version}>"


def _released_model() -> Model:
    from feelprint import released_model

    return released_model()


def _paths(paths: StrPath | Iterable[StrPath]) -> list[str]:
    """One path or several, as names."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [os.fsdecode(paths)]
    return [os.fsdecode(path) for path in paths]


def _count(name: str, number: int) -> int:
    if number < 0:
        raise ValueError(f"{name} is {number}, expected at least 0")
    return number


def _warn(notes: list[str]) -> None:
    for note in notes:
        warnings.warn(note, IndexWarning, stacklevel=3)
