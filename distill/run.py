"""The main job: `accelerate launch distill/run.py --config configs/X.yaml`.

Five stages, in order: cache, distill, finetune, evaluate, export. Each resumes where it was
killed, and each can be run alone with `--stage`.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
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
from datasets_scripts.triplets.table import (
    Triplet,
    for_training,
    read_triplets,
    split_with_corpus,
    track_of,
)
from distill.config import RunConfig, dump, load
from distill.evaluation.metrics import cosine_to_teacher, evaluate_model
from distill.export import ExportError, Origin, check_export, export_onnx
from distill.features.cache import (
    CacheError,
    MelExtractor,
    TeacherExtractor,
    fill,
    left_out,
    plan,
    segment_samples,
)
from distill.features.dataset import ClipBatches, Recording, Targets, recordings
from distill.reporting.report import ReportError, report
from distill.teachers.base import TeacherError
from distill.teachers.musicnn import MusicnnNetwork, load_network
from distill.teachers.registry import load_teacher
from distill.training.teacher_init import fit_channel_targets, init_from_musicnn
from distill.training.teacher_space import SpaceError, TeacherSpace, eligible_albums
from distill.training.train import distill, finetune
from student import ConfigError, Feelprint

log = logging.getLogger("feelprint")


class Run:
    """One run: its configuration, its folder, and the stages over them."""

    def __init__(self, config: RunConfig, folder: Path, accelerator: Accelerator):
        self.config, self.folder, self.accelerator = config, folder, accelerator
        set_seed(config.seed)
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    @cached_property
    def corpora(self) -> list[Corpus]:
        """The corpora that the configuration names; the first is evaluated on."""
        return [Corpus(path) for path in self.config.corpora]

    @cached_property
    def mel(self) -> MelExtractor:
        """What makes the student's log-mel."""
        return MelExtractor(self.config.student, self.config.cache)

    @cached_property
    def teachers(self) -> list[TeacherExtractor]:
        """What makes the teachers' embeddings, on this process's device."""
        return [
            TeacherExtractor(
                load_teacher(teacher, self.accelerator.device),
                self.config.student,
                self.config.cache,
                teacher.batch_size,
            )
            for teacher in self.config.teachers
        ]

    def cached_recordings(self, *splits: str) -> list[Recording]:
        """The recordings of ``splits`` that the cache holds."""
        jobs = [j for j in plan(self.corpora, self.config.cache) if j.tracks[0].split in splits]
        return recordings(jobs, self.mel, self.teachers, Path(self.config.cache.folder))

    @cached_property
    def training(self) -> list[Recording]:
        """The recordings that are learned from."""
        found = self.cached_recordings(*self.config.cache.train_splits)
        if not found:
            raise CacheError("the corpora hold no training track that could be used")
        return found

    @cached_property
    def targets(self) -> Targets:
        """The reduced teacher space, fitted once a run."""
        path = self.folder / "teacher_space.safetensors"
        if not path.exists():
            k = max(self.config.distill.components, self.config.student.embedding_dim)
            # every process may fit it: the same space, each under a name of its own
            part = path.with_suffix(f".{os.getpid()}.part")
            weights = [teacher.weight for teacher in self.config.teachers]
            Targets.fit(self.training, k, weights).space.save(part)
            os.replace(part, path)
        return Targets(TeacherSpace.load(path))

    @cached_property
    def network(self) -> MusicnnNetwork:
        """The network that the student starts as."""
        return load_network(Path(self.config.distill.init_from))

    def train_triplets(self) -> list[Triplet]:
        """People's answers about training tracks, as `finetune.triplets` names them.

        Those to a survey's random rounds are never among them, nor is one that spans splits.
        Raises ConfigError for a song that no corpus holds, and where nothing is left.
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
        heard = {recording.track.id for recording in self.training}
        by_split = split_with_corpus(for_training(table), tracks)[0]
        told = [t for split in self.config.cache.train_splits for t in by_split.get(split, [])]
        found = [t for t in told if {track_of(song) for song in t.ids} <= heard]
        log.info(
            "finetune: %d of the %d answers in %s are trained on; the rest could not tell, are of "
            "random rounds or about held-out songs",
            len(found),
            len(table),
            config.triplets,
        )
        if not found:
            raise ConfigError(f"{config.triplets} holds no answer about training songs")
        return found

    def batches(
        self,
        size: int,
        clip_segments: tuple[int, ...],
        seed: int,
        answers: Sequence[Triplet] = (),
        label: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> ClipBatches:
        """Batches of ``size`` clips of the training recordings."""
        return ClipBatches(self.training, self.targets, size, clip_segments, seed, answers, label)

    def student(self, stage: str | None) -> Feelprint:
        """The student as ``stage`` left it, or as the training starts."""
        set_seed(self.config.seed)
        model = Feelprint(self.config.student)
        if stage is None:
            if self.config.distill.init_from:
                init_from_musicnn(model, self.network)
            return model
        path = self.checkpoints / f"{stage}.pt"
        if not path.exists():
            raise CacheError(f"{path} is missing; run the stage {stage} first")
        state = torch.load(path, map_location="cpu", weights_only=True)["module"]
        own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model.load_state_dict(own)
        return model

    # --- the five stages -------------------------------------------------------------------

    def cache(self) -> None:
        """The front end's and the teachers' features of the corpora, written once."""
        config, world = self.config, self.accelerator.num_processes
        segment_s = segment_samples(config.student, config.cache) / config.student.sample_rate
        started = time.monotonic()
        heard = fill(
            self.corpora,
            [self.mel, *self.teachers],
            config.cache,
            segment_s,
            self.accelerator.process_index,
            world,
        )
        # the sum over processes, which also waits until all have written their shards
        hours = self.accelerator.reduce(torch.tensor(heard, device=self.accelerator.device), "sum")
        if not self.accelerator.is_main_process:
            return
        spent = (time.monotonic() - started) / 3600
        log.info(
            "cache: heard %.2f hours of audio in %.2f hours, %.0f hours of audio an hour",
            hours.item(),
            spent,
            hours.item() / spent,
        )
        rejects = left_out(self.corpora, self.mel, config.cache)
        path = self.folder / "left_out.csv"
        titles = {t.id: t.title for corpus in self.corpora for t in corpus.tracks}
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "title", "reason"])
            rows.writerows([i, titles[i], reason] for i, reason in sorted(rejects.items()))
        for track_id, reason in rejects.items():
            log.info("left out: %s (%s): %s", titles[track_id], track_id, reason)
        log.info("cache: %d tracks left out, listed in %s", len(rejects), path)

    def distill(self) -> None:
        """The window CNN learns the teacher's segments, channel by channel where it can."""
        config, model, seed = self.config.distill, self.student(None), self.config.seed
        hints = None
        if config.init_from:
            unaltered = [r.teacher[0][:] for r in self.training if r.augmentation == 0]
            hints = fit_channel_targets(model, self.network, np.concatenate(unaltered))
        batches = self.batches(config.batch_size, (1,), seed, label=hints)
        channels = hints.channels if hints else None
        distill(self.accelerator, model, batches, config, self.checkpoints, channels)

    def finetune(self) -> None:
        """The head, and with it the CNN, learns the embedding of whole clips.

        It is stretched for the corpus that is evaluated on: the others are there to learn from.
        """
        config = self.config.finetune
        own = {track.id for track in self.corpora[0].tracks}
        soundtracks = [r for r in self.training if r.augmentation == 0 and r.track.id in own]
        if config.metric_weight:
            eligible_albums([recording.album for recording in soundtracks])  # before it is trained
        seed = self.config.seed + 1
        batches = self.batches(config.batch_size, config.clip_segments, seed, self.train_triplets())
        model = self.student("distill")
        finetune(self.accelerator, model, batches, config, self.checkpoints, soundtracks)

    def evaluate(self) -> None:
        """Figures on tracks that no training step saw, written to metrics.json."""
        if not self.accelerator.is_main_process:
            return
        config, model = self.config, self.student("finetune")
        figures = evaluate_model(
            model,
            [(producer.teacher, config.cache.teacher_level_db) for producer in self.teachers],
            self.corpora[0],
            config.evaluate,
            Path(config.cache.folder),
        )
        compared = {"train_splits": self.training}
        if "validation" not in config.cache.train_splits:
            compared["validation"] = self.cached_recordings("validation")
        figures["cosine_to_teacher"] = {
            name: cosine_to_teacher(model, found, self.targets)
            for name, found in compared.items()
            if found
        }
        self.write_metrics({"evaluate": figures})
        for name, row in figures["figures"].items():
            shown = [
                f"{key} {value['accuracy']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
                for key, value in row.items()
            ]
            log.info("%s: %s", name, "; ".join(shown))

    def export(self) -> None:
        """The ONNX file and the safetensors beside it, checked against the contract."""
        if not self.accelerator.is_main_process:
            return
        config = self.config
        released = self.student("finetune").fold_for_inference()
        origin = Origin(
            config.export.version,
            config.hash,
            " + ".join(
                f"{p.teacher.name} {p.teacher.revision} ({p.teacher.licence})"
                for p in self.teachers
            ),
            config.export.licence,
        )
        path = self.folder / "feelprint.onnx"
        export_onnx(released, path, origin)
        checks = check_export(released, path)
        released.save(str(self.folder))
        parameters = sum(p.numel() for p in released.parameters())
        self.write_metrics({"export": {**checks, "parameters": parameters}})
        log.info("exported %s: %d bytes, %d parameters", path, checks["bytes"], parameters)

    def write_metrics(self, figures: dict[str, Any]) -> None:
        """Put the figures of a stage beside those of the others in metrics.json."""
        path = self.folder / "metrics.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**known, **figures}, indent=2) + "\n")
        os.replace(part, path)


STAGES = ("cache", "distill", "finetune", "evaluate", "export")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of the main job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--config", type=Path, required=True, help="a YAML file of configs/")
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    return parser.parse_args(arguments)


def open_run(config: RunConfig, runs: Path) -> Run:
    """Open the run folder: the resolved configuration, the log, the tensorboard curves.

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
            # the second stage leaves the head alone
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # one process may have hours of audio more to hear than another
            InitProcessGroupKwargs(timeout=timedelta(days=7)),
        ],
    )
    accelerator.init_trackers("tensorboard")
    if accelerator.is_main_process:
        part = resolved.with_suffix(".part")
        dump(config, part)
        os.replace(part, resolved)
        handlers: list[logging.Handler] = [
            logging.FileHandler(folder / "log.txt"),
            logging.StreamHandler(),
        ]
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True
        )
        for chatty in ("httpx", "onnxscript", "onnx_ir", "torch.onnx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
    return Run(config, folder, accelerator)


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
