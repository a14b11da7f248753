"""A run's configuration: the project's own are valid, and an invalid one gives a clear error."""

import dataclasses
from pathlib import Path

import pytest

from distill.config import RunConfig, TeacherConfig, dump, load
from student import ConfigError
from student.config import from_mapping

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = ("default", "demo", "mert-95m", "mert-330m", "clap")
LEAST = {"name": "x", "corpora": ["data/corpora/free"]}


@pytest.mark.parametrize("name", RUNS)
def test_the_projects_own_are_valid(name: str) -> None:
    config = load(CONFIGS / f"{name}.yaml")
    assert config.name == name
    assert config.teachers[0].path


def test_the_licence_of_a_non_commercial_teacher_is_passed_on() -> None:
    for name in RUNS:
        config = load(CONFIGS / f"{name}.yaml")
        if any(teacher.name == "mert" for teacher in config.teachers):
            assert config.export.licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": 1}, "here: unknown key seeds; known keys: .*seed"),
        ({"distill": {"step": 5}}, "here.distill: unknown key step; known keys: .*steps"),
        ({"student": {"n_mel": 5}}, "here.student: unknown key n_mel; known keys"),
        ({"teachers": [{"nam": "x"}]}, r"here.teachers\[0\]: unknown key nam; known keys"),
        ({"teachers": []}, "here: teachers is empty; name at least one teacher"),
        ({"teachers": 7}, "here.teachers: expected a list, got 7"),
        ({"teachers": [{"weight": 0}]}, r"weight must be more than 0, got 0.0"),
        ({"teachers": {"name": "musicnn"}}, "here.teachers: expected a list, got .*musicnn"),
        ({"corpora": []}, "corpora is empty"),
        ({"corpora": "data/corpora/free"}, "here.corpora: expected a list"),
        ({"distill": 7}, "here.distill: expected a mapping of keys, got 7"),
        ({"distill": {"learning_rate": "2e-3"}}, "expected a number, got '2e-3' .*write 1.0e-3"),
        ({"distill": {"steps": 0}}, "steps must be at least 1"),
        ({"distill": {"batch_size": 30}}, "multiple of 4"),
        (
            {"distill": {"init_from": "x"}, "teachers": [{"name": "mert"}]},
            "must be musicnn to initialise from it, got mert",
        ),
        ({"finetune": {"batch_size": 30}}, "multiple of 4"),
        ({"finetune": {"teacher": 0.0}}, "every term of the loss has the weight 0"),
        ({"finetune": {"clip_segments": []}}, "clip_segments"),
        ({"finetune": {"metric_weight": -0.1}}, "metric_weight must be at least 0, got -0.1"),
        ({"finetune": {"made_from": ["moods"]}}, "made_from names moods; known: excerpts, albums"),
        (
            {"finetune": {"made_from": ["genres"]}},
            "made_from names genres; known: excerpts, albums",
        ),
        ({"finetune": {"made_from": []}}, "made_from names nothing; known: excerpts, albums"),
        ({"cache": {"augmentations": 0}}, "augmentations must be at least 1"),
        (
            {"cache": {"train_splits": ["train", "test"]}},
            r"\[train, validation\], got .'train', 'test'",
        ),
        (
            {
                "cache": {"train_splits": ["train", "validation"]},
                "evaluate": {"split": "validation"},
            },
            "evaluate.split is validation, which cache.train_splits names too",
        ),
        ({"evaluate": {"split": "tests"}}, "split is 'tests'; known: train, validation, test"),
        ({"evaluate": {"excerpt_s": 0}}, "excerpt_s must be more than 0"),
        ({"student": {"hop_length": 700}}, "multiple of 32"),
    ],
)
def test_an_invalid_one_gives_a_clear_error(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(RunConfig, LEAST | values, "here")


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match="missing key name, corpora"):
        from_mapping(RunConfig, {}, "here")


def test_a_file_that_is_no_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the project's are in configs/"):
        load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- name")
    with pytest.raises(ConfigError, match="expected a mapping of keys"):
        load(tmp_path / "a.yaml")


def test_what_is_dumped_is_loaded(tmp_path: Path) -> None:
    teachers = [{"name": "mert", "path": "x", "layers": [3, 4]}, {"name": "spectrum"}]
    config = from_mapping(RunConfig, LEAST | {"teachers": teachers}, "here")
    dump(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config


def test_the_hash_changes_with_any_key() -> None:
    config = RunConfig("x", ("a",))
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, teachers=(TeacherConfig(revision="v2"),)),
        dataclasses.replace(config, student=dataclasses.replace(config.student, floor=1e-4)),
        dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, margin=0.3)),
    ]
    hashes = [one.hash for one in (config, *others)]
    assert len(set(hashes)) == len(hashes)
    assert RunConfig("x", ("a",)).hash == config.hash
    assert len(config.hash) == 16
