"""The model card and its metadata, filled from the report in metrics.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from datasets_scripts.corpora.corpus import Corpus
from distill.evaluation.evaluate import STUDENT
from distill.reporting.templating import BASELINES, ENVIRONMENT, METRICS, name_of, ordered, percent
from distill.teachers.musicnn import NOTICE

TASK = "Music similarity"
TAGS = ["audio", "music", "music-similarity", "audio-embeddings", "knowledge-distillation", "onnx"]
NON_COMMERCIAL = re.compile(r"(?<![a-z])(nc|non-?commercial)(?![a-z])", re.IGNORECASE)
SOURCES = {
    "debian": (
        "music of free games in Debian: mostly instrumental (electronic, orchestral, rock, "
        "chiptune), mostly by hobbyists from Europe and North America"
    ),
    "styles": (
        "accompaniments in many styles, composed by rule and rendered with free SoundFonts: no "
        "vocals, no performers"
    ),
    "fma": "tracks of the Free Music Archive",
    "folder": "a private music collection",
}


class CardError(RuntimeError):
    """A run that lacks its report, or whose sources do not permit its licence."""


def training_data_summary(
    corpora: Sequence[Corpus], train_splits: Sequence[str]
) -> list[dict[str, Any]]:
    """Tracks, hours, albums, sources and licences of the training splits, per corpus."""
    summaries = []
    for corpus in corpora:
        tracks = [track for split in train_splits for track in corpus.split(split)]
        summaries.append(
            {
                "corpus": corpus.folder.name,
                "tracks": len(tracks),
                "hours": sum(t.duration_s for t in tracks) / 3600,
                "albums": len({t.album for t in tracks if t.album}),
                "sources": dict(Counter(t.source.split(":")[0] for t in tracks).most_common()),
                "licences": dict(Counter(t.licence or "not named" for t in tracks).most_common()),
            }
        )
    return summaries


def read_report(run: Path) -> dict[str, Any]:
    """The report's part of the run's metrics.json. Raises CardError where it is missing."""
    path = run / "metrics.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "report" not in known:
        raise CardError(f"{path} holds no report; make it with `python -m distill.reporting {run}`")
    return known["report"]


def check_licence(report: Mapping[str, Any]) -> None:
    """Check that the teachers' and the audio's licences permit the run's.

    Raises:
        CardError: a source is non-commercial, or its licence unknown, and the model's is not a
            non-commercial one.
    """
    licence = report["licence"]
    if NON_COMMERCIAL.search(licence):
        return
    terms = [(f"the teacher {t['name']}", t["licence"]) for t in report["teachers"]]
    for corpus in report["audio"]:
        terms += [
            (f"{count} tracks of the corpus {corpus['corpus']}", name)
            for name, count in corpus["licences"].items()
        ]
    bad = [f"{source} ({name})" for source, name in terms if NON_COMMERCIAL.search(name)]
    bad += [f"{source} (licence unknown)" for source, name in terms if name in ("", "not named")]
    if bad:
        raise CardError(
            f"the run's licence is {licence}, but it was made with {'; '.join(bad)}: set "
            "export.licence to a non-commercial one (cc-by-nc-4.0), or train without them"
        )


def summary(report: Mapping[str, Any]) -> str:
    """Two metrics of the model, its first teacher and MFCC, and the file's size."""
    figures = report["figures"]
    teachers = [row for row in ordered(figures) if row not in (STUDENT, *BASELINES)]
    others = [row for row in (*teachers[:1], "mfcc") if row in figures]

    def compared(metric: str) -> str:
        score = figures[STUDENT][metric]
        interval = f"95 % interval {percent(score['low'])} to {percent(score['high'])}"
        listed = [f"{name_of(row)} {percent(figures[row][metric]['value'])}" for row in others]
        return f"{percent(score['value'])} % ({'; '.join([interval, *listed])})"

    return (
        f"On {report['tracks']} tracks of {report['albums']} albums that the model was not trained "
        f"on, a track of the same album is nearer than one of another album in "
        f"{compared('triplet')} of triplets; the nearest of all excerpts is of the same track in "
        f"{compared('track_recall@1')}. The file has {report['bytes'] / 1e6:.2f} MB."
    )


def model_paragraph(report: Mapping[str, Any]) -> str:
    """What the model is: its network, its initialisation, its training and its metric."""
    training = (
        f"It is initialised from {report['init_from']}'s filters, resized to fewer mel bands, and "
        "trained by per-channel feature distillation of that network."
        if report["init_from"]
        else "It is initialised at random and trained on the projected embeddings of its teachers."
    )
    metric = (
        " A linear metric on top, fitted to the training albums, weights the axes of the embedding."
        if report["metric_weight"]
        else ""
    )
    return (
        "The model is a CNN that turns each window of a track's log-mel spectrogram into a token. "
        f"{training} Attention pooling over the tokens gives the embedding, which is trained to "
        f"match the teachers' embeddings of training clips.{metric}"
    )


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics as entries of the card's model-index."""
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name=TASK,
            dataset_type=report["dataset"],
            dataset_name=report["dataset"],
            dataset_split=report["split"],
            metric_type=metric,
            metric_name=f"{METRICS[metric][0]} (share)",
            metric_value=round(score["value"], 4),
        )
        for metric, score in report["figures"][STUDENT].items()
    ]


def eval_results_file(report: Mapping[str, Any]) -> str:
    """The same metrics as the text of `.eval_results/*.yaml`, one entry per metric."""
    entries = [
        EvalResultEntry(
            dataset_id=report["dataset"],
            task_id=metric,
            value=round(100 * score["value"], 2),
            notes=(
                f"{report['split']} split, 95 % interval {percent(score['low'])} to "
                f"{percent(score['high'])}, n = {score['n']}"
            ),
        )
        for metric, score in report["figures"][STUDENT].items()
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def model_card(run: Path, name: str, dataset: str) -> str:
    """README.md of the model ``name`` ("owner/model") made by ``run``, with the Hub's metadata.

    ``dataset`` is the corpus's own name on the Hub.

    Raises:
        CardError: the run has no report, or its sources forbid its licence.
    """
    report = read_report(run) | {"dataset": dataset}
    check_licence(report)
    bases = [teacher["hub"] for teacher in report["teachers"] if teacher.get("hub")]
    metadata = ModelCardData(
        model_name=name.split("/")[-1],
        license=report["licence"].lower(),
        library_name="feelprint",
        pipeline_tag="feature-extraction",
        tags=TAGS,
        base_model=bases or None,
        datasets=[dataset],
        metrics=[f"{name.split('/')[0]}/triplet_accuracy"],
        eval_results=eval_results(report),
    )
    return ENVIRONMENT.get_template("model_card.md").render(
        name=name,
        metadata=metadata.to_yaml(),
        model=model_paragraph(report),
        summary=summary(report),
        report=report,
        notice=NOTICE.strip(),
        SOURCES=SOURCES,
    )
