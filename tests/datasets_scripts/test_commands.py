"""The command line: every command has help, and an expected error is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datasets_scripts.__main__ import main, parser
from tests.datasets_scripts.sounds import coded, wave

COMMANDS = [
    [],
    ["free"],
    ["demo"],
    ["folder"],
    ["styles"],
    ["fma"],
    ["musifeast"],
    ["extract"],
    ["triplets"],
    ["triplets", "human"],
    ["triplets", "made"],
    ["publish"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m datasets_scripts " + " ".join(command))


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "datasets_scripts", "--help"]
    assert b"styles" in subprocess.run(command, check=True, capture_output=True).stdout


def test_a_folder_becomes_a_corpus_with_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "music").mkdir()
    for n in range(3):
        (tmp_path / "music" / f"{n}.ogg").write_bytes(coded(wave(n, 4.0)))
    (tmp_path / "music" / "bad.mp3").write_text("no music")
    out = tmp_path / "out"
    main(["folder", "--audio-dir", str(tmp_path / "music"), "--out", str(out)])
    said = capsys.readouterr().out
    assert "| all | 3 | 0.00 |" in said and "| not named | 3 |" in said
    assert f"1 files left out: {out / 'rejects.csv'}" in said


def test_an_expected_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["folder", "--audio-dir", str(tmp_path / "none")])
    assert stop.value.code == f"error: {tmp_path / 'none'} is not a folder"


def test_defaults_stay_in_the_working_folder() -> None:
    args = parser().parse_args(["free"])
    assert args.out == Path("data/corpora/free") and args.debs == Path("data/debs")
    assert args.config.is_file()
    assert parser().parse_args(["publish", "x", "a/b"]).private is True
    assert parser().parse_args(["publish", "x", "a/b", "--no-private"]).private is False
