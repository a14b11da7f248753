"""The snippets of the documents run, and the release workflow is one that GitHub accepts."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from test_beets import Beets

import feelprint
from conftest import ROOT, piece, write_wav
from feelprint.catalogue.__main__ import arguments_parser

DOCUMENTS = [ROOT / "README.md", ROOT / "rust" / "python" / "README.md"]
SCALE = ROOT / "docs" / "scale.md"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"

# With the programs of this environment.
PROGRAMS = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


def blocks(document: Path, language: str) -> list[str]:
    """The contents of the document's fenced blocks of a language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PYTHON = [(document, code) for document in DOCUMENTS for code in blocks(document, "python")]


def test_the_documents_have_snippets() -> None:
    assert [blocks(document, "python") != [] for document in DOCUMENTS] == [True, True]
    assert all("import feelprint" in code for _, code in PYTHON)


@pytest.mark.parametrize("code", [code for _, code in PYTHON])
def test_python_snippets_run(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The format is detected from the content, not from the name.
    for name, seed in [("song.mp3", 1), ("a.mp3", 2), ("b.flac", 3)]:
        write_wav(tmp_path / name, piece(seed))
    Path("Music").mkdir()
    for seed in range(1, 6):
        write_wav(Path("Music") / f"{seed}.mp3", piece(seed))
    names: dict = {}
    exec(compile(code, "snippet", "exec"), names)
    printed = capsys.readouterr().out
    for value in ("embedding", "a", "b"):
        if value in names:
            assert names[value].shape == (32,) and names[value].dtype == "float32"
    if ".similar(" in code:
        assert printed.count(".mp3") >= 5
    if "analyse_many" in code:
        assert printed.count("Music/") == 5 and "not analysed" not in printed
    if "duplicates" in code:
        assert len(names["playlist"]) == 4


def test_the_install_line_of_the_readme(tmp_path: Path) -> None:
    (line,) = re.findall(r"^pip install (\S+) ", "\n".join(blocks(DOCUMENTS[0], "sh")), re.M)
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", target]
    words = [sys.executable, "-m", "pip", "install", *options, line]
    subprocess.run(words, check=True, cwd=ROOT, env=PROGRAMS)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    code = "import feelprint, sys; print(feelprint.__file__, feelprint.model_version)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == [
        str(target / "feelprint" / "__init__.py"),
        feelprint.model_version,
    ]
    assert (target / "bin" / "feelprint").is_file()
    assert (target / "beetsplug" / "feelprint.py").is_file()


def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "maturin", "sdist", "--out", tmp_path]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT / "rust")
    (path,) = tmp_path.iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "src", "models/feelprint.onnx", "python/src", "python/feelprint"],
        check=True, capture_output=True, text=True, cwd=ROOT / "rust",
    ).stdout.split()  # fmt: skip
    tracked = [
        name for name in tracked if not name.startswith("src/map/deck/")
    ]  # the bundle is made
    needed = {"Cargo.toml", "Cargo.lock", "LICENSE", "NOTICE", "pyproject.toml", *tracked}
    assert len(needed) > 50 and needed <= names


def test_the_crate_is_whole() -> None:
    words = ["cargo", "package", "--list", "--locked", "--allow-dirty", "--package", "feelprint"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT / "rust")
    names = set(done.stdout.split())
    assert {"src/lib.rs", "src/cli/mod.rs", "models/feelprint.onnx", "README.md"} <= names
    assert not {name for name in names if name.startswith(("python/", "."))} - {
        ".cargo_vcs_info.json"
    }


