"""Ctrl-C: it stops within a second, and the index is sound."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import feelprint
from conftest import piece, write_silence, write_wav

START = """
import sys, time, feelprint
feelprint.model_version  # loads the model
print("started", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(130)
"""


def seconds_to_stop(call: str, *arguments: object) -> float:
    """Run `call`, send SIGINT in the middle of it, and measure until the exception."""
    words = [sys.executable, "-c", START.format(call=call), *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        time.sleep(0.5)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n", "the work ended before the signal"
        seconds = time.perf_counter() - start
        assert process.wait(timeout=30) == 130
    return seconds


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A track of twenty hours, which takes some ten seconds: the signal comes before its end."""
    return write_silence(tmp_path_factory.mktemp("long") / "long.wav", 20)


@pytest.mark.parametrize(
    "call",
    [
        "feelprint.embed(sys.argv[1])",
        "feelprint.embed_many([sys.argv[1]] * 50, threads=2)",
        "feelprint.Index(sys.argv[2]).similar([sys.argv[1]] * 50)",
    ],
)
def test_the_middle_of_a_track(call: str, long: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    feelprint.Index(index).update(write_wav(tmp_path / "song.wav", piece(1)))
    assert seconds_to_stop(call, long, index) < 1.0


def test_waiting_for_another_process(tmp_path: Path) -> None:
    song = write_wav(tmp_path / "song.wav", piece(1))
    index = feelprint.Index(tmp_path / "index.sqlite")
    index.update(song)
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, index.path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        call = "feelprint.Index(sys.argv[1]).update(sys.argv[2], force=True)"
        assert seconds_to_stop(call, index.path, song) < 1.0
        other.communicate()
    assert index.update(song).unchanged == 1


def test_an_update_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    short = [write_wav(folder / f"{seed}.wav", piece(seed)) for seed in range(3)]
    for number in range(30):  # of an hour each, with different contents
        write_silence(folder / f"long-{number}.wav", 1 + number / 1_000)
    path = tmp_path / "index.sqlite"
    call = "feelprint.Index(sys.argv[1]).update(sys.argv[2], threads=2)"
    assert seconds_to_stop(call, path, folder) < 1.0
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    index = feelprint.Index(path)
    known = set(index.paths())
    assert len(known) < 33
    update = index.update(short)
    unchanged = len(known.intersection(short))
    assert (update.unchanged, update.analysed) == (unchanged, 3 - unchanged)
    assert update.problems == []
