"""Embeddings of files, bytes and samples."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import feelprint
from conftest import RATE, ROOT, piece, reference_signals, write_silence, write_wav


def by_command(command: str, path: Path) -> np.ndarray:
    """The embedding that the command prints, (32,) float32."""
    done = subprocess.run([command, "embed", path], check=True, capture_output=True)
    return np.array(json.loads(done.stdout)["embedding"], np.float32)


def test_reference_vectors_bit_for_bit(tmp_path: Path, command: str, vectors: list[dict]) -> None:
    window = vectors[2]["samples"]
    signals = reference_signals(window)
    assert [case["name"] for case in vectors] == list(signals)
    for case in vectors:
        samples = signals[case["name"]]
        path = write_wav(tmp_path / f"{case['name']}.wav", samples)
        embedding = feelprint.embed(path)
        assert embedding.shape == (32,) and embedding.dtype == np.float32
        np.testing.assert_allclose(embedding, case["embedding"], atol=1e-4)
        same = [
            by_command(command, path),
            feelprint.embed_samples(samples, RATE),
            feelprint.embed_samples(samples.astype(np.float64), RATE),
            feelprint.embed_samples(np.stack([samples, samples], axis=1), RATE),
            feelprint.analyse(str(path)).embedding,
            feelprint.analyse_bytes(path.read_bytes()).embedding,
            *feelprint.embed_many([path, os.fsencode(path)], threads=2),
        ]
        assert [it.tobytes() for it in same] == [embedding.tobytes()] * len(same), case["name"]


def test_other_rates_as_the_command(tmp_path: Path, command: str) -> None:
    for rate in (44_100, 48_000):
        samples = np.stack([piece(1, rate=rate), piece(2, rate=rate)], axis=1)
        path = write_wav(tmp_path / f"{rate}.wav", samples, rate)
        expected = by_command(command, path)
        assert feelprint.embed(path).tobytes() == expected.tobytes()
        assert feelprint.embed_samples(samples, rate).tobytes() == expected.tobytes()


def test_analyse_has_the_duration(song: Path, tmp_path: Path) -> None:
    track = feelprint.analyse(song)
    assert track.duration_s == pytest.approx(3.0)
    assert not track.silent and track.damage is None
    assert feelprint.analyse(write_wav(tmp_path / "0.wav", np.zeros(RATE, np.float32))).silent


def test_damage_is_a_warning(tmp_path: Path) -> None:
    whole = write_wav(tmp_path / "whole.wav", piece(1))
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[: 2 * RATE * 4])
    damage = feelprint.analyse(cut).damage
    assert damage
    for embed in (feelprint.embed, lambda path: feelprint.embed_many([path])):
        with pytest.warns(feelprint.DamageWarning, match="cut.wav: ") as caught:
            embed(cut)
        assert str(caught[0].message) == f"{cut}: {damage}"
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feelprint.embed(whole)


def test_results_or_errors_in_order(library: Path, tmp_path: Path) -> None:
    paths = [library / "0.wav", library / "broken.mp3", tmp_path / "missing.mp3", library / "1.wav"]
    for threads in (None, 1, 3):
        first, broken, missing, second = feelprint.embed_many(paths, threads=threads)
        assert isinstance(broken, feelprint.AudioError)
        assert isinstance(missing, FileNotFoundError)
        assert first.tobytes() == feelprint.embed(paths[0]).tobytes()
        assert second.tobytes() == feelprint.embed(paths[3]).tobytes()
    tracks = feelprint.analyse_many(iter(paths))
    assert [isinstance(it, feelprint.Track) for it in tracks] == [True, False, False, True]
    assert feelprint.embed_many([]) == []
    for one in (str(paths[0]), bytes(paths[0]), paths[0]):
        for many in (feelprint.embed_many, feelprint.analyse_many):
            with pytest.raises(TypeError, match=r"0\.wav, expected a list of paths"):
                many(one)  # type: ignore[arg-type]


def test_exceptions_say_what_the_command_says(library: Path, tmp_path: Path, command: str) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    cases = [
        (library / "broken.mp3", feelprint.AudioError),
        (tmp_path / "missing.mp3", FileNotFoundError),
        (empty, feelprint.AudioError),
        (tmp_path, feelprint.AudioError),
    ]
    for path, kind in cases:
        done = subprocess.run([command, "embed", path], capture_output=True, text=True)
        with pytest.raises(kind) as caught:
            feelprint.embed(path)
        assert f"feelprint: {caught.value}\n" == done.stderr
        (result,) = feelprint.embed_many([path])
        assert type(result) is type(caught.value) and str(result) == str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(feelprint.ModelError, match=r"broken\.mp3: ") as caught:
        feelprint.Model(library / "broken.mp3")
    done = subprocess.run(
        [command, "embed", library / "0.wav", "--model", library / "broken.mp3"],
        capture_output=True,
        text=True,
    )
    assert f"feelprint: {caught.value}\n" == done.stderr
    assert issubclass(feelprint.AudioError, feelprint.Error)
    assert issubclass(feelprint.ModelError, feelprint.Error)


def test_wrong_samples_are_errors() -> None:
    tone = piece(1)
    with pytest.raises(TypeError, match="samples of type int16, expected floating point"):
        feelprint.embed_samples((tone * 32_767).astype(np.int16), RATE)
    with pytest.raises(ValueError, match=r"samples of shape \(1, 2, 3\), expected \(samples,\)"):
        feelprint.embed_samples(np.zeros((1, 2, 3)), RATE)
    with pytest.raises(ValueError, match=r"samples of shape \(2, 66150\)"):
        feelprint.embed_samples(np.stack([tone, tone]), RATE)
    for rate in (0, -1, 999, 800_000, 2**40):
        with pytest.raises(feelprint.AudioError, match=rf"sample rate of {rate} Hz; expected 1000"):
            feelprint.embed_samples(tone, rate)
    with pytest.raises(TypeError):
        feelprint.embed_samples(tone, 22_050.5)  # type: ignore[arg-type]
    with pytest.raises(feelprint.AudioError, match="not finite"):
        feelprint.embed_samples(np.append(tone, np.float32("nan")), RATE)
    with pytest.raises(feelprint.AudioError):
        feelprint.embed_samples(np.zeros(0, np.float32), RATE)
    for threads in (0, -2):
        with pytest.raises(ValueError, match=f"threads is {threads}, expected at least 1"):
            feelprint.embed_many([], threads=threads)


def test_a_model_of_ones_own(song: Path, tmp_path: Path) -> None:
    path = ROOT / "rust" / "models" / "feelprint.onnx"
    for model in (feelprint.Model(path), feelprint.Model(path.parent), feelprint.Model()):
        assert model.version == feelprint.model_version
        assert model.embed(song).tobytes() == feelprint.embed(song).tobytes()
        again = pickle.loads(pickle.dumps(model))
        assert again.version == model.version and model.version in repr(again)
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: "):
        feelprint.Model(tmp_path / "none.onnx")


def test_every_window_is_used_if_asked(tmp_path: Path, command: str, vectors: list[dict]) -> None:
    samples = reference_signals(vectors[2]["samples"])["every_window_and_some"]
    path = write_wav(tmp_path / "long.wav", samples)
    model = feelprint.Model(whole=True)
    done = subprocess.run([command, "embed", "--whole", path], check=True, capture_output=True)
    expected = json.loads(done.stdout)
    assert model.version == expected["version"] == f"{feelprint.model_version}+whole"
    embedding = model.embed(path)
    assert embedding.tobytes() == np.array(expected["embedding"], np.float32).tobytes()
    assert not np.array_equal(embedding, feelprint.embed(path))
    again = pickle.loads(pickle.dumps(model))
    assert again.version == model.version
    assert again.embed(path).tobytes() == embedding.tobytes()
    index = feelprint.Index(tmp_path / "index.sqlite", model)
    assert index.update(path).analysed == 1 and index.model_version == model.version
    assert index.tracks()[1].tobytes() == embedding.tobytes()
    with pytest.raises(feelprint.Error, match=r"model .*\+whole, the model in use is"):
        feelprint.Index(index.path).tracks()


def test_nearest_is_exact() -> None:
    random = np.random.default_rng(0)
    # Few distinct values, so that there are ties.
    embeddings = random.integers(-1, 2, (5_000, 32)).astype(np.float32)
    queries = np.concatenate([embeddings[:50], random.normal(size=(50, 32)).astype(np.float32)])
    indices, distances = feelprint.nearest(embeddings, queries, 12, threads=2)
    assert indices.shape == distances.shape == (100, 12)
    assert (indices.dtype, distances.dtype) == (np.int64, np.float32)
    expected = np.linalg.norm(embeddings[None] - queries[:, None], axis=2)
    order = np.argsort(expected[:50].round(4), axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(indices[:50], order)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :12], rtol=1e-5)
    fewer, _ = feelprint.nearest(embeddings[:3].tolist(), queries[::2], n=12)
    assert fewer.shape == (50, 3)
    assert feelprint.nearest(embeddings, queries[:0])[0].shape == (0, 10)
    assert feelprint.nearest(embeddings[:0], queries, n=5)[0].shape == (100, 0)
    embeddings.flags.writeable = False  # as arrays in shared memory are
    np.testing.assert_array_equal(feelprint.nearest(embeddings, queries, 12)[0], indices)


def test_wrong_arrays_are_errors() -> None:
    good = np.zeros((3, 32), np.float32)
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"queries of shape \(32,\), expected \(rows, 32\)"):
        feelprint.nearest(good, good[0])
    with pytest.raises(ValueError, match=r"embeddings of shape \(3, 31\)"):
        feelprint.nearest(good[:, 1:], good)
    with pytest.raises(ValueError, match="queries have a value that is not finite"):
        feelprint.nearest(good, bad)
    with pytest.raises(ValueError, match="n is -1, expected at least 0"):
        feelprint.nearest(good, good, -1)
    with pytest.raises(ValueError, match="threads is 0"):
        feelprint.nearest(good, good, threads=0)


def test_model_version_is_the_commands(song: Path, command: str) -> None:
    done = subprocess.run([command, "embed", song], check=True, capture_output=True)
    assert json.loads(done.stdout)["version"] == feelprint.model_version
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        feelprint.nothing  # noqa: B018


def test_other_threads_run_meanwhile(tmp_path: Path) -> None:
    long = write_silence(tmp_path / "long.wav", 3)
    feelprint.embed(write_wav(tmp_path / "short.wav", piece(1)))  # loads the model
    done = threading.Event()
    results = []

    def work() -> None:
        results.extend(feelprint.embed_many([long, long], threads=1))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    longest = 0.0
    start = last = time.perf_counter()
    while not done.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        time.sleep(0.001)
    thread.join()
    assert len(results) == 2
    # A call that held the GIL would stop this thread for as long as one of the two tracks takes.
    assert longest < (last - start) / 4


def test_work_in_a_forked_process(song: Path) -> None:
    expected = feelprint.embed_many([song], threads=2)[0].tobytes()
    child = os.fork()
    if child == 0:
        same = feelprint.embed_many([song], threads=2)[0].tobytes() == expected
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_import_is_fast_and_needs_numpy_alone() -> None:
    code = "from time import perf_counter as t; s = t(); import feelprint; print(t() - s)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    assert min(times) < 0.1
    code = "import feelprint, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
