"""The plugin in beets itself, on a library that the tests make."""

from __future__ import annotations

import base64
import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mediafile
import numpy as np
import pytest

import feelprint
from conftest import piece, write_wav

CONFIG = """
directory: {music}
library: {folder}/library.db
plugins: [feelprint]
import: {{copy: yes, write: yes, autotag: no}}
paths: {{default: $album/$title, singleton: $album/$title, comp: $album/$title}}
feelprint: {{{options}}}
"""

SONGS = {"One", "Two", "Three", "Four", "Three again", "Five"}


class Beets:
    """A library of beets, and its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.music = folder / "music"
        self.source = folder / "source"
        self.index = folder / "feelprint.sqlite"
        self.environment = {**os.environ, "BEETSDIR": str(folder), "HOME": str(folder)}
        for made in (self.music, self.source):
            made.mkdir()
        self.configure("")

    def configure(self, options: str) -> None:
        text = CONFIG.format(folder=self.folder, music=self.music, options=options)
        (self.folder / "config.yaml").write_text(text)

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run `beet`; returns what it prints."""
        done = self.result(*arguments)
        assert done.returncode == status, done.stderr
        return done.stdout

    def result(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "beets", *arguments]
        return subprocess.run(
            words, capture_output=True, text=True, env=self.environment, stdin=subprocess.DEVNULL
        )

    def song(self, title: str, seed: int, album: str = "Album", artist: str = "Band") -> Path:
        """A file to import."""
        (self.source / album).mkdir(exist_ok=True)
        path = write_wav(self.source / album / f"{title}.wav", piece(seed))
        tags = mediafile.MediaFile(path)
        tags.title, tags.album, tags.artist = title, album, artist
        tags.save()
        return path

    def paths(self) -> set[str]:
        """The titles in the index."""
        return {path.stem for path in feelprint.Index(self.index).paths()}


@pytest.fixture
def beets(tmp_path: Path) -> Iterator[Beets]:
    beets = Beets(tmp_path)
    for seed, title in enumerate(["One", "Two", "Three", "Four"]):
        beets.song(title, seed)
    beets.song("Three again", 2, album="Best of")
    beets.song("Five", 5, album="Best of")
    yield beets


@pytest.fixture
def imported(beets: Beets) -> Beets:
    beets.run("import", "--quiet", str(beets.source))
    return beets


def test_import_analyses(imported: Beets) -> None:
    assert imported.paths() == SONGS
    result = imported.result("feelprint")
    assert "0 analysed, 6 unchanged" in result.stderr and result.returncode == 0
    assert all(
        path.is_relative_to(imported.music) for path in feelprint.Index(imported.index).paths()
    )


def test_only_what_is_new_is_analysed(beets: Beets) -> None:
    beets.configure("auto: no")
    beets.run("import", "--quiet", str(beets.source))
    assert not beets.index.exists()
    assert "run `beet feelprint`" in beets.result("similar", "title:One").stderr
    assert beets.run("feelprint", "--pretend", "title:One").startswith("analyse  ")
    assert "1 analysed" in beets.result("feelprint", "--threads", "1", "title:One").stderr
    assert beets.paths() == {"One"}
    assert "5 analysed, 1 unchanged" in beets.result("feelprint").stderr
    assert "6 analysed, 0 unchanged" in beets.result("feelprint", "--force").stderr


def test_progress_in_a_terminal(imported: Beets) -> None:
    for title in ("One", "Two", "Three"):
        write_wav(imported.music / "Album" / f"{title}.wav", np.tile(piece(1), 600))  # 30 minutes
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "beets", "feelprint", "--force", "--threads", "1"]
    process = subprocess.Popen(words, stderr=theirs, env=imported.environment)
    os.close(theirs)
    shown = b""
    # Reading fails when the program has closed the terminal.
    with contextlib.suppress(OSError):
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    assert process.wait() == 0
    assert re.search(rb"\rfeelprint: [1-5] of 6 files analysed", shown), shown
    assert b"6 analysed" in shown


def test_similar_prints_the_nearest_song_first(imported: Beets) -> None:
    lines = imported.run("similar", "-n", "3", "title::^Three$").splitlines()
    assert len(lines) == 3 and lines[0] == "0.0000  Band - Best of - Three again"
    distances = [float(line.split()[0]) for line in lines]
    assert distances == sorted(distances) and distances[1] > 0
    (title,) = imported.run("similar", "-n1", "-f", "$title", "title::^Three$").splitlines()
    assert title == "Three again"
    (path,) = imported.run("similar", "-n1", "-p", "title::^Three$").splitlines()
    assert path == str(imported.music / "Best of" / "Three again.wav")
    index = feelprint.Index(imported.index)
    expected = index.similar([imported.music / "Album" / f"{it}.wav" for it in ("One", "Two")])
    titles = imported.run("similar", "-f", "$title", "title:One", ",", "title:Two").splitlines()
    assert titles == [it.path.stem for it in expected]


