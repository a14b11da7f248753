"""Train a model: `accelerate launch distill/run.py --config configs/X.yaml`.

Five stages, in order: cache, distill, finetune, evaluate, export. After an interruption, the first
three resume where they stopped; evaluate and export run again, with the cached embeddings. Each can
be run alone with `--stage`.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    set_seed,
)

from datasets_scripts.audio import AudioError
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.files import atomic_path, write_text
from datasets_scripts.ratings import Ratings, rated_corpus
from datasets_scripts.triplets.table import (
    Triplet,
    for_training,
    read_triplets,
    split_with_corpus,
    track_of,
)
from distill.config import CacheConfig, RunConfig, dump, load
from distill.evaluation.evaluate import cosine_to_teacher, evaluate_model
from distill.evaluation.excerpts import student_embedder
from distill.evaluation.people import embed_clips
from distill.export import ExportError, Origin, check_export, export_onnx
from distill.features.cache import (
    CacheError,
    MelExtractor,
    TeacherExtractor,
    build_cache,
    plan,
    segment_samples,
    skipped_tracks,
)
from distill.features.recordings import Recording, recordings
from distill.reporting.report import ReportError, report
from distill.teachers.base import TeacherError
from distill.teachers.musicnn import MusicnnNetwork, load_network
from distill.teachers.registry import load_teacher
from distill.training.batches import ClipBatches, Targets
from distill.training.rating_metric import fit_rating_metric
from distill.training.teacher_init import fit_channel_targets, init_from_musicnn
from distill.training.teacher_space import SpaceError, TeacherSpace, eligible_albums
from distill.training.train import distill, finetune, store_transform
from student import ConfigError, Feelprint, FeelprintConfig

log = logging.getLogger("feelprint")

STAGES = ("cache", "distill", "finetune", "evaluate", "export")
MakeStudent = Callable[[FeelprintConfig], Feelprint]
MakeMelExtractor = Callable[[FeelprintConfig, CacheConfig], MelExtractor]


class Run:
    """One run: its configuration, its folder, and the five stages.

    ``make_student`` and ``make_mel_extractor`` build the student and its front end for the cache;
    ablations give others.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        accelerator: Accelerator,
        make_student: MakeStudent = Feelprint,
        make_mel_extractor: MakeMelExtractor = MelExtractor,
    ):
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.make_student = make_student
        self.mel_extractor = make_mel_extractor(config.student, config.cache)
        set_seed(config.seed)
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    # --- the five stages -------------------------------------------------------------------

    def cache(self) -> None:
        """Compute the log-mels and the teachers' embeddings of the corpora, once."""
        config, accelerator = self.config, self.accelerator
        segment_s = segment_samples(config.student, config.cache) / config.student.sample_rate
        started = time.monotonic()
        done = build_cache(
            self.corpora,
            [self.mel_extractor, *self.teacher_extractors],
            config.cache,
            segment_s,
            accelerator.process_index,
            accelerator.num_processes,
        )
        # the sum over processes, which also waits until all have written their shards
        hours = accelerator.reduce(torch.tensor(done, device=accelerator.device), "sum").item()
        if not accelerator.is_main_process:
            return
        spent = (time.monotonic() - started) / 3600
        log.info(
            "cache: %.2f hours of audio in %.2f hours, %.0f hours of audio per hour",
            hours,
            spent,
            hours / spent,
        )
        self._write_skipped_tracks()

    def distill(self) -> None:
        """Train the window CNN on the teacher's embeddings of segments.

        Per-channel feature distillation where the student is initialised from its teacher.
        """
        config, model = self.config.distill, self.student(None)
        targets = None
        if config.init_from:
            originals = [r.teacher[0][:] for r in self.train_recordings if r.augmentation == 0]
            targets = fit_channel_targets(model, self.network, np.concatenate(originals))
        batches = ClipBatches(
            self.train_recordings,
            self.targets,
            config.batch_size,
            (1,),
            self.config.seed,
            target_fn=targets,
        )
        channels = targets.channels if targets else None
        distill(self.accelerator, model, batches, config, self.checkpoints, channels)

    def finetune(self) -> None:
        """Train the head on clips, with the CNN frozen or not; then fit the linear metrics.

        The CNN is frozen where `finetune.cnn_learning_rate` is 0, as in configs/default.yaml.
        The first metric is fitted to the albums of the first corpus, which is evaluated on; the
        others only train. The second is fitted to the ratings of `finetune.people`.
        """
        config = self.config.finetune
        originals = self.originals()
        if config.metric_weight:  # an error comes before the training
            eligible_albums([recording.album_key for recording in originals])
        batches = ClipBatches(
            self.train_recordings,
            self.targets,
            config.batch_size,
            config.clip_segments,
            self.config.seed + 1,
            self.train_triplets(),
        )
        model = self.student("distill")
        rated = rated_corpus(Path(config.people)) if config.people else None
        finetune(self.accelerator, model, batches, config, self.checkpoints, originals)
        if rated and self.accelerator.is_main_process:
            self._fit_ratings(*rated)

    def evaluate(self) -> None:
        """Evaluate on tracks that no training step used, and write metrics.json."""
        if not self.accelerator.is_main_process:
            return
        config, model = self.config, self.student("finetune")
        figures = evaluate_model(
            model.fold_for_inference(),
            config,
            self.corpora[0],
            [extractor.teacher for extractor in self.teacher_extractors],
            self.targets.space,
        )
        compared = {"train_splits": self.train_recordings}
        if "validation" not in config.cache.train_splits:
            compared["validation"] = self.cached_recordings("validation")
        figures["cosine_to_teacher"] = {
            name: cosine_to_teacher(model, split_recordings, self.targets)
            for name, split_recordings in compared.items()
            if split_recordings
        }
        self.write_metrics({"evaluate": figures})
        for name, row in figures["figures"].items():
            shown = [
                f"{key} {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
                for key, figure in row.items()
            ]
            log.info("%s: %s", name, "; ".join(shown))

    def export(self) -> None:
        """Write the fused model as ONNX and as safetensors, and check the ONNX file."""
        if not self.accelerator.is_main_process:
            return
        config = self.config
        fused = self.student("finetune").fold_for_inference()
        teachers = [each.teacher for each in self.teacher_extractors]
        origin = Origin(
            config.export.version,
            config.hash,
            " + ".join(f"{t.name} {t.revision} ({t.licence})" for t in teachers),
            config.export.licence,
        )
        path = self.folder / "feelprint.onnx"
        export_onnx(fused, path, origin)
        checks = check_export(fused, path)
        fused.save(str(self.folder))
        parameters = sum(p.numel() for p in fused.parameters())
        self.write_metrics({"export": {**checks, "parameters": parameters}})
        log.info("exported %s: %d bytes, %d parameters", path, checks["bytes"], parameters)

    # --- what the stages share -------------------------------------------------------------

    @cached_property
    def corpora(self) -> list[Corpus]:
        """The corpora that the configuration names; the first is evaluated on."""
        return [Corpus(path) for path in self.config.corpora]

    @cached_property
    def teacher_extractors(self) -> list[TeacherExtractor]:
        """The teachers' feature extractors, on this process's device."""
        student, cache = self.config.student, self.config.cache
        return [
            TeacherExtractor(
                load_teacher(teacher, student, self.accelerator.device),
                student,
                cache,
                teacher.batch_size,
            )
            for teacher in self.config.teachers
        ]

    def cached_recordings(self, *splits: str) -> list[Recording]:
        """The recordings of ``splits`` that the cache holds."""
        jobs = [j for j in plan(self.corpora, self.config.cache) if j.tracks[0].split in splits]
        folder = Path(self.config.cache.folder)
        return recordings(jobs, self.mel_extractor, self.teacher_extractors, folder)

    @cached_property
    def train_recordings(self) -> list[Recording]:
        """The recordings that are trained on. Raises CacheError where there are none."""
        train_recordings = self.cached_recordings(*self.config.cache.train_splits)
        if not train_recordings:
            raise CacheError("the corpora hold no training track that could be used")
        return train_recordings

    def originals(self) -> list[Recording]:
        """The first corpus's training recordings as they are, without augmented copies.

        Raises CacheError where there are none.
        """
        first = {track.id for track in self.corpora[0].tracks}
        originals = [
            r for r in self.train_recordings if r.augmentation == 0 and r.track.id in first
        ]
        if not originals:
            raise CacheError(
                f"{self.config.corpora[0]} holds no training track that could be used; the "
                "teachers' space and the metric are fitted to the first corpus"
            )
        return originals

    @cached_property
    def targets(self) -> Targets:
        """The reduced teacher space, fitted once per run to the first corpus."""
        path = self.folder / "teacher_space.safetensors"
        if not path.exists():  # each process may fit and write it: they compute the same
            k = max(self.config.distill.components, self.config.student.embedding_dim)
            weights = [teacher.weight for teacher in self.config.teachers]
            Targets.fit(self.originals(), k, weights).space.save(path)
        return Targets(TeacherSpace.load(path))

    @cached_property
    def network(self) -> MusicnnNetwork:
        """The network from which the student is initialised."""
        return load_network(Path(self.config.distill.init_from))

    def train_triplets(self) -> list[Triplet]:
        """People's triplets of training tracks, from the table `finetune.triplets`.

        Those of a survey's random rounds are excluded, and so is a triplet that spans splits.

        Raises:
            ConfigError: no loss term uses triplets, a song that no corpus holds, or no triplet
                that can be trained on.
        """
        config = self.config.finetune
        if not config.triplets:
            return []
        if not (config.triplet_margin or config.odd_one_out):
            raise ConfigError("finetune.triplets needs a weight: triplet_margin or odd_one_out")
        table = read_triplets(config.triplets)
        tracks = [track for corpus in self.corpora for track in corpus.tracks]
        unknown = {track_of(song) for t in table for song in t.ids} - {t.id for t in tracks}
        if unknown:
            raise ConfigError(
                f"{config.triplets} names {len(unknown)} songs that no corpus of this run holds, "
                f"such as {min(unknown)}"
            )
        cached = {recording.track.id for recording in self.train_recordings}
        by_split = split_with_corpus(for_training(table), tracks)[0]
        train = [t for split in self.config.cache.train_splits for t in by_split.get(split, [])]
        usable = [t for t in train if {track_of(song) for song in t.ids} <= cached]
        log.info(
            "finetune: %d of the %d triplets in %s are trained on; the others name no odd one, are "
            "of random rounds, or have a song that is held out or skipped",
            len(usable),
            len(table),
            config.triplets,
        )
        if not usable:
            raise ConfigError(f"{config.triplets} holds no triplet of training songs")
        return usable

    def student(self, stage: str | None) -> Feelprint:
        """The student after ``stage``, or with its initial weights where that is None."""
        set_seed(self.config.seed)
        model = self.make_student(self.config.student)
        if stage is None:
            if self.config.distill.init_from:
                init_from_musicnn(model, self.network)
            return model
        path = self.checkpoints / f"{stage}.pt"
        if not path.exists():
            raise CacheError(f"{path} is missing; run the stage {stage} first")
        state = torch.load(path, map_location="cpu", weights_only=True)["module"]
        weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model.load_state_dict(weights)
        return model

    def _fit_ratings(self, corpus: Corpus, ratings: Ratings) -> None:
        """Fit the rating transform, on the embeddings of the model as it is exported."""
        prior = self.student("finetune").without_ratings().fold_for_inference()
        ids = [str(id) for id in ratings.ids]
        embeddings = embed_clips(corpus, ids, student_embedder(prior), "rated clips")
        transform = fit_rating_metric(embeddings, ratings)
        store_transform(self.checkpoints / "finetune.pt", "rating_transform", transform)

    def write_metrics(self, figures: dict[str, Any]) -> None:
        """Add the figures of a stage to those of the others in metrics.json."""
        path = self.folder / "metrics.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, json.dumps({**known, **figures}, indent=2) + "\n")

    def _write_skipped_tracks(self) -> None:
        """List in skipped_tracks.csv the tracks that could not be cached, with the reason."""
        skipped = skipped_tracks(self.corpora, self.mel_extractor, self.config.cache)
        path = self.folder / "skipped_tracks.csv"
        titles = {t.id: t.title for corpus in self.corpora for t in corpus.tracks}
        with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "title", "reason"])
            rows.writerows([i, titles[i], reason] for i, reason in sorted(skipped.items()))
        for track_id, reason in skipped.items():
            log.info("skipped: %s (%s): %s", titles[track_id], track_id, reason)
        log.info("cache: %d tracks skipped, listed in %s", len(skipped), path)


