"""The report of a run: figures in report.json and metrics.json, and one page, report.html.

The metrics are those of the stage `evaluate`; what that stage does not measure (robustness, speed,
a baseline that was not available yet) is measured here.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from datasets_scripts.corpora.corpus import Corpus
from datasets_scripts.files import write_text
from distill.config import RunConfig, TeacherConfig, load
from distill.evaluation.baselines import MECOMP, Mecomp
from distill.evaluation.evaluate import (
    STUDENT,
    evaluate_model,
    evaluation_key,
    load_teachers,
    model_digest,
)
from distill.evaluation.excerpts import EmbedFn, student_embedder
from distill.evaluation.people import people_figures
from distill.evaluation.robustness import robustness, select_excerpts
from distill.evaluation.speed import speed
from distill.reporting.card import model_paragraph, summary, training_data_summary
from distill.reporting.library_map import cached_track_parts, curves, map_data, select_tracks
from distill.reporting.page import render
from distill.teachers.base import Teacher
from distill.teachers.musicnn import MODELS
from distill.training.teacher_space import TeacherSpace
from student import Feelprint

N_ROBUSTNESS_CLIPS = 30
MAX_ROBUSTNESS_TRACK_S = 360  # MECOMP's model takes 1 GB for four minutes
MAX_MAP_TRACKS = 200
MAX_CLIPS_MB = 10.0  # of audio in the page


class ReportError(RuntimeError):
    """A run that cannot be reported on; the message says which stage is missing."""


def load_released(run: Path) -> Feelprint:
    """The released model of a run folder. Raises ReportError where the export is missing."""
    for name in ("model.safetensors", "feelprint.onnx", "config.yaml"):
        if not (run / name).is_file():
            raise ReportError(f"{run / name} is missing; run the stage export first")
    return Feelprint.from_pretrained(str(run)).eval()


def read_metrics(run: Path) -> dict[str, Any]:
    """metrics.json of a run folder; empty where there is none."""
    path = run / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def evaluation(
    run: Path,
    model: Feelprint,
    config: RunConfig,
    corpus: Corpus,
    teachers: list[Teacher],
    mecomp: Path,
) -> dict[str, Any]:
    """What the stage `evaluate` measured; measured now where that is missing or out of date."""
    measured = read_metrics(run).get("evaluate", {})
    if measured.get("key") == evaluation_key(model, config, corpus, mecomp):
        return measured
    path = run / "teacher_space.safetensors"
    space = TeacherSpace.load(path) if path.exists() else None
    return evaluate_model(model, config, corpus, teachers, space, mecomp)


def measure_robustness(
    model: Feelprint, config: RunConfig, corpus: Corpus, skipped: set[str], mecomp: Path | None
) -> tuple[dict[str, dict[str, Any]], int]:
    """Robustness of the model, an untrained one and ``mecomp``; and the number of clips."""
    durations_s = {
        track.id: track.duration_s
        for track in sorted(corpus.split(config.evaluate.split), key=lambda track: track.id)
        if track.id not in skipped and track.duration_s <= MAX_ROBUSTNESS_TRACK_S
    }
    clips = select_excerpts(durations_s, N_ROBUSTNESS_CLIPS, config.evaluate.excerpt_s)
    torch.manual_seed(0)
    embed_fns: dict[str, EmbedFn] = {
        STUDENT: student_embedder(model),
        "untrained": student_embedder(Feelprint(config.student)),
    }
    if mecomp is not None:
        embed_fns["mecomp"] = Mecomp(mecomp)
    return robustness(embed_fns, corpus, clips), len(clips)


def _teacher_summary(config: TeacherConfig, teacher: Teacher) -> dict[str, str]:
    of_hub = config.name != "musicnn" and config.path.count("/") == 1
    return {
        "name": teacher.name,
        "revision": teacher.revision,
        "licence": teacher.licence,
        "hub": config.path if of_hub and not Path(config.path).exists() else "",
    }


def measure(
    run: Path, split: str | None, mecomp: Path, people: Path | None = None
) -> dict[str, Any]:
    """Every figure of the run's released model and its baselines; writes only the cache.

    ``people`` is the corpus of `python -m datasets_scripts musifeast`; without it the comparison
    with people's ratings is skipped.

    Raises:
        ReportError: the run lacks its exported model.
        ConfigError: ``split`` was trained on.
    """
    model = load_released(run)
    config = load(run / "config.yaml")
    corpora = [Corpus(Path(path)) for path in config.corpora]
    if split:  # a split of train_splits is refused by the configuration itself
        evaluate_config = dataclasses.replace(config.evaluate, split=split)
        config = dataclasses.replace(config, evaluate=evaluate_config)
    teachers = load_teachers(config)
    evaluated = evaluation(run, model, config, corpora[0], teachers, mecomp)
    with_mecomp = mecomp if "mecomp" in evaluated["figures"] else None
    skipped = set(evaluated["skipped_tracks"])
    robust, n_clips = measure_robustness(model, config, corpora[0], skipped, with_mecomp)
    onnx = run / "feelprint.onnx"
    return evaluated | {
        "run": config.name,
        "config_hash": config.hash,
        "package": importlib.metadata.version("feelprint-training"),
        "licence": config.export.licence,
        "teachers": [
            _teacher_summary(teacher_config, teacher)
            for teacher_config, teacher in zip(config.teachers, teachers, strict=True)
        ],
        "init_from": MODELS[0] if config.distill.init_from else None,
        "metric_weight": config.finetune.metric_weight,
        "audio": training_data_summary(corpora, config.cache.train_splits),
        "train_splits": config.cache.train_splits,
        "people": people_figures(model, people, mecomp, Path(config.cache.folder), teachers)
        if people
        else None,
        "robustness": robust,
        "robustness_clips": n_clips,
        "bytes": onnx.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "speed": speed(onnx, with_mecomp),
    }


def report(
    run: Path,
    split: str | None = None,
    mecomp: Path = MECOMP,
    max_tracks: int = MAX_MAP_TRACKS,
    clips_mb: float = MAX_CLIPS_MB,
    people: Path | None = None,
) -> dict[str, Any]:
    """Measure the run and write report.json, report.html and the key `report` of metrics.json.

    The map shows at most ``max_tracks``; their clips take at most ``clips_mb`` megabytes before
    they are encoded as text. ``people`` as in `measure`. Returns the figures.

    Raises:
        ReportError: the run lacks its exported model.
        CorpusError, CacheError, TeacherError: the corpus, its excerpts or a teacher is missing or
            damaged.
    """
    measured = measure(run, split, mecomp, people)
    write_text(run / "report.json", json.dumps(measured, indent=2) + "\n")
    metrics = {**read_metrics(run), "report": measured}
    write_text(run / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    config, model = load(run / "config.yaml"), load_released(run)
    corpus = Corpus(Path(config.corpora[0]))
    tracks = select_tracks(corpus.tracks, measured["split"], max_tracks)
    folder = Path(config.cache.folder) / "songs"
    parts = cached_track_parts(model, corpus, tracks, folder, model_digest(model))
    window_s = model.config.window_length / model.config.sample_rate
    songs = map_data(parts, window_s, round(clips_mb * 1e6)) if parts else None
    text = f"{model_paragraph(measured)} {summary(measured)}"
    page = render(measured, text, songs, curves(run / "tensorboard"))
    write_text(run / "report.html", page)
    return measured
