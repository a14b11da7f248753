"""The catalogue on a Ray cluster of one or two nodes, which are processes of this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import s3_standin
from ray.cluster_utils import Cluster

import feelprint
from conftest import RATE, piece, write_wav
from feelprint import catalogue
from feelprint.catalogue.embed import READ_AHEAD, Embedder, _rows
from feelprint.catalogue.target import Target

NODE = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that is s3://, in this process and in those that it starts."""
    folder = tmp_path_factory.mktemp("store")
    distribution = tmp_path_factory.mktemp("distribution")
    s3_standin.install(distribution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_STANDIN", str(folder))
        paths = [str(distribution), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.syspath_prepend(str(distribution))
        importlib.reload(s3_standin)
        import fsspec

        fsspec.register_implementation("s3", s3_standin.Store, clobber=True)
        yield folder


@pytest.fixture(scope="module")
def cluster(store: Path) -> Iterator[Cluster]:
    """A cluster of one node with one CPU, to which this process is connected."""
    for trial in range(3):
        try:
            cluster = Cluster(initialize_head=True, head_node_args=NODE)
            break
        except Exception as error:
            # Ray gives its processes 30 s, which is too little on a machine that does other work.
            if trial == 2 or "timed out during startup" not in str(error):
                raise
    try:
        ray.init(cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def rows(target: Path, folder: str = "tracks") -> list[dict]:
    """The rows of all files of a folder of the catalogue. Nothing else is there."""
    files = sorted((target / folder).iterdir())
    assert all(it.suffix == ".parquet" for it in files)
    return [row for it in files for row in pq.read_table(it).to_pylist()]


def shards(target: Path) -> dict[str, int]:
    """When each shard was written, in ns."""
    return {it.name: it.stat().st_mtime_ns for it in (target / "tracks").glob("*.parquet")}


def check_rows(found: list[dict], folder: Path, prefix: str = "") -> None:
    """Each file once, with what `feelprint.analyse` gives, bit for bit."""
    audio = [it for it in folder.rglob("*") if it.suffix in (".wav", ".mp3")]
    assert Counter(it["path"] for it in found) == Counter(f"{prefix}{it}" for it in audio)
    for row in found:
        path = row["path"].removeprefix(prefix)
        assert row["model_version"] == feelprint.model_version
        try:
            track = feelprint.analyse(path)
        except feelprint.AudioError as error:
            assert row["error"].removeprefix(prefix).endswith(str(error).removeprefix(path))
            assert row["embedding"] is row["duration_s"] is row["damage"] is None
        else:
            assert np.array(row["embedding"], np.float32).tobytes() == track.embedding.tobytes()
            assert (row["duration_s"], row["damage"]) == (track.duration_s, track.damage)
            assert row["error"] is None


def test_a_folder_and_what_is_new_in_it(cluster: Cluster, library: Path, tmp_path: Path) -> None:
    target = tmp_path / "catalogue"
    cut = (library / "0.wav").read_bytes()[: 2 * RATE * 4]
    (library / "cut.wav").write_bytes(cut)
    (library / "cover.jpg").write_bytes(b"a picture")
    first = catalogue.embed(f"file://{library}", str(target))
    assert (first.planned, first.before, first.embedded) == (9, 0, 8)
    assert (first.failed, first.damaged, first.deaths, first.problems) == (1, 1, 0, [])
    assert first.duration_s == pytest.approx(7 * 3.0 + 2.0, abs=0.1)
    check_rows(rows(target), library)
    assert pq.read_schema(next((target / "tracks").iterdir())).equals(catalogue.TRACKS)
    before = shards(target)
    again = catalogue.embed(str(library), str(target))
    assert (again.planned, again.before, again.embedded) == (9, 9, 0)
    (library / "album").mkdir()
    write_wav(library / "album" / "new.wav", piece(9))
    added = catalogue.embed(str(library), str(target), workers=3)
    assert (added.planned, added.before, added.embedded) == (10, 9, 1)
    check_rows(rows(target), library)
    assert before.items() <= shards(target).items()
    with pytest.raises(feelprint.Error, match=r"the model is .*\+whole; .* name another target"):
        catalogue.embed(str(library), str(target), model=feelprint.Model(whole=True))
    whole = tmp_path / "whole"
    catalogue.embed(str(library), str(whole), model=feelprint.Model(whole=True))
    assert {it["model_version"] for it in rows(whole)} == {f"{feelprint.model_version}+whole"}


def test_wrong_sources_and_targets(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(feelprint.Error, match="empty: no audio file there"):
        catalogue.embed(str(tmp_path / "empty"), str(tmp_path / "out"))
    for missing in (str(tmp_path / "nowhere"), "s3://bucket/nowhere"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            catalogue.embed(missing, str(tmp_path / "out"))
    with pytest.raises(ImportError, match="gcsfs"):
        catalogue.embed("gs://bucket/music", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="a target of the kind memory, expected a folder"):
        catalogue.embed(str(tmp_path / "empty"), "memory://out")
    with pytest.raises(feelprint.Error, match="no track has an embedding"):
        catalogue.find_neighbours(str(tmp_path / "out"), 3)
    (tmp_path / "file").write_text("not a folder")
    write_wav(tmp_path / "song.wav", piece(1))
    with pytest.raises(OSError, match="file"):
        catalogue.embed(str(tmp_path), str(tmp_path / "file"))


def test_all_machines_need_the_same_model(tmp_path: Path) -> None:
    version = f"{feelprint.model_version}+whole"
    Embedder(str(tmp_path), None, True, version).load()
    with pytest.raises(feelprint.Error, match=r"has the model .*, expected .*\+whole: install"):
        Embedder(str(tmp_path), None, False, version).load()


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_file_of_the_target_is_written_once(kind: str, store: Path, tmp_path: Path) -> None:
    target = Target(str(tmp_path / "out") if kind == "folder" else "s3://bucket/once")
    table = catalogue.NEIGHBOURS.empty_table()
    assert target.ids("plan") == []
    target.write("plan", "00000", table, create=True)
    with pytest.raises(FileExistsError):
        target.write("plan", "00000", table, create=True)
    target.write("plan", "00000", table)
    assert target.ids("plan") == ["00000"] and target.read("plan", "00000").equals(table)
    files = (tmp_path / "out" if kind == "folder" else store / "bucket" / "once").rglob("*")
    assert [it.name for it in files if it.is_file()] == ["00000.parquet"]


def test_an_object_store(cluster: Cluster, store: Path, library: Path) -> None:
    music = store / "bucket" / "music"
    shutil.copytree(library, music / "album")
    (music / ".trash").mkdir()
    shutil.copy(library / "0.wav", music / ".trash" / "0.wav")
    shutil.copy(library / "0.wav", music / "flaky.wav")
    shutil.copy(library / "0.wav", music / "poison.wav")
    shutil.copy(library / "0.wav", music / "cover.jpg")
    done = catalogue.embed("s3://bucket/music", "s3://bucket/out", workers=1)
    assert (done.planned, done.embedded, done.failed) == (10, 8, 2)
    assert done.deaths == 2  # then the files of its shard are read in a process of their own
    found = rows(store / "bucket" / "out")
    poison = [it for it in found if "poison" in it["path"]]
    assert [it["error"] for it in poison] == [
        "s3://bucket/music/poison.wav: the process that decodes it dies"
    ]
    (music / "poison.wav").unlink()
    shutil.rmtree(music / ".trash")
    found = [it for it in found if it not in poison]
    for row in found:
        row["path"] = row["path"].replace("s3:/", str(store), 1)
    check_rows(found, music)
    count, recall = catalogue.find_neighbours("s3://bucket/out", 3)
    assert (count, recall) == (8, None)
    assert len(rows(store / "bucket" / "out", "neighbours")) == 8


def test_what_is_read_ahead_is_bounded(store: Path, library: Path) -> None:
    names = [f"bucket/ahead/{i}.wav" for i in range(20)]
    (store / "bucket" / "ahead").mkdir(parents=True)
    for name in names:
        shutil.copy(library / "0.wav", store / name)
    s3_standin.Store.read.clear()
    urls = [f"s3://{it}" for it in names]
    expected = feelprint.embed(library / "0.wav").tobytes()
    # A file of unknown or too large a size is not held in memory.
    sizes = [None if i % 3 == 0 else 10**9 if i % 3 == 1 else 1000 for i in range(20)]
    most = 0
    for done, row in enumerate(_rows(feelprint.Model(), urls, sizes)):
        assert row["path"] == urls[done] and row["embedding"].tobytes() == expected
        most = max(most, len(s3_standin.Store.read) - done)
        time.sleep(0.02)
    assert set(s3_standin.Store.read) == {it for i, it in enumerate(names) if i % 3 == 2}
    assert most <= READ_AHEAD


def expected_neighbours(found: list[dict], n: int) -> dict[str, list[float]]:
    """The distances to the nearest others, by the definition."""
    tracks = {it["path"]: np.array(it["embedding"]) for it in found if it["embedding"]}
    return {
        path: sorted(
            float(np.linalg.norm(it - embedding)) for other, it in tracks.items() if other != path
        )[:n]
        for path, embedding in tracks.items()
    }


def test_neighbours(cluster: Cluster, library: Path, tmp_path: Path) -> None:
    target = tmp_path / "catalogue"
    catalogue.embed(str(library), str(target))
    expected = expected_neighbours(rows(target), 3)
    tracks = {it["path"]: np.array(it["embedding"]) for it in rows(target) if it["embedding"]}
    assert len(tracks) == 7
    for exact_up_to in (7, 6):
        count, recall = catalogue.find_neighbours(str(target), 3, exact_up_to=exact_up_to)
        # Of so few tracks, all partitions of the index are searched.
        assert (count, recall) == (7, None if exact_up_to == 7 else 1.0)
        assert (target / "tracks.lance").exists() == (exact_up_to == 6)
        found = rows(target, "neighbours")
        assert Counter(it["path"] for it in found) == Counter(list(tracks))
        for row in found:
            np.testing.assert_allclose(row["distances"], expected[row["path"]], atol=1e-4)
            for path, distance in zip(row["neighbours"], row["distances"], strict=True):
                assert path != row["path"]
                between = np.linalg.norm(tracks[path] - tracks[row["path"]])
                assert between == pytest.approx(distance, abs=1e-4)
        written = {it: it.stat().st_mtime_ns for it in (target / "neighbours").iterdir()}
        catalogue.find_neighbours(str(target), 3, exact_up_to=exact_up_to)
        assert {it: it.stat().st_mtime_ns for it in written} == written
    write_wav(library / "new.wav", piece(9))
    catalogue.embed(str(library), str(target))
    assert catalogue.find_neighbours(str(target), 3, exact_up_to=0) == (8, 1.0)
    assert len(rows(target, "neighbours")) == 8


def start(cluster: Cluster, music: Path, target: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "feelprint.catalogue", music, "--out", target, "--workers", "2"]
    words += ["--address", cluster.address]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_shards(process: subprocess.Popen[str], target: Path, number: int) -> None:
    """Wait until the run has written so many shards."""
    end = time.monotonic() + 120
    while len(shards(target)) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_lost_and_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    """A run is stopped by Ctrl-C, the next is killed, and the third loses one of two machines."""
    music, target = tmp_path / "music", tmp_path / "catalogue"
    music.mkdir()
    for seed in range(3):
        long = write_wav(tmp_path / f"{seed}.wav", np.tile(piece(seed), 200))  # ten minutes
        for copy in range(24):
            os.link(long, music / f"{seed} {copy}.wav")
    (music / "broken.mp3").write_bytes(b"no audio" * 100)
    node = cluster.add_node(num_cpus=1, object_store_memory=NODE["object_store_memory"])
    cluster.wait_for_nodes()

    process = start(cluster, music, target)
    wait_for_shards(process, target, 2)
    process.send_signal(signal.SIGINT)
    stopped = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.endswith("stopped: the next run goes on from here\n")
    assert time.monotonic() - stopped < 10
    time.sleep(1)
    after_ctrl_c = shards(target)
    assert 2 <= len(after_ctrl_c) < 15

    process = start(cluster, music, target)
    wait_for_shards(process, target, len(after_ctrl_c) + 2)
    process.kill()
    process.wait()
    time.sleep(1)
    after_kill = shards(target)
    assert after_ctrl_c.items() <= after_kill.items() and len(after_kill) < 15

    process = start(cluster, music, target)
    wait_for_shards(process, target, len(after_kill) + 2)
    cluster.remove_node(node, allow_graceful=False)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert after_kill.items() <= shards(target).items() and len(shards(target)) == 15
    assert "1 processes died and were replaced" in output
    found = rows(target)
    assert Counter(it["path"] for it in found) == Counter(map(str, music.iterdir()))
    expected = {str(i): feelprint.embed(tmp_path / f"{i}.wav").tobytes() for i in range(3)}
    for row in found:
        if row["error"] is None:
            embedding = np.array(row["embedding"], np.float32).tobytes()
            assert embedding == expected[Path(row["path"]).name[0]]
    assert [Path(it["path"]).name for it in found if it["error"]] == ["broken.mp3"]


def test_the_command(library: Path, tmp_path: Path) -> None:
    """Without a cluster, on this machine."""
    words = [sys.executable, "-m", "feelprint.catalogue"]
    target = tmp_path / "catalogue"
    run = [*words, library, "--out", target, "--workers", "1", "--neighbours", "2"]
    for _ in range(3):
        done = subprocess.run(run, capture_output=True, text=True)
        if "timed out during startup" not in done.stderr:  # as in `cluster`
            break
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 files: 0 were embedded before, 7 are now, ")
    assert done.stdout.endswith("the 2 nearest of 7 tracks: exact\n")
    assert "8/8" in done.stderr
    check_rows(rows(target), library)
    for arguments, status, problem in [
        ([library], 2, "--out"),
        ([library, "--out", target, "--workers", "0"], 2, "--workers is 0, expected at least 1"),
        ([library, "--out", target, "--model", tmp_path / "none"], 2, "none: No such file"),
    ]:
        done = subprocess.run([*words, *arguments], capture_output=True, text=True)
        assert done.returncode == status and problem in done.stderr


def test_without_the_extra_it_says_so() -> None:
    code = "import sys; sys.modules['ray'] = None; import feelprint.catalogue"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModuleNotFoundError: import of ray halted" in done.stderr
    assert "pip install 'feelprint[ray]'" in done.stderr
