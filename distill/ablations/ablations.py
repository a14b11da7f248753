"""`python -m distill.ablations [NAME ...]`: variants of the student, compared on one small budget.

Each row is a run of configs/ablations.yaml with one change. Its figures, on the validation albums,
go to runs/ablations/NAME.json; a row that has this file is not run again. The command prints the
table of docs/log/2026-11-26-small-budget-ablations.md. The heads and front ends that were rejected
are defined in this module.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn
from tqdm import tqdm

from datasets_scripts.audio import decode
from distill.config import CacheConfig, RunConfig, TeacherConfig, load
from distill.evaluation.baselines import Bliss
from distill.evaluation.evaluate import cosine_to_teacher
from distill.evaluation.excerpts import (
    SAMPLE_RATE,
    EmbedFn,
    embed_all,
    excerpts,
    student_embedder,
)
from distill.evaluation.metrics import album_triplets, interval, per_item_scores
from distill.features.cache import MelExtractor
from distill.run import MakeMelExtractor, MakeStudent, Run, open_run
from student import Feelprint, FeelprintConfig
from student.frontend import MASK_EPS
from student.model import Pool, WindowCNN

FOLDER = Path("runs/ablations")
COLUMNS = ("triplet", "odd_one_out", "track_recall@1", "album_precision@1")


# --- heads -----------------------------------------------------------------------------------


class MeanPool(Pool):
    """The mean of the tokens (batch, windows, dim) that are not silent, and one linear layer."""

    def __init__(self, config: FeelprintConfig):
        super().__init__(config.embedding_dim)
        self.out = nn.Linear(config.dim, config.embedding_dim)

    def unit_embedding(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit embedding (batch, embedding_dim) and the weights (batch, 1, windows)."""
        weights = window_weight / window_weight.sum(dim=1, keepdim=True).clamp(min=MASK_EPS)
        pooled = (weights.unsqueeze(1) @ tokens).squeeze(1)
        return F.normalize(self.out(pooled), dim=1), weights.unsqueeze(1)


