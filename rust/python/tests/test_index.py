"""The index: the same results as the command's."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import feelprint
from conftest import piece, write_wav


@pytest.fixture
def index(library: Path, tmp_path: Path) -> feelprint.Index:
    index = feelprint.Index(tmp_path / "index.sqlite")
    update = index.update(library)
    assert (update.analysed, update.recognised, update.failed) == (8, 0, 1)
    return index


def by_command(command: str, index: feelprint.Index, *arguments: object) -> list[dict]:
    """The lines of JSON that the command prints."""
    words = [command, *map(str, arguments), "--json", "--index", str(index.path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_update_analyses_what_is_new(index: feelprint.Index, library: Path) -> None:
    again = index.update(str(library), threads=1)
    assert (again.unchanged, again.analysed, again.failed) == (8, 0, 1)
    write_wav(library / "new.wav", piece(9))
    (library / "0.wav").unlink()
    dry = index.update(library, dry_run=True)
    assert dry.to_analyse == [(library / "new.wav").resolve()] and dry.missing == 1
    assert library / "new.wav" not in index.paths()
    counts = []
    update = index.update([library], progress=lambda done, total: counts.append((done, total)))
    assert (update.analysed, update.missing, update.unchanged) == (1, 1, 7)
    assert counts[-1] == (1, 1)
    assert library / "new.wav" in index.paths() and library / "0.wav" in index.paths()
    forced = index.update(library, force=True, exclude=["new.*"])
    assert (forced.analysed, forced.excluded) == (7, 1)


def test_problems_are_named(library: Path, tmp_path: Path) -> None:
    index = feelprint.Index(tmp_path / "index.sqlite")
    update = index.update(library)
    (problem,) = update.problems
    assert problem.startswith(f"{library / 'broken.mp3'}: ")
    with pytest.raises(feelprint.AudioError) as caught:
        feelprint.embed(library / "broken.mp3")
    assert problem == str(caught.value)
    with pytest.raises(feelprint.Error, match=r"nowhere: No such file .*; .*no audio file there"):
        (tmp_path / "empty").mkdir()
        index.update([tmp_path / "nowhere", tmp_path / "empty"])


def test_similar_as_the_command(index: feelprint.Index, library: Path, command: str) -> None:
    song = library / "3.wav"
    found = index.similar(song, n=4)
    expected = by_command(command, index, "similar", song, "-n", 4)
    assert [(str(it.path), it.distance) for it in found] == [
        (it["path"], pytest.approx(it["distance"], abs=0)) for it in expected
    ]
    assert found[0].path == library / "copy of 3.wav" and found[0].distance == 0
    assert [it.distance for it in found] == sorted(it.distance for it in found)
    without = index.similar([song], n=4, exclude_songs=[library / "copy of 3.wav"])
    assert without[0] == found[1]
    assert index.similar([song, library / "1.wav"], n=0) == []


def test_playlist_as_the_command(index: feelprint.Index, library: Path, command: str) -> None:
    song = library / "3.wav"
    found = index.playlist(song, n=4)
    expected = by_command(command, index, "playlist", song, "-n", 4)
    assert [(str(it.path), it.distance, it.step) for it in found] == [
        (it["path"], it["distance"], it["step"]) for it in expected
    ]
    assert library / "copy of 3.wav" not in [it.path for it in found]
    # All songs are in one folder, which counts as their album; the seed is of it too.
    with pytest.warns(feelprint.IndexWarning, match="no other song that may be"):
        assert index.playlist(song, max_per_album=1) == []
    assert len(index.playlist(song, max_per_album=3)) == 2


def test_duplicates_as_the_command(index: feelprint.Index, library: Path, command: str) -> None:
    (group,) = index.duplicates()
    (expected,) = by_command(command, index, "duplicates")
    assert group.identical and expected["identical"]
    assert [str(it.path) for it in group.tracks] == expected["paths"]
    everything = index.duplicates(within=100.0)
    assert len(everything) == 1 and not everything[0].identical
    with pytest.raises(ValueError, match="at least 0"):
        index.duplicates(within=-1)


def test_map_as_the_command(index: feelprint.Index, library: Path, command: str) -> None:
    folder = library.parent
    for options, arguments, n_shown in [
        ({}, [], 7),
        ({"relative": True}, ["--relative"], 7),
        ({"folders": library / "1.wav"}, [library / "1.wav"], 1),
        ({"folders": [library / "1.wav", library]}, [library / "1.wav", library], 7),
    ]:
        shown = index.map(folder / "map.html", **options)
        (expected,) = by_command(command, index, "map", *arguments, "--out", folder / "other.html")
        assert shown == expected["songs"] == n_shown
        assert (folder / "map.html").read_bytes() == (folder / "other.html").read_bytes()


def test_wrong_maps_are_errors(index: feelprint.Index, library: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    with pytest.raises(feelprint.Error, match="nowhere: the index has no song there to show"):
        index.map(page, "nowhere")
    with pytest.raises(feelprint.Error, match="a file that is no map is there"):
        index.map(library / "1.wav")
    with pytest.raises(feelprint.Error, match="a folder, expected the name of a file"):
        index.map(library)
    with pytest.raises(FileNotFoundError):
        index.map(tmp_path / "nowhere" / "map.html")
    assert not page.exists()
    (library / "0.wav").unlink()
    index.update(library)
    with pytest.warns(feelprint.IndexWarning, match="1 song is left out, missing"):
        assert index.map(page) == 6


def test_tracks_are_those_that_can_be_compared(index: feelprint.Index, library: Path) -> None:
    tracks, embeddings = index.tracks()
    assert [it.path for it in tracks] == sorted(library.glob("*.wav"))
    assert embeddings.shape == (7, 32) and embeddings.dtype == "float32"
    for track, embedding in zip(tracks, embeddings, strict=True):
        assert embedding.tobytes() == feelprint.embed(track.path).tobytes()


def test_forget(index: feelprint.Index, library: Path) -> None:
    (library / "0.wav").unlink()
    assert index.forget(dry_run=True) == 1
    assert index.forget() == 1 and library / "0.wav" not in index.paths()
    assert index.forget([]) == 0
    assert index.forget(library / "1.wav") == 1 and len(index.paths()) == 6
    with pytest.raises(feelprint.Error, match="the index has no song there"):
        index.forget(library / "1.wav")


def test_tracks_of_a_cue_sheet(tmp_path: Path) -> None:
    import numpy as np

    write_wav(tmp_path / "disc.wav", np.concatenate([piece(1), piece(2)]))
    (tmp_path / "disc.cue").write_text(
        'PERFORMER "Band"\nFILE "disc.wav" WAVE\n  TRACK 01 AUDIO\n    TITLE "One"\n'
        '    INDEX 01 00:00:00\n  TRACK 02 AUDIO\n    TITLE "Two"\n    INDEX 01 00:03:00\n'
    )
    index = feelprint.Index(tmp_path / "index.sqlite")
    assert index.update(tmp_path).analysed == 2
    (second,) = index.similar(f"{tmp_path / 'disc.wav'}#1")
    assert (second.track, second.start_s, second.end_s) == (2, 3.0, pytest.approx(6.0))
    assert (second.title, second.artist) == ("Two", "Band")
    with pytest.warns(feelprint.IndexWarning, match="no other song"):
        assert index.similar(tmp_path / "disc.wav#1", exclude_artists=["band"], n=1) == []


def test_names_that_are_not_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    write_wav(tmp_path / "other.wav", piece(2))
    os.rename(write_wav(tmp_path / "a.wav", piece(1)), name)
    index = feelprint.Index(tmp_path / "index.sqlite")
    assert index.update(tmp_path).analysed == 2
    assert index.similar(tmp_path / "other.wav")[0].path == Path(os.fsdecode(name))
    assert index.similar(name)[0].path == tmp_path / "other.wav"


def test_what_is_left_out_is_a_warning(index: feelprint.Index, library: Path) -> None:
    (library / "0.wav").unlink()
    index.update(library)
    with pytest.warns(feelprint.IndexWarning, match="1 song is left out, missing") as caught:
        index.similar(library / "1.wav")
    assert caught[0].filename == __file__


def test_wrong_indexes_are_errors(tmp_path: Path, song: Path, command: str) -> None:
    missing = feelprint.Index(tmp_path / "none.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("no database, but some text of enough length" * 100)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE songs (x)")
    for path in (missing.path, text, other):
        index = feelprint.Index(path)
        for call in (lambda i: i.similar(song), lambda i: i.playlist(song), lambda i: i.paths()):
            with pytest.raises(feelprint.Error) as caught:
                call(index)
        words = [command, "status", "--index", path]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stderr == f"feelprint: {caught.value}\n"
    with pytest.raises(ValueError, match="n is -1, expected at least 0"):
        missing.similar(song, n=-1)
    with pytest.raises(ValueError, match="threads is 0"):
        missing.update(song, threads=0)


def test_the_default_index_is_the_commands(song: Path, tmp_path: Path, command: str) -> None:
    code = "import feelprint, sys; feelprint.Index().update(sys.argv[1])"
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    for name in ("XDG_DATA_HOME", "FEELPRINT_INDEX"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code, song], check=True, env=environment)
    done = subprocess.run(
        [command, "status", "--json"], check=True, capture_output=True, env=environment
    )
    assert json.loads(done.stdout)["comparable"] == 1


def test_an_update_waits_for_another_process(index: feelprint.Index, library: Path) -> None:
    write_wav(library / "new.wav", piece(9))
    code = (
        "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('BEGIN IMMEDIATE'); print(flush=True); time.sleep(5)"
    )
    words = [sys.executable, "-c", code, index.path]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        update = index.update(library)
    assert update.analysed == 1
    assert "another process writes the index: waiting for it" in update.problems


def test_two_processes_update_one_index(library: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    other.mkdir()
    for seed in range(6, 12):
        write_wav(other / f"{seed}.wav", piece(seed))
    path = tmp_path / "index.sqlite"
    code = "import feelprint, sys; feelprint.Index(sys.argv[1]).update(sys.argv[2], threads=1)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, path, folder]) for folder in (library, other)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(feelprint.Index(path).paths()) == 14


def test_an_exception_of_progress_ends_the_update(library: Path, tmp_path: Path) -> None:
    index = feelprint.Index(tmp_path / "index.sqlite")

    def progress(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="of 8"):
        index.update(library, progress=progress)
    assert index.update(library).failed == 1