def open_run(
    config: RunConfig,
    runs: Path,
    make_student: MakeStudent = Feelprint,
    make_mel_extractor: MakeMelExtractor = MelExtractor,
) -> Run:
    """Open the folder of a run in ``runs``: resolved configuration, log, tensorboard curves.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    folder = runs / config.name
    folder.mkdir(parents=True, exist_ok=True)
    resolved = folder / "config.yaml"
    if resolved.exists() and load(resolved).hash != config.hash:
        raise ConfigError(
            f"{folder} holds a run of another configuration ({resolved}); give this one "
            "another name, or remove the folder"
        )
    accelerator = Accelerator(
        log_with="tensorboard",
        project_dir=folder,
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[
            # the second stage does not use the head
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # in the cache stage one process may have hours more work than another
            InitProcessGroupKwargs(timeout=timedelta(days=7)),
        ],
    )
    accelerator.init_trackers("tensorboard")
    if accelerator.is_main_process:
        dump(config, resolved)
        _log_to(folder / "log.txt")
    return Run(config, folder, accelerator, make_student, make_mel_extractor)


def _log_to(path: Path) -> None:
    """Log to ``path`` and to standard error, without the libraries' details."""
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True
    )
    for library in ("httpx", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(library).setLevel(logging.WARNING)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of a training run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--config", type=Path, required=True, help="a YAML file of configs/")
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the stages; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        run = open_run(load(options.config), options.runs)
        for stage in [options.stage] if options.stage else STAGES:
            log.info("stage %s", stage)
            getattr(run, stage)()
        if options.stage is None and run.accelerator.is_main_process:
            report(run.folder)
            log.info("report: %s", run.folder / "report.html")
        run.accelerator.end_training()
    except (
        AudioError,
        CacheError,
        ConfigError,
        CorpusError,
        ExportError,
        FloatingPointError,
        ReportError,
        SpaceError,
        TeacherError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
