"""The command that the wheel installs: the same as Cargo's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import piece, write_wav


@pytest.fixture
def installed() -> Path:
    return Path(sys.executable).parent / "feelprint"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["similar", "--help"],
        ["no-such-command"],
        ["similar", "song.mp3", "--no-such-flag"],
        ["embed", "music/0.wav", "music/broken.mp3", "music/1.wav"],
        ["similar", "music/0.wav", "--in", "music"],
        ["similar", "music/0.wav", "--index", "none.sqlite"],
        ["completions", "bash"],
        ["man", "index"],
    ],
    ids=" ".join,
)
def test_same_output_and_status(
    arguments: list[str], library: Path, tmp_path: Path, installed: Path, command: str
) -> None:
    results = [
        subprocess.run([program, *arguments], capture_output=True, cwd=tmp_path)
        for program in (command, installed)
    ]
    assert results[0].stdout == results[1].stdout
    assert results[0].stderr == results[1].stderr
    assert results[0].returncode == results[1].returncode
    as_module = subprocess.run(
        [sys.executable, "-m", "feelprint", *arguments], capture_output=True, cwd=tmp_path
    )
    assert as_module.stdout == results[0].stdout and as_module.returncode == results[0].returncode


def test_names_that_are_not_text(tmp_path: Path, installed: Path, command: str) -> None:
    write_wav(tmp_path / "a.wav", piece(1)).rename(tmp_path / "caf\udce9.wav")
    outputs = [
        subprocess.run([program, "embed", b"caf\xe9.wav"], capture_output=True, cwd=tmp_path)
        for program in (command, installed)
    ]
    assert outputs[0].returncode == 0 and outputs[0].stdout == outputs[1].stdout


def test_a_closed_pipe_is_not_an_error(library: Path, installed: Path) -> None:
    line = f'"{installed}" similar "{library}/0.wav" --in "{library}" | true'
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_ctrl_c_ends_it_at_once(tmp_path: Path, installed: Path) -> None:
    long = write_wav(tmp_path / "long.wav", np.tile(piece(1), 2_400))
    words = [installed, "embed", *[long] * 20]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(0.7)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
        assert time.perf_counter() - start < 1.0
        assert process.stderr and b"Traceback" not in process.stderr.read()