def test_a_playlist(imported: Beets) -> None:
    titles = imported.run("feelplaylist", "-n", "2", "-f", "$title", "title:One").splitlines()
    index = feelprint.Index(imported.index)
    expected = index.playlist(imported.music / "Album" / "One.wav", n=2)
    assert titles == [it.path.stem for it in expected]
    m3u = imported.run("feelplaylist", "--m3u", "-n", "2", "title:One").splitlines()
    assert m3u[0] == "#EXTM3U" and m3u[1] == f"#EXTINF:3,Band - {titles[0]}"
    assert m3u[2::2] == [str(it.path) for it in expected]
    limited = imported.run("feelplaylist", "--max-per-album", "2", "-f", "$album", "title:One")
    assert sorted(limited.splitlines()) == ["Album", "Best of"]


def test_removed_songs_disappear(imported: Beets) -> None:
    imported.run("remove", "--force", "title:Two")
    assert imported.paths() == SONGS - {"Two"}
    # Removed while the plugin was off.
    config = (imported.folder / "config.yaml").read_text()
    (imported.folder / "config.yaml").write_text(config.replace("[feelprint]", "[]"))
    imported.run("remove", "--force", "title::again")
    (imported.folder / "config.yaml").write_text(config)
    assert "Three again" in imported.paths()
    assert "again" not in imported.run("similar", "title::^Three$")
    assert "again" not in imported.run("feelplaylist", "title::^Four$")
    imported.run("feelprint")
    assert imported.paths() == SONGS - {"Two", "Three again"}


def test_a_moved_song_is_known_by_its_content(imported: Beets) -> None:
    imported.run("modify", "--yes", "--nowrite", "title:One", "title=Uno")
    assert (imported.music / "Album" / "Uno.wav").exists()
    assert "0 analysed, 5 unchanged, 1 moved" in imported.result("feelprint").stderr
    assert imported.paths() == SONGS - {"One"} | {"Uno"}


def test_tags_are_written_only_if_asked(imported: Beets) -> None:
    def tag() -> str | None:
        import mutagen.wave

        frames = mutagen.wave.WAVE(imported.music / "Album" / "One.wav").tags
        values = frames.getall("TXXX:FEELPRINT")
        return values[0].text[0] if values else None

    imported.run("feelprint")
    assert tag() is None
    imported.run("feelprint", "--write")
    version, values = (tag() or "").split()
    assert version == feelprint.model_version
    embedding = feelprint.embed(imported.music / "Album" / "One.wav")
    assert base64.b64decode(values) == embedding.tobytes()
    assert np.frombuffer(base64.b64decode(values), "<f4").shape == (32,)
    assert "0 analysed, 6 unchanged" in imported.result("feelprint", "--write").stderr


def test_problems_are_named(imported: Beets) -> None:
    broken = imported.music / "Album" / "One.wav"
    broken.write_bytes(b"no audio" * 100)
    (imported.music / "Album" / "Two.wav").unlink()
    result = imported.result("feelprint")
    assert result.returncode == 0 and "1 without an embedding" in result.stderr
    assert f"{broken}: " in result.stderr
    assert f"{imported.music / 'Album' / 'Two.wav'}: there is no such file" in result.stderr
    for arguments, problem in [
        (["similar"], "expected a query"),
        (["similar", "title:Nothing"], "no song matches the query title:Nothing"),
        (["similar", "-n", "-1", "title:Four"], "n is -1, expected at least 0"),
        (["feelprint", "-t", "0"], "threads is 0, expected at least 1"),
    ]:
        result = imported.result(*arguments)
        assert result.returncode == 1 and problem in result.stderr, result.stderr


def test_an_index_and_a_model_of_ones_own(beets: Beets) -> None:
    beets.configure(f"index: {beets.folder}/other.sqlite, threads: 1, model: {beets.folder}/none")
    problem = beets.result("feelprint").stderr
    assert f"{beets.folder}/none: No such file" in problem and "Traceback" not in problem
    beets.configure(f"index: {beets.folder}/other.sqlite")
    beets.run("import", "--quiet", str(beets.source))
    assert not beets.index.exists()
    assert len(feelprint.Index(beets.folder / "other.sqlite").paths()) == 6
    beets.configure("whole: yes")
    beets.run("feelprint")
    index = feelprint.Index(beets.index, feelprint.Model(whole=True))
    assert len(index.tracks()[0]) == 6 and index.model_version.endswith("+whole")
