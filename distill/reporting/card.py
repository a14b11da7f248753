"""The model card and what it rests on: every figure from metrics.json, none by hand."""

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
from distill.reporting.page import FIGURES, OURS, name_of, ordered, percent
from distill.teachers.musicnn import NOTICE

TASK = "Music similarity"
TAGS = ["audio", "music", "music-similarity", "audio-embeddings", "knowledge-distillation", "onnx"]
NON_COMMERCIAL = re.compile(r"(?<![a-z])(nc|non-?commercial)(?![a-z])", re.IGNORECASE)
SOURCES = {
    "debian": (
        "soundtracks of free games in Debian: mostly instrumental (electronic, orchestral, rock, "
        "chiptune), mostly by hobbyists from Europe and North America"
    ),
    "styles": (
        "accompaniments in many styles, composed by rule and rendered with free SoundFonts: no "
        "voice, no performer"
    ),
    "fma": "tracks of the Free Music Archive",
    "folder": "a folder of somebody's own music",
}


class CardError(RuntimeError):
    """A run whose figures are not there, or whose sources forbid what was asked."""


def training_data_summary(
    corpora: Sequence[Corpus], learned: Sequence[str]
) -> list[dict[str, Any]]:
    """What trained the model, corpus by corpus: the tracks of the splits ``learned``, counted."""
    facts = []
    for corpus in corpora:
        tracks = [track for split in learned for track in corpus.split(split)]
        facts.append(
            {
                "corpus": corpus.folder.name,
                "tracks": len(tracks),
                "hours": sum(t.duration_s for t in tracks) / 3600,
                "albums": len({t.album for t in tracks if t.album}),
                "sources": dict(Counter(t.source.split(":")[0] for t in tracks).most_common()),
                "licences": dict(Counter(t.licence or "not named" for t in tracks).most_common()),
            }
        )
    return facts


def read_report(run: Path) -> dict[str, Any]:
    """The report's part of the run's metrics.json. Raises CardError where it is missing."""
    path = run / "metrics.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "report" not in known:
        raise CardError(f"{path} holds no report; make it with `python -m distill.reporting {run}`")
    return known["report"]


def check_licence(report: Mapping[str, Any]) -> None:
    """Refuse a licence that the teachers' or the audio's terms do not allow.

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
    bad = [f"{what} ({its})" for what, its in terms if NON_COMMERCIAL.search(its)]
    bad += [f"{what} (licence unknown)" for what, its in terms if its in ("", "not named")]
    if bad:
        raise CardError(
            f"the run's licence is {licence}, but it was made with {'; '.join(bad)}: set "
            "export.licence to a non-commercial one (cc-by-nc-4.0), or train without them"
        )


def summary(report: Mapping[str, Any]) -> str:
    """The run in a few sentences, for the page and the card."""
    rows = report["figures"]

    def beside(figure: str) -> str:
        others = [n for n in ordered(rows) if n != OURS and figure in rows[n]]
        named = ", ".join(f"{name_of(n)} {percent(rows[n][figure]['accuracy'])}" for n in others)
        value = rows[OURS][figure]
        low, high = percent(value["low"]), percent(value["high"])
        return f"{percent(value['accuracy'])} % [{low} to {high}] ({named})"

    return (
        f"On {report['tracks']} songs of {report['albums']} soundtracks that training never heard, "
        f"a song of the same soundtrack is nearer than another in {beside('triplet')}; the clip "
        f"nearest of all is of the same song in {beside('track_recall@1')}. "
        f"The file has {report['bytes'] / 1e6:.2f} MB."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _agreement(report: Mapping[str, Any]) -> str:
    rows = report["figures"]
    names = ordered(rows)
    made = []
    for figure in (f for f in FIGURES if f in rows[OURS]):
        cells = []
        for name in names:
            value = rows[name][figure]
            low, high = percent(value["low"]), percent(value["high"])
            cells.append(f"{percent(value['accuracy'])} <br>[{low}, {high}]")
        made.append([FIGURES[figure][0], *cells, percent(report["chance"][figure])])
    return _table(["%", *map(name_of, names), "chance"], made)


def _robustness(report: Mapping[str, Any]) -> str:
    robust = report["robustness"]
    if not robust:
        return "Not measured: no song of the split is long enough."
    names = ordered(robust)
    made = [
        [
            kind,
            *(
                f"{robust[n][kind]['cosine']:.4f}, {100 * robust[n][kind]['found']:.0f} %"
                for n in names
            ),
        ]
        for kind in robust[OURS]
    ]
    return _table(["", *map(name_of, names)], made)


def _audio(report: Mapping[str, Any]) -> str:
    lines = []
    for corpus in report["audio"]:
        what = "; ".join(SOURCES.get(s, s) for s in corpus["sources"])
        named = ", ".join(f"{name} ({count})" for name, count in corpus["licences"].items())
        lines.append(
            f"- `{corpus['corpus']}`: {corpus['tracks']} tracks, {corpus['hours']:.1f} hours, "
            f"{corpus['albums']} albums: {what}. Licences by track: {named}."
        )
    return "\n".join(lines)


def _people(report: Mapping[str, Any]) -> str:
    ceiling = report["human_ceiling"]
    if ceiling is not None:
        return f"People agree with each other in {percent(ceiling)} % of triplets: the ceiling."
    return (
        "No person has answered triplets of this audio yet. Every figure above is a proxy: that "
        "two songs share a soundtrack, that two clips share a song, or that the default teacher's "
        "own mood tags are alike (the student follows that network, so it is no independent "
        "judge). An untrained network of the same shape stands in every table, because the floor "
        "is not chance. What people's disagreement allows is not known here; of another model it "
        "is known that 9 of 12 human answers were right (95 % interval 47 to 91 %), which decides "
        "nothing."
    )


def _hub_line(report: Mapping[str, Any]) -> str:
    hub = report["hubness"][OURS]
    if hub is None:
        return "Too few songs to measure hubness."
    return (
        f"Neighbourhoods: skew of the 10-occurrence {hub['skew']:.2f}; "
        f"{percent(hub['orphans'])} % of songs are among nobody's ten nearest; the most frequent "
        f"neighbour is among the ten of {percent(hub['largest'])} % of songs; "
        f"{percent(hub['same_album'])} % of all neighbours are of the same soundtrack "
        f"({percent(hub['same_album_chance'])} % by chance)."
    )


def _speed_line(report: Mapping[str, Any]) -> str:
    speed = report["speed"]
    parts = []
    for runtime in ("onnxruntime", "tract"):
        ratio = speed.get(f"ratio/{runtime}")
        against = f", {ratio:.2f} of MECOMP's model" if ratio is not None else ""
        parts.append(f"{100 * speed[f'{OURS}/{runtime}']:.3f} % in {runtime}{against}")
    return (
        f"{report['bytes'] / 1e6:.2f} MB, {report['parameters']:,} parameters. Cost as a share of "
        f"the audio's length, one thread: {'; '.join(parts)}."
    )


EXAMPLE = '''\
"""How near two songs are: python example.py ONE.flac OTHER.mp3 (needs onnxruntime, librosa)."""

import sys
from pathlib import Path

import librosa
import onnxruntime

session = onnxruntime.InferenceSession(str(Path(__file__).parent / "feelprint.onnx"))


def embed(path):
    audio, _ = librosa.load(path, sr=22_050, mono=True)
    return session.run(["embedding"], {"audio": audio[None]})[0][0]


one, other = (embed(path) for path in sys.argv[1:3])
print(f"distance {((one - other) ** 2).sum() ** 0.5:.3f} (0: alike, 2: opposite)")
'''


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """The figures as the card's model-index lists them."""
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name=TASK,
            dataset_type=report["dataset"],
            dataset_name=report["dataset"],
            dataset_split=report["split"],
            metric_type=figure,
            metric_name=f"{FIGURES[figure][0]} (share)",
            metric_value=round(value["accuracy"], 4),
        )
        for figure, value in report["figures"][OURS].items()
    ]


