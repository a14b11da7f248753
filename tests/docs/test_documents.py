"""The documents are right: commands parse, links and files exist, `make help` is complete."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import runpy
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from tests.docs.documents import DOCUMENTS, ROOT, Command, commands, commands_of_block, links
from tests.docs.documents import named_paths as paths_in

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Not programs of this project: their arguments are not checked here.
OTHER_PROGRAMS = {"beet", "cargo", "cd", "cp", "docker", "export", "mecomp-cli", "pip", "uvx"}
CRATE_COMMAND = "feelprint"  # rust/tests/docs.rs checks its arguments
# Made by a build, a download or the reader, or a file of MECOMP's.
NOT_IN_REPOSITORY = re.compile(
    r"data/|runs/|rust/target/|configs/mine\.yaml$|(analysis|daemon|storage)/(Cargo\.toml$|src/)"
    r"|benches/embeddings\.rs$|models/audio_embedding_model\.onnx$"
)
# What argparse says of a command in a sentence that leaves out an argument, or names a COMMAND.
INCOMPLETE = re.compile(r"arguments are required|invalid choice: 'COMMAND'")
COMMANDS = [command for document in DOCUMENTS for command in commands(document)]


class _Parsed(BaseException):
    """The command line was parsed; nothing after that is to run."""


class CommandError(Exception):
    """A command of a document that its program would refuse."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse_only(start: Callable[[], object], arguments: Sequence[str], fragment: bool) -> None:
    """Start a program with ``arguments`` and stop it once its own parser has accepted them.

    Raises:
        CommandError: the parser refuses the arguments, or the program never parses any.
    """
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[call-overload]
        raise _Parsed

    problem = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(problem):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", ["program", *arguments])
        try:
            start()
        except _Parsed:
            return
        except SystemExit:
            if fragment and INCOMPLETE.search(problem.getvalue()):
                return
            raise CommandError(problem.getvalue().strip()) from None
    raise CommandError("the program does not parse its arguments with argparse")


def check_python(arguments: Sequence[str], fragment: bool) -> None:
    """Check the arguments of `python`."""
    match arguments:
        case ["-c", code]:
            compile(code, "-c", "exec")
        case ["-m", module, *rest]:
            check_module(module, rest, fragment)
        case [script, *rest] if not script.startswith("-"):
            check_script(script, rest, fragment)
        case _:
            raise CommandError("expected -c CODE, -m MODULE or a script")


def check_module(module: str, arguments: Sequence[str], fragment: bool) -> None:
    """Check the arguments of `python -m module`."""
    if module.startswith("feelprint."):
        return  # of the wheel, whose tests check them

    def start() -> None:
        with warnings.catch_warnings():
            # a module that another test has imported runs a second time, as __main__
            warnings.filterwarnings("ignore", ".*found in sys.modules.*", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=False)

    try:
        parse_only(start, arguments, fragment)
    except ImportError as error:
        raise CommandError(str(error)) from error


def check_script(script: str, arguments: Sequence[str], fragment: bool) -> None:
    """Check the arguments of `python script`."""
    if not (ROOT / script).is_file():
        raise CommandError(f"there is no {script}")
    parse_only(lambda: runpy.run_path(str(ROOT / script), run_name="__main__"), arguments, fragment)


def check_accelerate(arguments: Sequence[str], fragment: bool) -> None:
    """Check the arguments of `accelerate launch`, then those of the script that it starts."""
    from accelerate.commands.launch import launch_command_parser

    match arguments:
        case ["launch", *rest]:
            problem = io.StringIO()
            with contextlib.redirect_stderr(problem):
                try:
                    options = launch_command_parser().parse_args(rest)
                except SystemExit:
                    raise CommandError(problem.getvalue().strip()) from None
            script, rest = options.training_script, options.training_script_args
            if options.module:
                check_module(script, rest, fragment)
            else:
                check_script(script, rest, fragment)
        case _:
            raise CommandError("expected accelerate launch")


def check_entry_point(program: str, arguments: Sequence[str], fragment: bool) -> None:
    """Check the arguments of a program that pyproject.toml installs."""
    module, function = PROJECT["scripts"][program].split(":")
    parse_only(getattr(importlib.import_module(module), function), arguments, fragment)


def check_make(arguments: Sequence[str]) -> None:
    """Check that the targets and variables of `make` stand in the Makefile."""
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        known = variables() if is_variable else targets()
        if name not in known:
            raise CommandError(f"the Makefile has no {name}, only {', '.join(sorted(known))}")


def check(command: Command) -> None:
    """Check a command of a document.

    Raises:
        CommandError: its program is unknown, or would refuse its arguments.
    """
    program, *arguments = command.words
    if program == "accelerate":
        check_accelerate(arguments, command.fragment)
    elif program in PROJECT["scripts"]:
        check_entry_point(program, arguments, command.fragment)
    elif program == "make":
        check_make(arguments)
    elif program in ("python", "python3"):
        check_python(arguments, command.fragment)
    elif program not in {CRATE_COMMAND, *OTHER_PROGRAMS}:
        raise CommandError(f"unknown program {program}")