def catalogue_lines(document: Path) -> list[str]:
    """The calls of `python -m feelprint.catalogue` in a document."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"python -m feelprint\.catalogue[^\n`#]+", text)


def test_calls_of_the_catalogue_are_ones_that_it_accepts() -> None:
    lines = [line for document in [*DOCUMENTS, SCALE] for line in catalogue_lines(document)]
    assert len(lines) >= 4
    for line in lines:
        arguments_parser().parse_args(shlex.split(line)[3:])


def test_the_catalogue_of_the_readme(tmp_path: Path) -> None:
    (line,) = catalogue_lines(DOCUMENTS[1])
    (tmp_path / "Music").mkdir()
    for seed in range(3):
        write_wav(tmp_path / "Music" / f"{seed}.mp3", piece(seed))
    done = subprocess.run(shlex.split(line), env=PROGRAMS, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"the 10 nearest of 3 tracks: exact\n")


def test_the_job_for_kubernetes() -> None:
    (job,) = (yaml.safe_load(block) for block in blocks(SCALE, "yaml"))
    assert job["kind"] == "RayJob" and job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]["rayClusterSpec"]
    assert spec["rayVersion"] == importlib.metadata.version("ray")
    options = arguments_parser().parse_args(shlex.split(job["spec"]["entrypoint"])[3:])
    (group,) = spec["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert options.workers == group["maxReplicas"] * int(container["resources"]["limits"]["cpu"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_beets_snippets_run(document: Path, tmp_path: Path) -> None:
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("beet ")]
    assert {line.split()[1] for line in lines} == {"feelprint", "similar", "feelplaylist"}
    assert "plugins: feelprint" in document.read_text(encoding="utf-8")
    beets = Beets(tmp_path)
    for seed, title in enumerate(["Solace", "Elite Syncopations", "Weeping Willow"]):
        beets.song(title, seed, artist="Scott Joplin")
    beets.song("Other", 5, album="Other", artist="Other")
    beets.run("import", "--quiet", str(beets.source))
    environment = {**beets.environment, "PATH": PROGRAMS["PATH"]}
    printed = []
    for line in lines:
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        printed.append(done.stdout)
    assert "0 analysed" not in printed[0] and printed[1].count("\n") == 3
    assert (tmp_path / "list.m3u8").read_text().splitlines() == [
        "#EXTM3U",
        "#EXTINF:3,Other - Other",
        str(beets.music / "Other" / "Other.wav"),
    ]


def test_the_options_of_the_plugin_are_documented(tmp_path: Path) -> None:
    (options,) = (block for block in blocks(DOCUMENTS[1], "yaml") if "auto" in block)
    documented = yaml.safe_load(options)["feelprint"]
    code = (
        "import json; from beetsplug.feelprint import FeelprintPlugin;"
        "print(json.dumps(FeelprintPlugin().config.flatten()))"
    )
    environment = {**os.environ, "BEETSDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env=environment
    )
    assert yaml.safe_load(done.stdout) == documented


def test_the_wheel_has_what_type_checkers_and_readers_need() -> None:
    folder = Path(feelprint.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_feelprint.pyi").exists()
    about = importlib.metadata.metadata("feelprint")
    assert about["Version"] == feelprint.__version__
    assert about["Description"].startswith("# feelprint\n\nMusic similarity from audio")
    for name in feelprint.__all__:
        if name not in ("DIM_EMBEDDING", "__version__", "model_version"):
            assert getattr(feelprint, name).__doc__, name


def test_the_release_workflow_is_valid() -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    subprocess.run([*words, "vendor.github-workflows", WORKFLOW], check=True)


def test_the_release_workflow_builds_and_publishes() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    built = {(it["system"], it["target"]) for it in jobs["wheel"]["strategy"]["matrix"]["include"]}
    assert {("linux", "x86_64"), ("linux", "aarch64")} <= built
    assert {system for system, _ in built} == {"linux", "macos", "windows"}
    for job in ("pypi", "crates-io"):
        # Only on a tag that is the version, after everything was built; without a secret.
        assert set(jobs[job]["needs"]) == {"wheel", "sdist", "crate", "version"}
        assert jobs[job]["permissions"]["id-token"] == "write"
    assert jobs["version"]["if"] == "startsWith(github.ref, 'refs/tags/')"
    assert "secrets." not in WORKFLOW.read_text(encoding="utf-8")
    steps = [(job, step) for job in jobs.values() for step in job["steps"] if "run" in step]
    assert steps
    for _, step in steps:
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)
    tag = jobs["version"]["steps"][-1]["run"]
    for version, status in [(feelprint.__version__, 0), ("0.0.1", 1)]:
        environment = {**os.environ, "GITHUB_REF_NAME": f"v{version}"}
        done = subprocess.run(["bash", "-c", tag], cwd=ROOT, env=environment)
        assert done.returncode == status