class GruPool(MeanPool):
    """The mean of a GRU's states over the windows that are not silent, as in MECOMP's model."""

    def __init__(self, config: FeelprintConfig):
        super().__init__(config)
        self.gru = nn.GRU(config.dim, config.dim, batch_first=True)

    def unit_embedding(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit embedding (batch, embedding_dim) and the weights (batch, 1, windows)."""
        return super().unit_embedding(self.gru(tokens)[0], window_weight)


class MeanStudent(Feelprint):
    """The student with `MeanPool` as its head."""

    head_class = MeanPool


class GruStudent(Feelprint):
    """The student with `GruPool` as its head."""

    head_class = GruPool


# --- front ends ------------------------------------------------------------------------------


class Wave(nn.Module):
    """Windows (batch, samples) -> the waveform at unit RMS, (batch, hop_length, window_frames)."""

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.config = config

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the waveform, and the ratio of samples that are not silent, 0 or 1, (batch,)."""
        rms = windows.square().mean(dim=1, keepdim=True).sqrt()
        wave = windows / rms.clamp(min=1e-9)
        shape = (-1, self.config.window_frames, self.config.hop_length)
        return wave.view(shape).transpose(1, 2), (rms > 0).float().view(-1)


class WaveExtractor(MelExtractor):
    """`Wave` instead of the log-mel."""

    name = "wave"

    def __init__(self, student: FeelprintConfig, cache: CacheConfig):
        super().__init__(student, cache)
        self.front_end = Wave(student)  # type: ignore[assignment]


class WaveCNN(nn.Module):
    """Learned filters with the log-mel's number, length and hop, then the same window CNN."""

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        overlap = (config.n_fft - config.hop_length) // 2
        self.filters = nn.Conv1d(1, config.n_mels, config.n_fft, config.hop_length, overlap)
        self.norm = nn.BatchNorm1d(config.n_mels)
        self.cnn = WindowCNN(config)

    def forward(self, wave: Tensor) -> Tensor:
        """Wave (windows, hop_length, frames) -> tokens (windows, dim)."""
        filtered = self.filters(wave.transpose(1, 2).flatten(1).unsqueeze(1))
        return self.cnn(self.norm(torch.log(filtered.float().square() + 1e-5)))


class WaveStudent(Feelprint):
    """The student with learned filters instead of the log-mel."""

    front_end_class = Wave
    cnn_class = WaveCNN


# --- other ways to use a trained model -------------------------------------------------------


def sliding(model: Feelprint) -> EmbedFn:
    """Overlapping windows: the tokens of the audio, and of the audio from half a window on."""
    model = model.eval()

    @torch.inference_mode()
    def embed_fn(audio: np.ndarray) -> np.ndarray:
        shifted = audio[model.config.window_length // 2 :]
        encoded = [model.encode(torch.from_numpy(a.copy())[None]) for a in (audio, shifted)]
        tokens, window_weight = (torch.cat(parts, dim=1) for parts in zip(*encoded, strict=True))
        return model.pool(tokens, window_weight)[0][0].numpy()

    return embed_fn


def in_f16(model: Feelprint) -> EmbedFn:
    """Weights rounded to float16, as in a release."""
    return student_embedder(model.eval().fold_for_inference())


def in_int8(model: Feelprint) -> EmbedFn:
    """Weights rounded to 255 levels of the largest weight of their output channel."""
    fused = model.eval().fold_for_inference()
    with torch.no_grad():
        for weight in fused.parameters():
            if weight.ndim > 1:
                step = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / 127
                weight.copy_(torch.round(weight / step.clamp(min=1e-12)) * step)
    return student_embedder(fused)


# --- the rows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """The changes of a row. A row that changes only `embed_fn` uses the base's model."""

    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # section -> key -> value
    embed_fn: Callable[[Feelprint], EmbedFn] = student_embedder
    make_student: MakeStudent = Feelprint
    make_mel_extractor: MakeMelExtractor = MelExtractor


MUSICNN = TeacherConfig(path="data/teacher")
RANDOM_INIT = {"distill": {"init_from": ""}}
NO_TEACHER = {
    "distill": {"init_from": "", "steps": 1},
    "finetune": {"teacher": 0.0, "relational": 0.0, "same_track": 1.0},
}
ROWS: dict[str, Row] = {
    "base": Row("log-mel, windows of 1.02 s, attention pooling, 32 dimensions, f32"),
    "sliding": Row("windows that overlap by half", embed_fn=sliding),
    "f16": Row("weights in f16", embed_fn=in_f16),
    "int8": Row("weights in int8", embed_fn=in_int8),
    "window-0.5": Row(
        "windows of 0.51 s", {"student": {"window_frames": 16}, "cache": {"segment_windows": 6}}
    ),
    "window-1.5": Row(
        "windows of 1.53 s", {"student": {"window_frames": 48}, "cache": {"segment_windows": 2}}
    ),
    "window-3": Row(
        "windows of 3.07 s", {"student": {"window_frames": 96}, "cache": {"segment_windows": 1}}
    ),
    "floor-50": Row("a floor of -50 dB of the window's mean", {"student": {"floor": 1e-5}}),
    "frozen": Row("the CNN as distillation left it", {"finetune": {"cnn_learning_rate": 0.0}}),
    "mean": Row("mean of the tokens", make_student=MeanStudent),
    "gru": Row("GRU over the tokens", make_student=GruStudent),
    "wave": Row(
        "raw wave, learned filters",
        RANDOM_INIT,
        make_student=WaveStudent,
        make_mel_extractor=WaveExtractor,
    ),
    "dim-16": Row("16 dimensions", {"student": {"embedding_dim": 16}}),
    "dim-64": Row("64 dimensions", {"student": {"embedding_dim": 64}}),
    "no-teacher": Row("no teacher: two clips of a track against the rest", NO_TEACHER),
    "random-init": Row("the same shape, randomly initialised", RANDOM_INIT),
    "no-relational": Row("without the relational term", {"finetune": {"relational": 0.0}}),
    "no-same-track": Row("without the same-track term", {"finetune": {"same_track": 0.0}}),
    "same-track-0.1": Row("same-track term of 0.1", {"finetune": {"same_track": 0.1}}),
    "same-track-0.3": Row("same-track term of 0.3", {"finetune": {"same_track": 0.3}}),
    "relational-1": Row("relational term of 1", {"finetune": {"relational": 1.0}}),
    "spectrum": Row(
        "the average spectrum beside the teacher, a weight of 0.25",
        {"teachers": (MUSICNN, TeacherConfig("spectrum", weight=0.25))},
    ),
    "two-teachers": Row(
        "MSD_musicnn and MTT_musicnn",
        {"teachers": (MUSICNN, TeacherConfig("musicnn-mtt", "data/teacher"))},
    ),
}
HAND_MADE = "hand-made"


def varied(config: RunConfig, name: str, changes: Mapping[str, Any]) -> RunConfig:
    """``config`` with another name and some keys changed."""
    changed = {
        section: dataclasses.replace(getattr(config, section), **keys)
        if isinstance(keys, Mapping)
        else keys
        for section, keys in changes.items()
    }
    return dataclasses.replace(config, name=name, **changed)


def measure(run: Run, embed_fn: EmbedFn) -> dict[str, Any]:
    """The four figures on the excerpts of the configuration's split."""
    settings = run.config.evaluate
    cache = Path(run.config.cache.folder)
    pairs = excerpts(run.corpora[0], settings.split, settings.excerpt_s, cache)
    vectors = embed_all(pairs, embed_fn, "excerpts")
    triplets = album_triplets(pairs.albums)
    scores = per_item_scores(vectors, pairs.albums, triplets)
    figures = {metric: interval(of, settings.bootstrap) for metric, of in scores.items()}
    return figures | {"tracks": len(pairs.tracks), "albums": len(pairs.album_names)}


def trained(config: RunConfig, row: Row) -> tuple[Run, Feelprint]:
    """The run of ``config`` with the row's student and front end, and its trained model."""
    run = open_run(config, FOLDER, row.make_student, row.make_mel_extractor)
    for stage in (run.cache, run.distill, run.finetune):
        stage()
    return run, run.student("finetune")


def compare(name: str, config: RunConfig) -> dict[str, Any]:
    """Train one row if it needs it, and measure it."""
    row = ROWS[name]
    started = time.monotonic()
    run_name = name if row.embed_fn is student_embedder else "base"
    run, model = trained(varied(config, run_name, row.changes), row)
    figures = measure(run, row.embed_fn(model))
    held_out = run.cached_recordings("validation")
    cosine = cosine_to_teacher(model, held_out, run.targets)["mean"] if held_out else None
    run.accelerator.end_training()
    return figures | {
        "what": row.what,
        "cosine": cosine,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def hand_made(config: RunConfig) -> dict[str, Any]:
    """bliss's 23 features of an excerpt, and a small network from them to the teacher's space."""
    run = open_run(config, FOLDER)
    run.cache()
    bliss, length = Bliss(), round(run.config.evaluate.excerpt_s * SAMPLE_RATE)
    corpus = run.corpora[0]
    clips, targets = [], []
    unaltered = [recording for recording in run.train_recordings if recording.augmentation == 0]
    for recording in tqdm(unaltered, desc="bliss", unit="track"):
        audio = decode(corpus.audio_bytes(recording.track.id), SAMPLE_RATE)
        segment = run.mel_extractor.segment
        segments = length // segment
        for start_segment in range(0, recording.segments - segments + 1, 4 * segments):
            at = start_segment * segment
            clips.append(bliss(audio[at : at + length]))
            targets.append(recording.teacher_embedding(start_segment, segments))
    features = np.stack(clips)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    network = MLPRegressor(hidden_layer_sizes=(256, 256), early_stopping=True, random_state=0)
    dim = config.student.embedding_dim
    network.fit((features - mean) / deviation, run.targets.space(np.stack(targets), dim))

    def embed_fn(audio: np.ndarray) -> np.ndarray:
        predicted = network.predict((bliss(audio)[None] - mean) / deviation)[0]
        return predicted / np.linalg.norm(predicted)

    figures = measure(run, embed_fn)
    bliss.close()
    return figures | {"what": "23 hand-made features (bliss) and a small network", "cosine": None}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as Markdown, each figure with its 95 % interval."""
    lines = [
        f"| `python -m distill.ablations` | what | {' | '.join(COLUMNS)} | cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[key]['value']:.3f} [{row[key]['low']:.2f}, {row[key]['high']:.2f}]"
            for key in COLUMNS
        ]
        cosine = "" if row["cosine"] is None else f"{row['cosine']:.3f}"
        lines.append(f"| `{row['name']}` | {row['what']} | {' | '.join(cells)} | {cosine} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the named rows that have no result yet, and print the table of all named rows."""
    known = [*ROWS, HAND_MADE]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; none: all of them")
    parser.add_argument("--config", type=Path, default=Path("configs/ablations.yaml"))
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; known: {', '.join(known)}")
    config = load(options.config)
    rows = []
    for name in options.names or known:
        path = FOLDER / f"{name}.json"
        if not path.exists():
            figures = hand_made(config) if name == HAND_MADE else compare(name, config)
            path.write_text(json.dumps({"name": name, **figures}, indent=2) + "\n")
        rows.append(json.loads(path.read_text()))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
