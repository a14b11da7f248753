"""What a run is, as dataclasses; `load` reads one from a YAML file and refuses unknown keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from student import ConfigError, FeelprintConfig
from student.config import from_mapping

SPLITS = ("train", "validation", "test")
PRECISIONS = ("no", "bf16", "fp16")
TRIPLET_SOURCES = ("excerpts", "albums", "genres")


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(config, name)}")


def _of_fours(batch_size: int) -> None:
    if batch_size % 4:
        raise ConfigError(f"batch_size must be a multiple of 4 clips, got {batch_size}")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A pretrained encoder whose space the student learns."""

    name: str = "musicnn"  # musicnn, musicnn-mtt, spectrum, mert or clap
    path: str = ""  # a folder or a Hub name; the default teacher's wheel is fetched into it
    revision: str = "main"  # of the Hub's repository
    layers: tuple[int, ...] = ()  # averaged; empty: the last one
    batch_size: int = 8  # windows at once
    weight: float = 1.0  # beside other teachers, in the space that is learned

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"a teacher's weight must be more than 0, got {self.weight}")


@dataclasses.dataclass(frozen=True)
class CacheConfig:
    """How the corpus is heard: once as it is, and `variants - 1` times altered."""

    folder: str = "data/cache"
    segment_windows: int = 3  # student windows a segment; the teacher hears one window a segment
    tracks_per_shard: int = 16
    # copies of each training track: 1 is the original alone, more add augmented copies, each
    # with its own teacher embedding
    augmentations: int = 1
    # splits that are trained on and augmented; with validation once nothing is left to tune
    train_splits: tuple[str, ...] = ("train",)
    teacher_level_db: float = -13.0  # RMS to which a track is brought before the teacher hears it

    def __post_init__(self) -> None:
        _at_least_one(self, "segment_windows", "tracks_per_shard", "augmentations")
        if self.train_splits not in (("train",), ("train", "validation")):
            raise ConfigError(
                f"train_splits must be [train] or [train, validation], got {list(self.train_splits)}"
            )


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """The second stage: the window CNN learns the teacher's segments.

    A CNN initialised from its teacher learns each channel's target (per-channel feature
    distillation); one with random weights learns the teacher's principal components by its mean
    token.
    """

    init_from: str = ""  # a folder with musicnn's wheel; empty: random initial weights
    steps: int = 1_000
    batch_size: int = 256  # segments
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    components: int = 128  # principal components of the teacher's space

    def __post_init__(self) -> None:
        _at_least_one(self, "steps", "batch_size", "components")
        _of_fours(self.batch_size)


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The third stage: the head, and with it the CNN, on clips. Weights of 0 switch a term off."""

    steps: int = 1_000
    batch_size: int = 96  # clips
    clip_segments: tuple[int, ...] = (2, 4, 6)  # lengths of a clip, one drawn a batch
    learning_rate: float = 1e-3
    cnn_learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    teacher: float = 1.0  # cosine to the teacher's space, reduced to the embedding's size
    relational: float = 0.0  # the batch's similarities, as the teacher has them
    same_track: float = 0.0  # two clips of one track against the rest of the batch
    same_album: float = 0.0  # two tracks of one album against the rest of the batch
    metric_weight: float = 0.0  # of between-album axes in the linear metric fitted afterwards
    triplet_margin: float = 0.0  # on triplets
    odd_one_out: float = 0.0  # on triplets
    margin: float = 0.2
    temperature: float = 0.1
    triplets: str = ""  # a table of people's answers; empty: triplets made from the corpus
    made_from: tuple[str, ...] = ("excerpts", "albums")

    def __post_init__(self) -> None:
        _at_least_one(self, "steps", "batch_size")
        _of_fours(self.batch_size)
        terms = (self.teacher, self.relational, self.same_track, self.same_album)
        if not any((*terms, self.triplet_margin, self.odd_one_out)):
            raise ConfigError("every term of the loss has the weight 0; switch one on")
        if self.metric_weight < 0:
            raise ConfigError(f"metric_weight must be at least 0, got {self.metric_weight}")
        if not self.clip_segments or min(self.clip_segments) < 1:
            raise ConfigError(f"clip_segments must be at least 1, got {list(self.clip_segments)}")
        unknown = sorted(set(self.made_from) - set(TRIPLET_SOURCES))
        if unknown:
            raise ConfigError(
                f"made_from names {', '.join(unknown)}; known: {', '.join(TRIPLET_SOURCES)}"
            )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The fourth stage: two excerpts of every held-out track."""

    split: str = "test"  # or validation, while tuning
    excerpt_s: float = 18.0  # seconds
    bootstrap: int = 1_000  # resamples of the albums, for the intervals

    def __post_init__(self) -> None:
        _at_least_one(self, "bootstrap")
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; known: {', '.join(SPLITS)}")
        if self.excerpt_s <= 0:
            raise ConfigError(f"excerpt_s must be more than 0 s, got {self.excerpt_s}")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What the exported file says of itself."""

    version: str = "0.1.0"
    licence: str = "MIT"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One whole run. `corpora` are folders in the corpus layout; the first is evaluated on."""

    name: str
    corpora: tuple[str, ...]
    seed: int = 0
    mixed_precision: str = "no"  # accelerate's: bf16 halves the training time where a CPU knows it
    teachers: tuple[TeacherConfig, ...] = (TeacherConfig(),)
    cache: CacheConfig = CacheConfig()
    student: FeelprintConfig = dataclasses.field(default_factory=FeelprintConfig)
    distill: DistillConfig = DistillConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()

    def __post_init__(self) -> None:
        if not self.corpora:
            raise ConfigError("corpora is empty; name at least one corpus folder")
        if self.distill.init_from and self.teachers[0].name != "musicnn":
            raise ConfigError(
                "distill.init_from: the first of the teachers must be musicnn to initialise from it, "
                f"got {self.teachers[0].name}"
            )
        if self.evaluate.split in self.cache.train_splits:
            raise ConfigError(
                f"evaluate.split is {self.evaluate.split}, which cache.train_splits names too; "
                "evaluate on a split that is not trained on"
            )
        if self.mixed_precision not in PRECISIONS:
            raise ConfigError(
                f"mixed_precision is {self.mixed_precision!r}; known: {', '.join(PRECISIONS)}"
            )

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any key."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(values: dict[str, Any], where: str) -> RunConfig:
    """A run from plain values. Raises ConfigError on an unknown, missing or impossible one."""
    values = dict(values)
    teachers = values.get("teachers")
    if teachers is not None:
        if not isinstance(teachers, list) or not teachers:
            raise ConfigError(f"{where}.teachers: expected a list of teachers, got {teachers!r}")
        values["teachers"] = [
            from_mapping(TeacherConfig, teacher, f"{where}.teachers[{at}]")
            for at, teacher in enumerate(teachers)
        ]
    return from_mapping(RunConfig, values, where)


def load(path: Path) -> RunConfig:
    """The run that the YAML file at ``path`` describes.

    Raises:
        ConfigError: no such file, not YAML, or a key that is unknown, missing or impossible.
    """
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}; those of the project are in configs/")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {values!r}")
    return parse(values, str(path))


def dump(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration, every key included."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