def eval_results_file(report: Mapping[str, Any]) -> str:
    """The same figures as `.eval_results/*.yaml` has them, one entry a figure."""
    entries = [
        EvalResultEntry(
            dataset_id=report["dataset"],
            task_id=figure,
            value=round(100 * value["accuracy"], 2),
            notes=(
                f"{report['split']} split, 95 % interval {percent(value['low'])} to "
                f"{percent(value['high'])}, n = {value['n']}"
            ),
        )
        for figure, value in report["figures"][OURS].items()
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
    bases = [t["hub"] for t in report["teachers"] if t.get("hub")]
    data = ModelCardData(
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
    teachers = "; ".join(
        f"{t['name']} (revision {t['revision']}, {t['licence']})" for t in report["teachers"]
    )
    cosine = report["cosine_to_teacher"]
    learned = (
        f" Its cosine to what it learned of its teachers, on these songs, is {cosine:.3f}."
        if cosine
        else ""
    )
    started = (
        f" The filters of the model started as those of {report['started_as']}, with the notice: "
        f"{NOTICE.strip()}"
        if report["started_as"]
        else ""
    )
    tuned = (
        "\n\nHow to train was decided by figures on the validation soundtracks, of models that had "
        "not heard them; this one then learned from them too."
        if "validation" in report["train_splits"]
        else ""
    )
    absent = "".join(f"\n\nNot measured: {name_of(n)}." for n in report["absent"])
    return f"""---
{data.to_yaml()}
---

# {name.split("/")[-1]}

Any song -> 32 numbers that say how it feels. Songs whose numbers are near (Euclidean distance)
are songs to play next to each other.

{summary(report)}

## Use

```python
from student import Feelprint

model = Feelprint.from_pretrained("{name}").eval()
embedding = model(audio)  # (batch, samples), mono, 22,050 Hz -> (batch, 32)
```

Without PyTorch: `feelprint.onnx` in onnxruntime (`example.py`), or the command `feelprint --model
FOLDER similar SONG --in MUSIC` with this repository as the folder. Input `audio` (batch, samples),
output `embedding` (batch, 32). Any length is taken; zeros at the end change nothing.

## How good

The {report["split"]} split of `{dataset}`: {report["tracks"]} songs of {report["albums"]}
soundtracks, two clips of {report["excerpt_s"]:g} s of each. No song, soundtrack or composer of it
was in the training. Euclidean distance; 95 % intervals by bootstrap over soundtracks; all columns
on the same clips.{learned}

{_agreement(report)}{absent}

{_hub_line(report)}

## How steady

{report["robustness_clips"]} clips, altered: mean cosine to the clean clip, and how often the
altered clip's nearest clean clip is its own.

{_robustness(report)}

## Size and speed

{_speed_line(report)}

## What these figures are not

{_people(report)}

## Whose music, which teachers

Teachers: {teachers}.{started} Audio:

{_audio(report)}{tuned}

What such a corpus lacks, the model was never taught: song with words, most popular music, most of
the world's traditions. A listener whose music is of that kind should try it on it first, and may
train it on it: all that made this file is in the repository.

## Made by

`accelerate launch distill/run.py`, configuration `{report["run"]}`, hash `{report["config_hash"]}`;
figures by `python -m distill.reporting`, this card by `python -m distill.reporting.publish`.
"""