def targets() -> set[str]:
    """The phony targets of the Makefile."""
    return {name for line in re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.M) for name in line.split()}


def variables() -> set[str]:
    """The variables that the Makefile reads."""
    return set(re.findall(r"\$[({](?:if \$\()?([A-Z_]+)\b", MAKEFILE))


def test_documents_hold_commands_of_every_program() -> None:
    programs = {command.words[0] for command in COMMANDS}
    assert {"accelerate", "make", "python", "feelprint", *PROJECT["scripts"]} <= programs


@pytest.mark.parametrize("command", sorted(set(COMMANDS), key=str), ids=str)
def test_command_parses(command: Command) -> None:
    check(command)


@pytest.mark.parametrize(
    "line",
    [
        "python -m no.such.module",
        "python -m distill.reporting",  # a required argument is missing
        "python -m distill.reporting runs/one --no-such-flag",
        "python -m datasets_scripts no-such-command",
        "python -m datasets_scripts extract data/corpora/demo",
        "python rust/no_such_script.py",
        "python -c 'print('",
        "accelerate launch distill/run.py --config configs/demo.yaml --stage no-such-stage",
        "accelerate launch distill/no_such_script.py",
        "accelerate config",
        "feelprint-survey --no-such-flag",
        "feelprint-survey export",
        "make no-such-target",
        "make survey NO_SUCH_VARIABLE=1",
        "no-such-program",
    ],
)
def test_wrong_command_is_found(line: str) -> None:
    (command,) = commands_of_block("a document", line, {})
    with pytest.raises((CommandError, SyntaxError)):
        check(command)


def test_commands_of_a_block() -> None:
    block = """\
cd rust && cargo build --release && cd ..  # it's a comment
feelprint=rust/target/release/feelprint
$feelprint similar "my song.mp3" \\
    --in ~/Music
.venv/bin/feelprint-survey config > survey.yaml
AUDIO=1 make demo AUDIO_DIR=~/Music | cat
"""
    found = [(c.settings, c.words) for c in commands_of_block("a document", block, {})]
    assert found == [
        ((), ("cd", "rust")),
        ((), ("cargo", "build", "--release")),
        ((), ("cd", "..")),
        ((), ("feelprint", "similar", "my song.mp3", "--in", "~/Music")),
        ((), ("feelprint-survey", "config")),
        (("AUDIO=1",), ("make", "demo", "AUDIO_DIR=~/Music")),
        ((), ("cat",)),
    ]


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=named)
def test_relative_links_lead_to_files(document: Path) -> None:
    relative = [link for link in links(document) if not re.match(r"[a-z]+:|#", link)]
    missing = [x for x in relative if not (document.parent / x.split("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_named_files_exist(document: Path) -> None:
    folders = (ROOT, document.parent)
    missing = [
        path
        for path in paths_in(document)
        if not NOT_IN_REPOSITORY.match(path)
        and not any((folder / path).is_file() for folder in folders)
    ]
    assert not missing


def test_folder_table_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = set(re.findall(r"^\| `([^`]+)/` \|", text, re.M))
    assert {"student", "distill", "datasets_scripts", "survey", "rust", "tests"} <= folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_documents_name_the_package_version() -> None:
    version = PROJECT["version"]
    crate = tomllib.loads((ROOT / "rust" / "Cargo.toml").read_text(encoding="utf-8"))["package"]
    assert crate["version"] == version
    wheel = tomllib.loads((ROOT / "rust" / "python" / "Cargo.toml").read_text(encoding="utf-8"))
    assert wheel["package"]["version"] == version
    released = re.findall(
        r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert released[0] == version
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^  version = \{(.+)\},$", readme, re.M) == [version]
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    required = set(re.findall(r'feelprint = \{ version = "([^"]+)"', text))
    assert required == {version.rpartition(".")[0]}


def test_make_help_lists_every_target() -> None:
    lines = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    described = dict(line.split("\t") for line in lines)
    assert set(described) == targets()
    assert all(text.strip() for text in described.values())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=named)
def test_configuration_loads(path: Path) -> None:
    from datasets_scripts.config import read_config
    from datasets_scripts.corpora.free import FreeConfig
    from distill.config import RunConfig
    from distill.personal.crowd import CrowdConfig
    from distill.personal.rated import RatedConfig

    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    kinds = {"packages": FreeConfig, "answers": CrowdConfig, "prior": RatedConfig}
    kind = next((kind for key, kind in kinds.items() if key in keys), RunConfig)
    assert read_config(kind, path)
