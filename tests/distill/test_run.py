"""The main job: five stages end to end on synthetic music, with each kind of teacher."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus
from datasets_scripts.triplets.table import Triplet, write_triplets
from distill import run
from distill.config import RunConfig, TeacherConfig, dump, load
from distill.export import run_onnxruntime
from distill.features.shards import CacheError
from distill.training.teacher_space import SpaceError
from student import ConfigError, Feelprint
from tests.distill.teachers.checkpoints import write_clap, write_mert
from tests.tones import write_tones

CONFIGS = Path(__file__).parents[2] / "configs"


def miniature(config: RunConfig, tones: Path, tmp_path: Path, **changes: Any) -> list[str]:
    """The command line of ``config`` on the tones, with few steps and nothing else changed."""
    small = {
        "corpora": (str(tones),),
        "cache": dataclasses.replace(config.cache, folder=str(tmp_path / "cache"), augmentations=2),
        "distill": dataclasses.replace(config.distill, steps=4, batch_size=16, components=32),
        "finetune": dataclasses.replace(config.finetune, steps=4, batch_size=16),
        "evaluate": dataclasses.replace(config.evaluate, split="test", excerpt_s=4.0, bootstrap=20),
    }
    path = tmp_path / f"{config.name}.yaml"
    dump(dataclasses.replace(config, **(small | changes)), path)
    return ["--config", str(path), "--runs", str(tmp_path / "runs")]


def check_outputs(folder: Path, rows: set[str], teacher: str) -> dict[str, Any]:
    """Check the files of a complete run; returns its metrics."""
    for name in ("config.yaml", "log.txt", "model.safetensors", "config.json", "feelprint.onnx"):
        assert (folder / name).stat().st_size > 0, name
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "distill.pt",
        "finetune.pt",
    ]
    assert list((folder / "tensorboard").rglob("events.out.*"))
    assert not list(folder.rglob("*.part"))
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = metrics["evaluate"]["figures"]
    assert set(figures) == {"student", "untrained", "mfcc"} | rows
    for row in figures.values():
        for figure in row.values():
            # equal up to rounding where all albums have the same value
            assert 0 <= figure["low"] <= figure["value"] + 1e-12
            assert figure["value"] - 1e-12 <= figure["high"] <= 1
    assert metrics["evaluate"]["tracks"] == 6
    assert metrics["export"]["largest_difference"] < 1e-4
    audio = np.random.default_rng(0).standard_normal((1, 70_000)).astype(np.float32) * 0.1
    model = Feelprint.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        want = model(torch.from_numpy(audio)).numpy()
    assert np.abs(run_onnxruntime(folder / "feelprint.onnx", audio) - want).max() < 1e-4
    assert teacher in (folder / "feelprint.onnx").read_bytes().decode("latin-1")
    return metrics


@pytest.mark.slow
def test_the_five_stages_and_their_files(
    tones: Path, wheel_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = load(CONFIGS / "demo.yaml")
    teachers = (TeacherConfig(path=str(wheel_folder)),)
    given = miniature(demo, tones, tmp_path, teachers=teachers)
    folder = tmp_path / "runs" / "demo"

    # a stage before the one that it needs names that one
    assert run.main([*given, "--stage", "finetune"]) == 1
    assert "run the cache stage first" in capsys.readouterr().err

    assert run.main(given) == 0
    metrics = check_outputs(folder, {"MSD_musicnn"}, "MSD_musicnn f38a4890c648c1dd (ISC)")
    assert list(csv.reader((folder / "skipped_tracks.csv").open())) == [["id", "title", "reason"]]
    assert "hours of audio per hour" in (folder / "log.txt").read_text()

    # again: everything exists, and nothing is trained or cached again
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    weights = (folder / "checkpoints" / "finetune.pt").read_bytes()
    for stage in ("cache", "distill", "finetune"):
        assert run.main([*given, "--stage", stage]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (folder / "checkpoints" / "finetune.pt").read_bytes() == weights
    assert json.loads((folder / "metrics.json").read_text()) == metrics

    # the same seed in another folder: the same weights
    other = [*given[:-1], str(tmp_path / "other")]
    for stage in ("distill", "finetune"):
        assert run.main([*other, "--stage", stage]) == 0
    path = Path("demo", "checkpoints", "finetune.pt")
    one, two = (
        torch.load(tmp_path / runs / path, weights_only=True)["module"]
        for runs in ("runs", "other")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())

    # another configuration under the same name is refused
    changed = miniature(demo, tones, tmp_path, teachers=teachers, seed=7)
    assert run.main([*changed, "--stage", "distill"]) == 1
    assert "holds a run of another configuration" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mert-95m", "mert-330m", "clap"])
@pytest.mark.slow
def test_the_configurations_of_large_teachers(name: str, tones: Path, tmp_path: Path) -> None:
    """Unchanged except for folders, the layers of a tiny checkpoint, and the steps."""
    config = load(CONFIGS / f"{name}.yaml")
    (teacher,) = config.teachers
    folder = tmp_path / Path(teacher.path).name
    smaller: dict[str, Any] = {}
    if name == "clap":
        write_clap(folder)
        segments, shown = 6, "larger_clap_music sha256-"
        # one segment of six windows per track makes too few clips for 32 principal components
        smaller["student"] = dataclasses.replace(config.student, embedding_dim=16)
        smaller["distill"] = dataclasses.replace(
            config.distill, steps=4, batch_size=16, components=16
        )
    else:
        write_mert(folder, stable=name == "mert-330m")
        teacher = dataclasses.replace(teacher, layers=(1, 3))
        segments, shown = config.cache.segment_windows, f"{folder.name}-layer-1-3 sha256-"
    given = miniature(
        config,
        tones,
        tmp_path,
        teachers=(dataclasses.replace(teacher, path=str(folder)),),
        cache=dataclasses.replace(
            config.cache, folder=str(tmp_path / "cache"), segment_windows=segments, augmentations=1
        ),
        **smaller,
    )
    assert run.main(given) == 0
    check_outputs(tmp_path / "runs" / name, {shown.split(" ")[0]}, shown)


@pytest.mark.slow
def test_one_student_of_two_teachers(tones: Path, tmp_path: Path) -> None:
    write_mert(tmp_path / "one")
    config = load(CONFIGS / "mert-95m.yaml")
    mert = dataclasses.replace(config.teachers[0], path=str(tmp_path / "one"))
    given = miniature(
        config,
        tones,
        tmp_path,
        teachers=(dataclasses.replace(mert, layers=(1,)), dataclasses.replace(mert, layers=(3,))),
    )
    for stage in ("cache", "distill"):
        assert run.main([*given, "--stage", stage]) == 0
    opened = run.open_run(load(Path(given[1])), tmp_path / "runs")
    assert opened.targets.space.mean.shape == (96,)
    assert opened.train_recordings[0].teacher_embedding(0, 2).shape == (96,)
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.rsplit("-", 1)[0] for name in names] == ["logmel", "one-layer-1", "one-layer-3"]


@pytest.mark.slow
def test_space_and_metric_are_fitted_to_the_corpus_that_is_evaluated_on(
    tones: Path, wheel_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(CONFIGS / "default.yaml")
    assert config.finetune.metric_weight > 0 and config.finetune.people
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, people=""))
    # VibeNet's weights are not on every machine that runs the tests
    teachers = tuple(
        dataclasses.replace(t, path=str(wheel_folder) if t.path else "")
        for t in config.teachers
        if t.name != "vibenet"
    )
    given = miniature(config, tones, tmp_path, teachers=teachers)
    assert run.main([*given, "--stage", "cache"]) == 0
    opened = run.open_run(load(Path(given[1])), tmp_path / "runs")
    train_tracks = {recording.track.id for recording in opened.train_recordings}
    passed = []
    monkeypatch.setattr(run, "finetune", lambda *given: passed.append(given[-1]))
    monkeypatch.setattr(opened, "student", lambda stage: None)
    opened.finetune()
    (originals,) = passed
    assert sorted(recording.track.id for recording in originals) == sorted(train_tracks)
    assert {recording.augmentation for recording in originals} == {0}
    albums = sorted({recording.album_key for recording in originals})
    own = {recording.track.id for recording in originals if recording.album_key in albums[:2]}
    first = Corpus(tones)
    first.tracks = [track for track in first.tracks if track.id in own]
    opened.corpora = [first, Corpus(tones)]
    opened.finetune()
    assert {recording.track.id for recording in passed[-1]} == own
    assert {recording.track.id for recording in opened.originals()} == own
    first.tracks = first.tracks[:4]
    with pytest.raises(SpaceError, match="1 have 3 tracks or more in the corpus that"):
        opened.finetune()
    first.tracks = []
    with pytest.raises(CacheError, match="holds no training track that could be used"):
        opened.finetune()


@pytest.mark.slow
def test_peoples_triplets_are_trained_on_and_those_of_the_test_stream_are_not(
    tones: Path, tmp_path: Path
) -> None:
    write_mert(tmp_path / "one")
    config = load(CONFIGS / "mert-95m.yaml")
    mert = dataclasses.replace(config.teachers[0], path=str(tmp_path / "one"), layers=(2,))
    tracks = Corpus(tones).tracks
    one, two, three = ([t.id for t in tracks if t.artist == f"artist {n}"] for n in range(3))
    held_out = [t.id for t in tracks if t.split == "test"]
    used = Triplet(one[0], two[0], two[1], one[0], "survey-active")
    table = [
        used,
        Triplet(one[1], two[0], three[0], three[0], "survey-random"),
        Triplet(one[1], two[1], three[0], None, "survey-random_train"),
        Triplet(one[1], two[1], held_out[0], held_out[0], "survey-random_train"),
    ]

    def prepared(name: str, triplets: list[Triplet], **weights: float) -> list[str]:
        write_triplets(triplets, tmp_path / f"{name}.parquet")
        finetune = dataclasses.replace(
            config.finetune, steps=2, batch_size=16, triplets=str(tmp_path / f"{name}.parquet"),
            **weights,
        )  # fmt: skip
        named = dataclasses.replace(config, name=name)
        return miniature(named, tones, tmp_path, teachers=(mert,), finetune=finetune)

    given = prepared("used", table, odd_one_out=0.5)
    for stage in ("cache", "distill", "finetune"):
        assert run.main([*given, "--stage", stage]) == 0
    opened = run.open_run(load(Path(given[1])), tmp_path / "runs")
    assert opened.train_triplets() == [used]
    assert "1 of the 4 triplets" in (tmp_path / "runs" / "used" / "log.txt").read_text()

    for name, triplets, weights, message in (
        ("weightless", table, {"odd_one_out": 0.0, "triplet_margin": 0.0}, "needs a weight"),
        ("foreign", [dataclasses.replace(used, a="x", odd="x")], {"odd_one_out": 1.0}, "such as x"),
        ("random", table[1:], {"odd_one_out": 1.0}, "holds no triplet of training songs"),
    ):
        path = Path(prepared(name, triplets, **weights)[1])
        with pytest.raises(ConfigError, match=message):
            run.open_run(load(path), tmp_path / "runs").train_triplets()


@pytest.mark.slow
def test_validation_can_be_a_training_split(tmp_path: Path) -> None:
    corpus = write_tones(tmp_path / "corpus", tracks=6, validation=1)
    write_mert(tmp_path / "one")
    config = load(CONFIGS / "mert-95m.yaml")
    mert = dataclasses.replace(config.teachers[0], path=str(tmp_path / "one"), layers=(2,))
    for train_splits, compared in (
        (("train",), {"train_splits", "validation"}),
        (("train", "validation"), {"train_splits"}),
    ):
        cache = dataclasses.replace(
            config.cache, folder=str(tmp_path / "cache"), augmentations=2, train_splits=train_splits
        )
        named = dataclasses.replace(config, name="-".join(train_splits))
        given = miniature(named, corpus, tmp_path, teachers=(mert,), cache=cache)
        for stage in ("cache", "distill", "finetune", "evaluate"):
            assert run.main([*given, "--stage", stage]) == 0
        opened = run.open_run(load(Path(given[1])), tmp_path / "runs")
        assert {(r.track.split, r.augmentation) for r in opened.train_recordings} == {
            (split, copy) for split in train_splits for copy in (0, 1)
        }
        metrics = json.loads((opened.folder / "metrics.json").read_text())
        assert set(metrics["evaluate"]["cosine_to_teacher"]) == compared


@pytest.mark.slow
def test_two_processes_train_together(tones: Path, tmp_path: Path) -> None:
    write_mert(tmp_path / "one")
    config = load(CONFIGS / "mert-95m.yaml")
    mert = dataclasses.replace(config.teachers[0], path=str(tmp_path / "one"), layers=(2,))
    given = miniature(config, tones, tmp_path, teachers=(mert,))
    # separate processes, as a user starts them: a fork of this one could not train
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(Path(run.__file__)), *given]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "mert-95m"
    check_outputs(folder, {"one-layer-2"}, "one-layer-2 sha256-")
    state = torch.load(folder / "checkpoints" / "finetune.pt", weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in state["module"].values())
    assert os.listdir(tmp_path / "runs") == ["mert-95m"]


@pytest.mark.parametrize("made_from", [("excerpts",), ("albums",), ("excerpts", "albums")])
def test_every_source_of_made_triplets_can_be_trained_on(
    made_from: tuple[str, ...], tones: Path, tmp_path: Path
) -> None:
    write_mert(tmp_path / "one")
    config = load(CONFIGS / "mert-95m.yaml")
    mert = dataclasses.replace(config.teachers[0], path=str(tmp_path / "one"), layers=(2,))
    finetune = dataclasses.replace(
        config.finetune,
        steps=2,
        batch_size=16,
        made_from=made_from,
        triplet_margin=0.5,
        odd_one_out=0.5,
    )
    cache = dataclasses.replace(config.cache, folder=str(tmp_path / "cache"), augmentations=1)
    given = miniature(config, tones, tmp_path, teachers=(mert,), finetune=finetune, cache=cache)
    for stage in ("cache", "distill", "finetune"):
        assert run.main([*given, "--stage", stage]) == 0


# --- errors are one line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": ("no/where",)}, "no/where is not a corpus: build it with"),
        ({"teachers": (TeacherConfig(name="mert"),)}, "mert needs a path"),
        ({"teachers": (TeacherConfig(name="bert"),)}, "unknown teacher bert; known: musicnn"),
    ],
)
def test_a_missing_file_is_an_error_that_says_what_to_do(
    changes: dict[str, Any],
    message: str,
    tones: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = miniature(load(CONFIGS / "mert-95m.yaml"), tones, tmp_path, **changes)
    assert run.main(given) == 1
    err = capsys.readouterr().err
    assert f"error: {message}" in err
    assert "Traceback" not in err


def test_a_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--config", str(tmp_path / "x.yaml"), "--runs", str(tmp_path)]) == 1
    assert "error: no configuration at" in capsys.readouterr().err


def test_help_names_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(["--help"])
    assert stopped.value.code == 0
    message = capsys.readouterr().out
    assert all(stage in message for stage in ("cache", "distill", "finetune", "evaluate", "export"))
    assert "--config" in message
