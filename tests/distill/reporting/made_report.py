"""A run folder with a report, whose figures are those of random vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.evaluation import metrics
from student import Feelprint, FeelprintConfig

TINY = FeelprintConfig(filters=((4, 9, 4, 2),), layers=(8,), dim=16, queries=2, n_mels=16)


def made_people() -> dict[str, Any]:
    """Figures with the keys of `distill.evaluation.people.people_figures`."""

    def scores(shift: float) -> dict[str, Any]:
        values = {"feel": 0.7, "valence_r": 0.5, "arousal_r": 0.8, "genre@1": 0.3, "genre@5": 0.25}
        return {
            metric: {
                "value": v + shift,
                "low": v + shift - 0.05,
                "high": v + shift + 0.05,
                "n": 356,
            }
            for metric, v in values.items()
        }

    ceiling = {m: s for m, s in scores(0.15).items() if not m.startswith("genre")}
    return {
        "clips": 356,
        "artists": 351,
        "genres": 17,
        "cross_validated": True,
        "rows": {"student": scores(0.0123), "untrained": scores(-0.1), "MSD_musicnn": scores(0.02)},
        "absent": {"bliss": "no bliss program"},
        "chance": {
            "feel": 0.5,
            "valence_r": 0.0,
            "arousal_r": 0.0,
            "genre@1": 0.056,
            "genre@5": 0.056,
        },
        "ceiling": ceiling,
    }


def made_report(**changes: Any) -> dict[str, Any]:
    """The report of 48 random tracks on six albums, with the keys of `distill.reporting.report`."""
    rng = np.random.default_rng(0)
    albums = np.arange(48) % 6
    centres = rng.standard_normal((6, 8))[albums][:, None]
    rows = {
        name: centres + noise * rng.standard_normal((48, 2, 8))
        for name, noise in (("student", 0.8), ("untrained", 2.0), ("mecomp", 1.5), ("musicnn", 0.6))
    }
    rows["MSD_musicnn"] = rows.pop("musicnn")
    triplets = metrics.album_triplets(albums)
    moods = metrics.mood_triplets(rng.standard_normal((48, 3)), albums)
    scores = {n: metrics.per_item_scores(v, albums, triplets, moods) for n, v in rows.items()}
    steady = {
        "mean_cosine": 0.99,
        "min_cosine": 0.9,
        "self_retrieval": 1.0,
        "max_abs_change": 0.01,
        "n": 30,
    }
    report = {
        "run": "made",
        "licence": "MIT",
        "init_from": "MSD_musicnn",
        "metric_weight": 4.0,
        "teachers": [{"name": "MSD_musicnn", "revision": "f38a", "licence": "ISC", "hub": ""}],
        "audio": [
            {
                "corpus": "free",
                "tracks": 36,
                "hours": 3.5,
                "albums": 30,
                "sources": {"debian": 36},
                "licences": {"GPL-2+": 30, "CC-BY-SA-3.0": 6},
            }
        ],
        "train_splits": ["train"],
        "config_hash": "0123456789abcdef",
        "package": "0.12.0",
        "split": "test",
        "excerpt_s": 18.0,
        "tracks": 48,
        "albums": 6,
        "triplets": len(triplets.anchor),
        "mood_triplets": len(moods.anchor),
        "absent": {"bliss": "no bliss program"},
        "chance": metrics.chance_levels(albums),
        "people": made_people(),
        "figures": {
            n: {m: metrics.interval(of, 50) for m, of in row.items()} for n, row in scores.items()
        },
        "differences": metrics.differences(scores, "student", 50),
        "hubness": {n: metrics.hubness(v, albums) for n, v in rows.items()},
        "robustness": {n: {"gain +12 dB": steady} for n in ("student", "mecomp")},
        "robustness_clips": 30,
        "excerpt_cosine_to_teacher": 0.81,
        "bytes": 1_600_000,
        "parameters": 500_000,
        "speed": {"student/onnxruntime": 0.0002, "student/tract": 0.0003},
    }
    return report | changes


def made_run(folder: Path, **changes: Any) -> Path:
    """A run folder with an untrained tiny model; its ONNX file is a stand-in."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    Feelprint(TINY).eval().save(str(folder))
    (folder / "feelprint.onnx").write_bytes(b"onnx of the run")
    report = json.dumps({"report": made_report(**changes)})
    (folder / "metrics.json").write_text(report)
    return folder
