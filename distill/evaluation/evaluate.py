"""Measures a released model, its teachers and its baselines on the excerpts of one split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_scripts.corpora.corpus import Corpus
from distill.config import RunConfig, TeacherConfig
from distill.evaluation import baselines
from distill.evaluation.baselines import BaselineError, Bliss, Mecomp
from distill.evaluation.excerpts import (
    EmbedFn,
    Excerpts,
    embed_all,
    excerpts,
    mfcc_embedder,
    musicnn_embedder,
    student_embedder,
    teacher_embedder,
)
from distill.evaluation.metrics import (
    MOOD_TAGS,
    Triplets,
    album_triplets,
    chance_levels,
    differences,
    hubness,
    interval,
    mood_triplets,
    per_item_scores,
    standardised,
)
from distill.features.recordings import Recording
from distill.features.shards import Shard, is_valid, write_shard
from distill.teachers.base import Teacher, TeacherError
from distill.teachers.musicnn import Musicnn
from distill.teachers.registry import load_teacher
from distill.training.batches import Targets
from distill.training.teacher_space import TeacherSpace
from student import Feelprint

log = logging.getLogger("feelprint")

STUDENT = "student"  # the row of the model that is evaluated


@dataclass
class EmbeddingTable:
    """The excerpts of a split, and the embeddings of each model: a row is (tracks, 2, dim)."""

    pairs: Excerpts
    excerpt_s: float
    cache: Path
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # what was not measured -> why

    def embed(self, name: str, version: str, make: Callable[[], EmbedFn]) -> np.ndarray:
        """The embeddings (tracks, 2, dim) by ``make()``, kept in the cache under ``version``."""
        key = json.dumps([name, version, self.excerpt_s, self.pairs.tracks])
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        path = self.cache / "vectors" / f"{name}-{digest}.safetensors"
        if not is_valid(path):
            vectors = embed_all(self.pairs, make(), name).astype(np.float32)
            write_shard(path, {"vectors": vectors}, {})
        return np.array(Shard(path).arrays["vectors"])


def model_digest(model: Feelprint) -> str:
    """Sixteen hexadecimal digits that change with any weight."""
    state = model.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits that change with the file; "none" where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "none"


def evaluation_key(
    model: Feelprint, config: RunConfig, corpus: Corpus, mecomp: Path | None = None
) -> str:
    """Sixteen hexadecimal digits that change with anything that `evaluate_model` depends on."""
    parts = [
        config.hash,
        model_digest(model),
        sorted(track.sha256 for track in corpus.tracks if track.split == config.evaluate.split),
        file_digest(mecomp or baselines.MECOMP),
        os.access(baselines.BLISS, os.X_OK),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def embed_models(
    model: Feelprint, config: RunConfig, corpus: Corpus, mecomp: Path
) -> EmbeddingTable:
    """The rows of the model and of the baselines; an absent baseline is named in `absent`."""
    cache, excerpt_s = Path(config.cache.folder), config.evaluate.excerpt_s
    pairs = excerpts(corpus, config.evaluate.split, excerpt_s, cache)
    table = EmbeddingTable(pairs, excerpt_s, cache)
    torch.manual_seed(0)
    untrained = Feelprint(config.student)
    for name, network in ((STUDENT, model), ("untrained", untrained)):
        version = json.dumps([dataclasses.asdict(network.config), model_digest(network)])
        table.rows[name] = table.embed(name, version, partial(student_embedder, network))
    table.rows["mfcc"] = standardised(table.embed("mfcc", "1", lambda: mfcc_embedder))
    for name, version, make in (
        ("mecomp", file_digest(mecomp), lambda: Mecomp(mecomp)),
        ("bliss", "0.13.0", lambda: Bliss(baselines.BLISS)),
    ):
        try:
            table.rows[name] = table.embed(name, version, make)
        except BaselineError as error:
            table.absent[name] = str(error)
            log.warning("without %s: %s", name, error)
    return table


def embed_teachers(table: EmbeddingTable, teachers: Sequence[Teacher]) -> np.ndarray:
    """Add the teachers' rows, standardised; returns them as they are, concatenated."""
    raw = []
    for teacher in teachers:
        version = json.dumps([teacher.key(), teacher.level_db], sort_keys=True)
        if type(teacher) is Musicnn:
            vectors = _musicnn_with_tags(table, teacher)[..., : teacher.dim]
        else:
            make = partial(teacher_embedder, teacher)
            vectors = table.embed(teacher.name.replace("/", "-"), version, make)
        raw.append(vectors)
        table.rows[teacher.name] = standardised(vectors)
    return np.concatenate(raw, axis=2)


def _musicnn_with_tags(table: EmbeddingTable, teacher: Musicnn) -> np.ndarray:
    version = json.dumps([teacher.key(), teacher.level_db], sort_keys=True)
    return table.embed("musicnn-tags", version, partial(musicnn_embedder, teacher))


