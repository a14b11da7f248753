"""The configuration of a run, as dataclasses; `load` reads one from a YAML file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import yaml

from datasets_scripts.config import read_config
from datasets_scripts.files import write_text
from student import ConfigError, FeelprintConfig

SPLITS = ("train", "validation", "test")
PRECISIONS = ("no", "bf16", "fp16")
TRIPLET_SOURCES = ("excerpts", "albums")


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(config, name)}")


def _of_quadruplets(batch_size: int) -> None:
    if batch_size % 4:
        raise ConfigError(f"batch_size must be a multiple of 4 clips, got {batch_size}")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A pretrained encoder whose space the student learns."""

    name: str = "musicnn"  # musicnn, -tags or -mtt, vibenet, spectrum, mert or clap
    path: str = ""  # a folder or a Hub name; the default teacher's wheel is fetched into it
    revision: str = "main"  # of the Hub's repository
    layers: tuple[int, ...] = ()  # averaged; empty: the last one
    batch_size: int = 8  # windows at once
    weight: float = 1.0  # relative to the other teachers, in the space that the student learns

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"a teacher's weight must be more than 0, got {self.weight}")


@dataclasses.dataclass(frozen=True)
class CacheConfig:
    """The feature cache: segments, shards, augmented copies, and the splits that are trained on."""

    folder: str = "data/cache"
    segment_windows: int = 3  # student windows per segment; a teacher's window covers one or more
    tracks_per_shard: int = 16
    # copies of each training track: 1 is the original alone, more add augmented copies, each
    # with its own teacher embedding
    augmentations: int = 1
    # splits that are trained on and augmented; with validation once nothing is left to tune
    train_splits: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        _at_least_one(self, "segment_windows", "tracks_per_shard", "augmentations")
        if self.train_splits not in (("train",), ("train", "validation")):
            raise ConfigError(
                "train_splits must be [train] or [train, validation], "
                f"got {list(self.train_splits)}"
            )


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """The second stage: the window CNN learns the teacher's embeddings of segments.

    A CNN initialised from its teacher learns each channel's target (per-channel feature
    distillation); with random initial weights, its mean token learns the components of the
    teacher's space.
    """

    init_from: str = ""  # a folder with musicnn's wheel; empty: random initial weights
    steps: int = 1_000
    batch_size: int = 256  # segments
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    components: int = 128  # dimensions of the reduced teacher space

    def __post_init__(self) -> None:
        _at_least_one(self, "steps", "batch_size", "components")
        _of_quadruplets(self.batch_size)


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The third stage: the head and the CNN, on clips. A weight of 0 switches a term off."""

    steps: int = 1_000
    batch_size: int = 96  # clips
    clip_segments: tuple[int, ...] = (2, 4, 6)  # lengths of clips; each batch draws one
    learning_rate: float = 1e-3
    cnn_learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    teacher: float = 1.0  # cosine to the first dimensions of the teacher's space
    relational: float = 0.0  # the similarities within the batch, matched to the teacher's
    same_track: float = 0.0  # two clips of one track against the rest of the batch
    same_album: float = 0.0  # two tracks of one album against the rest of the batch
    metric_weight: float = 0.0  # of between-album axes in the linear metric fitted afterwards
    people: str = ""  # a corpus with people's ratings, to which a second linear metric is fitted
    triplet_margin: float = 0.0  # on triplets
    odd_one_out: float = 0.0  # on triplets
    margin: float = 0.2
    temperature: float = 0.1
    triplets: str = ""  # a table of people's triplets; empty: triplets made from the corpus
    made_from: tuple[str, ...] = ("excerpts", "albums")  # one or both

    def __post_init__(self) -> None:
        _at_least_one(self, "steps", "batch_size")
        _of_quadruplets(self.batch_size)
        terms = (self.teacher, self.relational, self.same_track, self.same_album)
        if not any((*terms, self.triplet_margin, self.odd_one_out)):
            raise ConfigError("every term of the loss has the weight 0; switch one on")
        if self.metric_weight < 0:
            raise ConfigError(f"metric_weight must be at least 0, got {self.metric_weight}")
        if not self.clip_segments or min(self.clip_segments) < 1:
            raise ConfigError(f"clip_segments must be at least 1, got {list(self.clip_segments)}")
        unknown = sorted(set(self.made_from) - set(TRIPLET_SOURCES))
        if unknown or not self.made_from:
            raise ConfigError(
                f"made_from names {', '.join(unknown) or 'nothing'}; "
                f"known: {', '.join(TRIPLET_SOURCES)}"
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
    """The version and licence in the exported file's metadata."""

    version: str = "0.1.0"
    licence: str = "MIT"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One whole run.

    `corpora` are folders in the corpus layout. All are trained on; the first is evaluated on, and
    the axes of the teachers' space are fitted to it.
    """

    name: str
    corpora: tuple[str, ...]
    seed: int = 0
    mixed_precision: str = "no"  # accelerate's: bf16 halves the training time on a CPU that has it
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
        if not self.teachers:
            raise ConfigError("teachers is empty; name at least one teacher")
        if self.distill.init_from and self.teachers[0].name != "musicnn":
            raise ConfigError(
                "distill.init_from: the first teacher must be musicnn to initialise from it, "
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


def load(path: Path) -> RunConfig:
    """The run that the YAML file at ``path`` describes. Raises ConfigError as `read_config`."""
    return read_config(RunConfig, path)


def dump(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration, every key included."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    write_text(path, yaml.safe_dump(plain, sort_keys=False))
