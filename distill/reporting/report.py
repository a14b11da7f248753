"""`python -m distill.reporting RUN`: what a run is worth, measured and beside its rivals.

Writes report.json (every figure) and report.html (one page that fetches nothing) into the run
folder, and the same figures into metrics.json, from which the model card is filled.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import tract

from datasets_scripts.audio import AudioError
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from distill.config import RunConfig, TeacherConfig, load
from distill.evaluation import figures
from distill.evaluation.baselines import MECOMP, Bliss, Mecomp, PeerError
from distill.evaluation.metrics import (
    EmbedFn,
    Excerpts,
    album_triplets,
    embed_all,
    excerpts,
    mfcc_embedder,
    standardised,
    student_embedder,
    teacher_embedder,
)
from distill.evaluation.robustness import SAMPLE_RATE, choose, robustness
from distill.features.cache import CacheError, Shard, is_valid, write_shard
from distill.reporting.card import summary, training_data_summary
from distill.reporting.library_map import atlas, curves, pick, songs
from distill.reporting.page import render
from distill.teachers.base import TeacherError
from distill.teachers.musicnn import MODELS, Musicnn
from distill.teachers.registry import load_teacher
from distill.training.teacher_space import TeacherSpace
from student import ConfigError, Feelprint, FeelprintConfig

log = logging.getLogger("feelprint")

ROBUSTNESS_CLIPS = 30
LONGEST_SONG_S = 360  # of the robustness clips: MECOMP's model takes 1 GB for four minutes
SONGS = 200  # on the map
CLIPS_MB = 10.0  # of sound inside the page
SPEED_S = 60.0  # audio of the timing
SPEED_RUNS = 7
OURS = "student"


class ReportError(RuntimeError):
    """A run that cannot be reported on; the message says which stage is missing."""


@dataclass
class Heard:
    """The excerpts of a split, and every representation of them."""

    found: Excerpts
    seconds: float
    cache: Path
    rows: dict[str, np.ndarray] = field(default_factory=dict)  # (tracks, 2, dim)
    absent: dict[str, str] = field(default_factory=dict)  # row -> why it is not there

    def vectors(self, name: str, version: str, make: Callable[[], EmbedFn]) -> np.ndarray:
        """What ``make()`` hears in every excerpt, kept in the cache under ``version``."""
        key = json.dumps([name, version, self.seconds, self.found.tracks])
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        path = self.cache / "vectors" / f"{name}-{digest}.safetensors"
        if not is_valid(path):
            made = embed_all(self.found, make(), name).astype(np.float32)
            write_shard(path, {"vectors": made}, {})
        return np.array(Shard(path).arrays["vectors"])


def load_released(run: Path) -> Feelprint:
    """The model as it is released, from the run folder. Raises ReportError where it is not."""
    for name in ("model.safetensors", "feelprint.onnx", "config.yaml"):
        if not (run / name).is_file():
            raise ReportError(f"{run / name} is missing; run the stage export first")
    return Feelprint.from_pretrained(str(run)).eval()


def musicnn_embedder(teacher: Musicnn, level_db: float) -> EmbedFn:
    """The default teacher's embedding and its 50 tags (as logits), side by side: (1556,)."""
    return teacher_embedder(_WithTags(teacher), level_db)  # type: ignore[arg-type]


class _WithTags:
    """musicnn with its tags appended, as a teacher."""

    def __init__(self, teacher: Musicnn):
        self.teacher, self.sample_rate, self.window = teacher, teacher.sample_rate, teacher.window

    @torch.inference_mode()
    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        pooled = self.teacher(windows)
        return torch.cat([pooled, self.teacher.network.tags(pooled).logit(eps=1e-6)], dim=1)


def hear(model: Feelprint, config: RunConfig, corpus: Corpus, mecomp: Path) -> Heard:
    """Every row of the table on the same excerpts; a peer that is not there is named so."""
    cache = Path(config.cache.folder)
    seconds = config.evaluate.excerpt_s
    heard = Heard(excerpts(corpus, config.evaluate.split, seconds, cache), seconds, cache)
    heard.rows[OURS] = embed_all(heard.found, student_embedder(model), OURS)
    torch.manual_seed(0)
    untrained = Feelprint(config.student)
    shape = json.dumps([config.student.__dict__, _digest(untrained)], default=str)
    heard.rows["untrained"] = heard.vectors("untrained", shape, lambda: student_embedder(untrained))
    heard.rows["mfcc"] = standardised(heard.vectors("mfcc", "1", lambda: mfcc_embedder))
    for name, version, make in (
        ("mecomp", _file_digest(mecomp), lambda: Mecomp(mecomp)),
        ("bliss", "0.13.0", lambda: Bliss()),
    ):
        try:
            heard.rows[name] = heard.vectors(name, version, make)
        except PeerError as error:
            heard.absent[name] = str(error)
            log.warning("without %s: %s", name, error)
    return heard


