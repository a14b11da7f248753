"""Similar songs and playlists in beets, by the embeddings of feelprint.

The embeddings are in an index of their own beside beets' library; tags stay as they are unless
`write` is set.
"""

from __future__ import annotations

import base64
import optparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mediafile
from beets import config
from beets.exceptions import UserError
from beets.importer import ImportSession, ImportTask
from beets.library import Item, Library
from beets.plugins import BeetsPlugin
from beets.ui import Subcommand, print_
from beets.util import bytestring_path, normpath

import feelprint

FIELD = "feelprint"
"""The tag, written only if asked: the model's version and the embedding in Base64."""

PROGRESS_EVERY_S = 0.1


class FeelprintPlugin(BeetsPlugin):
    """The commands `feelprint`, `similar` and `feelplaylist`, and the analysis on import."""

    def __init__(self) -> None:
        super().__init__("feelprint")
        self.config.add(
            {
                "auto": True,
                "index": None,
                "model": None,
                "whole": False,
                "threads": None,
                "write": False,
            }
        )
        self._model: feelprint.Model | None = None
        self._removed: set[str] = set()
        self.add_media_field(
            FIELD,
            mediafile.MediaField(
                mediafile.MP3DescStorageStyle("FEELPRINT"),
                mediafile.MP4StorageStyle("----:com.apple.iTunes:FEELPRINT"),
                mediafile.StorageStyle("FEELPRINT"),
                mediafile.ASFStorageStyle("feelprint/embedding"),
            ),
        )
        self.register_listener("import_task_files", self.imported)
        self.register_listener("item_removed", self.item_removed)
        self.register_listener("cli_exit", self.forget_removed)

    def commands(self) -> list[Subcommand]:
        """The commands of `beet`."""
        analyse = Subcommand("feelprint", help="analyse songs that are new or have changed")
        analyse.parser.add_option(
            "-t", "--threads", type=int, help="how many threads [default: one per processor]"
        )
        analyse.parser.add_option(
            "-f", "--force", action="store_true", help="analyse songs again that have not changed"
        )
        analyse.parser.add_option(
            "-w", "--write", action="store_true", help="write the embeddings to the files' tags"
        )
        analyse.parser.add_option(
            "--pretend", action="store_true", help="print what would be analysed"
        )
        analyse.func = self.analyse
        similar = Subcommand("similar", help="print the songs that are most similar to some")
        similar.parser.add_option(
            "-n", type=int, default=10, help="how many songs [default: %default]"
        )
        similar.parser.add_path_option()
        similar.parser.add_format_option(target=Item)
        similar.func = self.similar
        playlist = Subcommand("feelplaylist", help="print a playlist of songs near some")
        playlist.parser.add_option(
            "-n", type=int, default=20, help="how many songs [default: %default]"
        )
        playlist.parser.add_option("--m3u", action="store_true", help="print an M3U8 file")
        playlist.parser.add_option("--max-per-album", type=int, help="so many of one album")
        playlist.parser.add_option("--max-per-artist", type=int, help="so many of one artist")
        playlist.parser.add_path_option()
        playlist.parser.add_format_option(target=Item)
        playlist.func = self.playlist
        return [analyse, similar, playlist]

    # ------------------------------------------------------------------ commands

    def analyse(self, lib: Library, options: optparse.Values, query: list[str]) -> None:
        """`beet feelprint [QUERY]`: analyse what is new, and remove what beets no longer has."""
        index = self.index(lib)
        items = list(lib.items(query))
        self.update(index, items, options.threads, bool(options.force), bool(options.pretend))
        if options.pretend:
            return
        if not query:  # after the update, which knows moved songs by their content
            self.forget_others(index, items)
        if options.write or self.config["write"].get(bool):
            self.write_tags(index, items)

    def similar(self, lib: Library, options: optparse.Values, query: list[str]) -> None:
        """`beet similar QUERY`: print the nearest songs, nearest first."""
        index, seeds, items, others = self.open(lib, query)
        try:
            found = index.similar(seeds, options.n, exclude_songs=others)
        except (feelprint.Error, OSError, ValueError) as error:
            raise UserError(str(error)) from error
        for track in found:
            item = items[name(track.path)]
            if options.format:
                print_(format(item, options.format))
            else:
                print_(f"{track.distance:.4f}  {format(item, default_format())}")

    def playlist(self, lib: Library, options: optparse.Values, query: list[str]) -> None:
        """`beet feelplaylist QUERY`: print songs near some, in an order with short steps."""
        index, seeds, items, others = self.open(lib, query)
        try:
            found = index.playlist(
                seeds,
                options.n,
                max_per_album=options.max_per_album,
                max_per_artist=options.max_per_artist,
                exclude_songs=others,
            )
        except (feelprint.Error, OSError, ValueError) as error:
            raise UserError(str(error)) from error
        chosen = [items[name(it.path)] for it in found]
        if options.m3u:
            write_m3u(chosen)
            return
        for item in chosen:
            print_(format(item, options.format or default_format()))

    # ------------------------------------------------------------------ listeners

    def imported(self, session: ImportSession, task: ImportTask) -> None:
        """Analyse what has been imported, when its files are in their places."""
        if not self.config["auto"].get(bool):
            return
        items = task.imported_items()
        try:
            index = self.index(session.lib)
            self.update(index, items)
            if self.config["write"].get(bool):
                self.write_tags(index, items)
        except UserError as error:  # which would end the import
            self._log.error("{}; try again with `beet feelprint`", error)

    def item_removed(self, item: Item) -> None:
        """Remember a song that beets has removed."""
        self._removed.add(name(item.path))

    def forget_removed(self, lib: Library) -> None:
        """Remove the songs from the index that beets has removed, at the end of its command."""
        if not self._removed:  # without loading the model
            return
        index = self.index(lib)
        if index.path.is_file():
            gone = self._removed - {name(item.path) for item in lib.items()}
            index.forget({path for path in index.paths() if name(path) in gone})
        self._removed.clear()

    # ------------------------------------------------------------------ parts

    def index(self, lib: Library) -> feelprint.Index:
        """The index: the file of the configuration, or `feelprint.sqlite` beside the library."""
        if self._model is None:
            path = self.config["model"].get()
            try:
                self._model = feelprint.Model(
                    None if path is None else normpath(path), self.config["whole"].get(bool)
                )
            except (feelprint.Error, OSError) as error:
                raise UserError(str(error)) from error
        if self.config["index"].get() is not None:
            return feelprint.Index(self.config["index"].as_filename(), self._model)
        library = os.fsdecode(lib.path)
        folder = config.config_dir() if library == ":memory:" else os.path.dirname(library)
        return feelprint.Index(os.path.join(folder, "feelprint.sqlite"), self._model)

    def open(
        self, lib: Library, query: list[str]
    ) -> tuple[feelprint.Index, list[str], dict[str, Item], list[Path]]:
        """The index, the files of the query, the songs of the library by file, and the files in
        the index that the library does not have."""
        index = self.index(lib)
        if not index.path.is_file():
            raise UserError("no song is analysed yet: run `beet feelprint`")
        if not query:
            raise UserError("expected a query, such as title:Solace")
        seeds = [name(item.path) for item in lib.items(query)]
        if not seeds:
            raise UserError(f"no song matches the query {' '.join(query)}")
        items = {name(item.path): item for item in lib.items()}
        others = [path for path in index.paths() if name(path) not in items]
        return index, seeds, items, others

    def update(
        self,
        index: feelprint.Index,
        items: Iterable[Item],
        threads: int | None = None,
        force: bool = False,
        pretend: bool = False,
    ) -> None:
        """Analyse the items that are new or have changed."""
        paths = []
        for item in items:
            if os.path.isfile(name(item.path)):
                paths.append(name(item.path))
            else:
                self._log.warning("{}: there is no such file", name(item.path))
        if not paths:
            return
        progress = Progress()
        try:
            done = index.update(
                paths,
                force=force,
                dry_run=pretend,
                threads=self.config["threads"].get() if threads is None else threads,
                progress=progress,
            )
        except (feelprint.Error, OSError, ValueError) as error:
            raise UserError(str(error)) from error
        finally:
            progress.end()
        for path in done.to_analyse:
            print_(f"analyse  {path}")
        for problem in done.problems:
            self._log.warning("{}", problem)
        self._log.info(
            "{} analysed, {} unchanged, {} moved or known by content, {} without an embedding",
            done.analysed,
            done.unchanged,
            done.recognised,
            done.failed,
        )

    def forget_others(self, index: feelprint.Index, items: Iterable[Item]) -> None:
        """Remove the songs from the index that beets does not have."""
        if index.path.is_file():
            known = {name(item.path) for item in items}
            index.forget({path for path in index.paths() if name(path) not in known})

    def write_tags(self, index: feelprint.Index, items: Iterable[Item]) -> None:
        """Write the embeddings to the tags. A file that changes is analysed once more, so that the
        index knows it as it is then."""
        try:
            tracks, embeddings = index.tracks()
        except feelprint.Error as error:
            raise UserError(str(error)) from error
        texts = {
            name(track.path): f"{index.model_version} "
            + base64.b64encode(embedding.astype("<f4").tobytes()).decode()
            for track, embedding in zip(tracks, embeddings, strict=True)
            if track.track is None
        }
        changed = []
        for item in items:
            text = texts.get(name(item.path))
            if text is not None and item.get(FIELD) != text:
                item[FIELD] = text
                if item.try_write():
                    item.store()
                    changed.append(item)
        self.update(index, changed)


class Progress:
    """A line on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = False
        self._next = time.monotonic() + PROGRESS_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        """Show how many files are analysed."""
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_EVERY_S
            self._shown = True
            print(f"\rfeelprint: {done} of {total} files analysed", end="", file=sys.stderr)

    def end(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr)


def default_format() -> str:
    """The format of `beet list`."""
    return config["format_item"].as_str()


def name(path: Any) -> str:
    """The canonical path, by which the index names a file."""
    full = os.path.realpath(os.fsdecode(path))
    return full.removeprefix("\\\\?\\")  # of Windows


def write_m3u(items: Iterable[Item]) -> None:
    """Print a playlist file in the format M3U8."""
    lines = [b"#EXTM3U"]
    for item in items:
        title = f"{item.artist} - {item.title}".replace("\n", " ").replace("\r", " ")
        lines.append(f"#EXTINF:{round(item.length)},{title}".encode())
        lines.append(bytestring_path(item.path))
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    sys.stdout.buffer.flush()
