"""The configuration, and the command line around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from survey.cli import main
from survey.config import SurveyConfig, SurveyError, as_yaml, check, load_config

ROOT = Path(__file__).parents[2]


def test_the_printed_configuration_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config"]) == 0
    file = tmp_path / "survey.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_config(file) == load_config(None) == check(SurveyConfig())
    assert as_yaml(load_config(file)) == file.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip: 15", r"unknown key 'clip'; known keys: title, .*clip_s"),
        ("shares: {activ: 1}", r"shares: unknown key 'activ'; known keys: active, random"),
        ("clip_s: long", "clip_s must be a valid number, found 'long'"),
        ("goal: 1.5", r"goal must be a valid integer, found 1\.5"),
        ("goal: true", "goal must be a valid integer, found True"),
        ("shares: 1", "expected keys and values, found 1"),
        ("- 1", "expected keys and values"),
        ("title: 5", "title must be a valid string, found 5"),
        (
            "limits: {per_address: many}",
            r"limits\.per_address must be a valid integer, found 'many'",
        ),
        ("{", "cannot read the configuration"),
        ("shares: {active: 0.5}", r"must sum to 1, found 0\.9"),
        ("shares: {active: 1.2, random: -0.3}", "each share must be 0 to 1"),
        ("shares: {active: 0, random: 0, repeat: 0.5, gold: 0.5}", "active .* must be above 0"),
        ("clip_s: 30", "10 to 20 seconds"),
        ("min_listened_s: 16", "0 to clip_s"),
        ("raters_per_triplet: {active: 0}", "at least 1"),
        ("limits: {per_address: 0}", "at least 1 a minute"),
        ("public_url: example.org", "must start with http"),
        ("loudness_lufs: -3", "-40 to -14"),
        ("temperature: 0", "above 0"),
    ],
)
def test_bad_configuration_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "survey.yaml"
    file.write_text(text)
    with pytest.raises(SurveyError, match=said):
        load_config(file)


def test_keys_of_the_last_release_are_read(tmp_path: Path) -> None:
    file = tmp_path / "survey.yaml"
    file.write_text("min_heard_s: 4.5\n")
    assert load_config(file).min_listened_s == 4.5
    file.write_text("min_heard_s: 4.5\nmin_listened_s: 5.0\n")
    with pytest.raises(SurveyError, match="unknown key 'min_heard_s'"):
        load_config(file)
    file.write_text("min_heard_s: long\n")
    with pytest.raises(SurveyError, match="min_listened_s must be a valid number"):
        load_config(file)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "survey.yaml").write_text("# goal: 50\n")
    assert load_config(tmp_path / "survey.yaml") == SurveyConfig()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("command", ["serve", "prepare", "export", "simulate", "config"])
def test_every_command_has_help_and_stands_in_the_docs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out
    assert command in (ROOT / "docs" / "survey.md").read_text()


def test_every_configuration_key_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "survey.md").read_text()
    for line in as_yaml(SurveyConfig()).splitlines():
        assert f"{line.split(':')[0].strip()}" in text


def test_errors_are_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--data", str(tmp_path)], "name the music with --corpus DIR"),
        (["prepare", "--corpus", str(tmp_path / "none"), "--data", str(tmp_path)], "none"),
        (["export", str(tmp_path / "x.parquet"), "--data", str(tmp_path)], "no answers in"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("feelprint-survey: ") and error.count("\n") == 1
        assert said in error


def test_importing_parses_no_arguments() -> None:
    code = "import survey.cli, survey.web.app, survey.results.export"
    command = [sys.executable, "-c", code, "--nonsense"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