def embed_teachers(heard: Heard, config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Add the teachers' rows; returns what is learned of them, side by side, and the moods.

    The moods are the default teacher's own tags, whatever the run's teachers are:
    (tracks, excerpts, tags).
    """
    level_db = config.cache.teacher_level_db
    asked = list(config.teachers)
    if all(wanted.name != "musicnn" for wanted in asked):
        asked.append(TeacherConfig(name="musicnn"))
    made, moods = [], np.zeros(0)
    for wanted in asked:
        teacher = load_teacher(wanted, config.student)
        version = json.dumps([teacher.key(), level_db], sort_keys=True)
        if type(teacher) is Musicnn:
            hears = partial(musicnn_embedder, teacher, level_db)
            tagged = heard.vectors("musicnn-tags", version, hears)
            vectors, moods = tagged[..., : teacher.dim], tagged[..., teacher.dim :]
        else:
            hears = partial(teacher_embedder, teacher, level_db)
            vectors = heard.vectors(teacher.name.replace("/", "-"), version, hears)
        made.append(vectors)
        heard.rows[teacher.name] = standardised(vectors)
    return np.concatenate(made[: len(config.teachers)], axis=2), moods


def _teacher_facts(wanted: TeacherConfig, student: FeelprintConfig) -> dict[str, str]:
    teacher = load_teacher(wanted, student)
    hub = "" if Path(wanted.path).exists() or wanted.path.count("/") != 1 else wanted.path
    return {
        "name": teacher.name,
        "revision": teacher.revision,
        "licence": teacher.licence,
        "hub": hub if wanted.name != "musicnn" else "",
    }


def _digest(model: Feelprint) -> str:
    state = model.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "none"


def cosine_to_teacher(
    run: Path, model: Feelprint, embeddings: np.ndarray, teachers: np.ndarray
) -> float | None:
    """Mean cosine of the student's directions to the teachers' space as the run reduced it."""
    path = run / "teacher_space.safetensors"
    if not path.exists():
        return None
    space, dim = TeacherSpace.load(path), embeddings.shape[-1]
    directions = embeddings.reshape(-1, dim) @ np.linalg.inv(model.head.metric_transform.numpy())
    taught = space(teachers.reshape(-1, teachers.shape[-1]), dim)
    return float((directions * taught).sum(axis=1).mean())


def speed(onnx: Path, mecomp: Path | None) -> dict[str, Any]:
    """Cost as a share of the audio's duration, on one thread, in both runtimes and side by side.

    The runs of the models alternate, so that what else the machine does falls on all of them; the
    processor's time is counted, and the median taken.
    """
    audio = np.random.default_rng(0).standard_normal((1, round(SPEED_S * SAMPLE_RATE)))
    audio = (0.1 * audio).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name, path in ((OURS, onnx), ("mecomp", mecomp)):
        if path is not None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            feed = {session.get_inputs()[0].name: audio}
            runs[f"{name}/onnxruntime"] = partial(session.run, None, feed)
            plan = tract.onnx().load(str(path)).into_model().into_runnable()
            runs[f"{name}/tract"] = partial(plan.run, [audio])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(SPEED_RUNS):
        for name, once in runs.items():
            start = time.process_time()
            once()
            times[name].append((time.process_time() - start) / SPEED_S)
    figures_: dict[str, Any] = {name: float(np.median(values)) for name, values in times.items()}
    for runtime in ("onnxruntime", "tract"):
        if mecomp is not None:
            ratio = figures_[f"{OURS}/{runtime}"] / figures_[f"mecomp/{runtime}"]
            figures_[f"ratio/{runtime}"] = ratio
    return figures_ | {"audio_s": SPEED_S, "threads": 1, "runs": SPEED_RUNS}


def measure(run: Path, split: str | None, mecomp: Path) -> dict[str, Any]:
    """Every figure of the run's released model and its rivals; nothing is written but the cache."""
    model = load_released(run)
    config = load(run / "config.yaml")
    corpus = Corpus(Path(config.corpora[0]))
    if split:  # refused, like a configuration's own, where it was learned
        wanted = dataclasses.replace(config.evaluate, split=split)
        config = dataclasses.replace(config, evaluate=wanted)
    resamples = config.evaluate.bootstrap
    heard = hear(model, config, corpus, mecomp)
    raw, moods = embed_teachers(heard, config)
    albums = heard.found.albums
    triplets = album_triplets(albums)
    picked = moods.mean(axis=1)[:, list(figures.MOODS.values())]
    mood_triplets = figures.mood_triplets(picked, albums)
    items = {
        name: figures.all_items(vectors, albums, triplets, mood_triplets)
        for name, vectors in heard.rows.items()
    }
    table = {
        name: {figure: figures.interval(of, resamples) for figure, of in row.items()}
        for name, row in items.items()
    }
    hubs = {name: figures.hubness(vectors, albums) for name, vectors in heard.rows.items()}
    known = {t.id: t for t in corpus.tracks}
    songs = {t: known[t].duration_s for t in heard.found.tracks}
    short = {t: length_s for t, length_s in songs.items() if length_s <= LONGEST_SONG_S}
    clips = choose(short, ROBUSTNESS_CLIPS, heard.seconds)
    rivals: dict[str, EmbedFn] = {OURS: student_embedder(model)}
    torch.manual_seed(0)
    rivals["untrained"] = student_embedder(Feelprint(config.student))
    if "mecomp" in heard.rows:
        rivals["mecomp"] = Mecomp(mecomp)
    robust = robustness(rivals, corpus, clips)
    onnx = run / "feelprint.onnx"
    return {
        "run": config.name,
        "licence": config.export.licence,
        "teachers": [_teacher_facts(wanted, config.student) for wanted in config.teachers],
        "started_as": MODELS[0] if config.distill.init_from else None,
        "audio": training_data_summary(
            [Corpus(Path(path)) for path in config.corpora], config.cache.train_splits
        ),
        "train_splits": config.cache.train_splits,
        "config_hash": config.hash,
        "split": config.evaluate.split,
        "excerpt_s": heard.seconds,
        "tracks": len(heard.found.tracks),
        "albums": len(heard.found.album_names),
        "triplets": len(triplets.anchor),
        "mood_triplets": len(mood_triplets.anchor),
        "absent": heard.absent,
        "chance": figures.chance_levels(albums),
        "human_ceiling": None,  # nobody has answered triplets of this audio
        "figures": table,
        "differences": figures.differences(items, OURS, resamples),
        "hubness": hubs,
        "robustness": robust,
        "robustness_clips": len(clips),
        "cosine_to_teacher": cosine_to_teacher(run, model, heard.rows[OURS], raw),
        "bytes": onnx.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "speed": speed(onnx, mecomp if "mecomp" in heard.rows else None),
    }


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def report(
    run: Path,
    split: str | None = None,
    mecomp: Path = MECOMP,
    most_songs: int = SONGS,
    clips_mb: float = CLIPS_MB,
) -> dict[str, Any]:
    """Measure the run and write report.json, report.html and metrics.json's part of it.

    The map shows at most ``most_songs``; their clips take at most ``clips_mb`` megabytes before
    they are encoded as text. Returns the figures.

    Raises:
        ReportError: the run lacks its exported model.
        CorpusError, CacheError, TeacherError: the corpus, its excerpts or the teacher are amiss.
    """
    measured = measure(run, split, mecomp)
    write_text(run / "report.json", json.dumps(measured, indent=2) + "\n")
    metrics = run / "metrics.json"
    known = json.loads(metrics.read_text()) if metrics.exists() else {}
    write_text(metrics, json.dumps({**known, "report": measured}, indent=2) + "\n")
    config, model = load(run / "config.yaml"), load_released(run)
    corpus = Corpus(Path(config.corpora[0]))
    tracks = pick(corpus.tracks, measured["split"], most_songs)
    heard = songs(model, corpus, tracks, Path(config.cache.folder) / "songs", _digest(model))
    window_s = model.config.window_length / model.config.sample_rate
    shown = atlas(heard, window_s, round(clips_mb * 1e6))
    page = render(measured, summary(measured), shown, curves(run / "tensorboard"))
    write_text(run / "report.html", page)
    return measured


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.reporting", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--split", choices=("validation", "test"), help="default: the run's own")
    parser.add_argument(
        "--mecomp", type=Path, default=MECOMP, help=f"MECOMP's ONNX file (default: {MECOMP})"
    )
    parser.add_argument("--songs", type=int, default=SONGS, help="songs on the map, at most")
    parser.add_argument(
        "--clips-mb", type=float, default=CLIPS_MB, help="sound in the page, at most; 0: none"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        measured = report(
            options.run, options.split, options.mecomp, options.songs, options.clips_mb
        )
    except (AudioError, CacheError, ConfigError, CorpusError, ReportError, TeacherError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, row in measured["figures"].items():
        print(name, *(f"{figure} {value['accuracy']:.3f}" for figure, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