def album_and_mood_triplets(
    table: EmbeddingTable, teachers: Sequence[Teacher]
) -> tuple[Triplets, Triplets | None]:
    """The triplets of the split: of albums, and of moods by the tags of MSD_musicnn.

    The moods are that network's, whatever the run's teachers are. Where its weights are missing,
    there are no mood triplets, and `absent` names the reason.
    """
    albums = table.pairs.albums
    musicnn = next((teacher for teacher in teachers if type(teacher) is Musicnn), None)
    try:
        musicnn = musicnn or Musicnn(TeacherConfig(name="musicnn"))
    except TeacherError as error:
        table.absent["mood"] = str(error)
        log.warning("without mood: %s", error)
        return album_triplets(albums), None
    tags = _musicnn_with_tags(table, musicnn)[..., musicnn.dim :]
    moods = tags.mean(axis=1)[:, list(MOOD_TAGS.values())]
    return album_triplets(albums), mood_triplets(moods, albums)


def evaluate_model(
    model: Feelprint,
    config: RunConfig,
    corpus: Corpus,
    teachers: Sequence[Teacher],
    space: TeacherSpace | None,
    mecomp: Path | None = None,
) -> dict[str, Any]:
    """Every metric of the released ``model``, its teachers and the baselines, as plain values.

    All rows are embeddings of the same excerpts, of the split that ``config`` names. ``teachers``
    are the run's, in its order; ``space`` is their reduced space; ``mecomp`` is MECOMP's ONNX file.

    Raises:
        CacheError: too few tracks are long enough, or no album has two.
        CorpusError: the corpus cannot be read.
    """
    resamples = config.evaluate.bootstrap
    table = embed_models(model, config, corpus, mecomp or baselines.MECOMP)
    raw = embed_teachers(table, teachers)
    albums = table.pairs.albums
    triplets, moods = album_and_mood_triplets(table, teachers)
    scores = {
        name: per_item_scores(vectors, albums, triplets, moods)
        for name, vectors in table.rows.items()
    }
    return {
        "key": evaluation_key(model, config, corpus, mecomp),
        "split": config.evaluate.split,
        "excerpt_s": table.excerpt_s,
        "tracks": len(table.pairs.tracks),
        "albums": len(table.pairs.album_names),
        "skipped_tracks": table.pairs.rejects,
        "triplets": len(triplets.anchor),
        "mood_triplets": len(moods.anchor) if moods else 0,
        "absent": table.absent,
        "chance": chance_levels(albums),
        "figures": {
            name: {metric: interval(of, resamples) for metric, of in row.items()}
            for name, row in scores.items()
        },
        "differences": differences(scores, STUDENT, resamples),
        "hubness": {name: hubness(vectors, albums) for name, vectors in table.rows.items()},
        "excerpt_cosine_to_teacher": excerpt_cosine_to_teacher(
            model, table.rows[STUDENT], raw, space
        ),
    }


def load_teachers(config: RunConfig) -> list[Teacher]:
    """The run's teachers, in its order. Raises TeacherError where one cannot be loaded."""
    return [load_teacher(teacher, config.student) for teacher in config.teachers]


def excerpt_cosine_to_teacher(
    model: Feelprint, embeddings: np.ndarray, teachers: np.ndarray, space: TeacherSpace | None
) -> float | None:
    """Mean cosine between the student's and the teachers' reduced embeddings of the excerpts.

    ``embeddings`` (tracks, 2, embedding_dim) and ``teachers`` (tracks, 2, sum of the teachers'
    dims). The linear metrics are undone first, since the student was trained without them. None
    without a ``space``.
    """
    if space is None:
        return None
    dim = embeddings.shape[-1]
    units = embeddings.reshape(-1, dim) @ np.linalg.inv(model.head.transform.numpy())
    targets = space(teachers.reshape(-1, teachers.shape[-1]), dim)
    return float((units * targets).sum(axis=1).mean())


@torch.inference_mode()
def cosine_to_teacher(
    model: Feelprint, recordings: Sequence[Recording], targets: Targets, clip_segments: int = 6
) -> dict[str, float]:
    """Mean cosine between the student's unit embedding and its target, over cached clips.

    One clip from the middle of every recording that is not an augmented copy. A gap between
    training and validation tracks shows how far the student overfits.
    """
    model = model.eval()
    cosines = []
    for recording in (r for r in recordings if r.augmentation == 0):
        length = min(clip_segments, recording.segments)
        start = (recording.segments - length) // 2
        mel, nonsilent_ratio = recording.clip(start, length)
        tokens = model.tokens(torch.from_numpy(mel).float()[None])
        mask = torch.from_numpy(nonsilent_ratio).float()[None]
        unit = model.head.unit_embedding(tokens, mask)[0][0].numpy()
        target = targets.space(recording.teacher_embedding(start, length)[None], len(unit))[0]
        cosines.append(float(unit @ target))
    return {"mean": float(np.mean(cosines)), "clips": len(cosines)}
