"""`python -m distill.personal --answers answers.parquet`: a model with one listener's ear.

The head of the released model is fitted to the answers by LoRA, judged on answers that it has not
seen, and exported only where it is better than the base beyond chance. Random rounds of the survey
only judge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.stats import binom

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.triplets.table import TEST_STREAM, for_training, read_triplets
from distill.export import ExportError, Origin, check_export, export_onnx
from distill.personal.answers import (
    BASE,
    Answers,
    AnswersError,
    FitConfig,
    Songs,
    base_model,
    embed,
    fit,
    folds,
    listen,
    right,
    to_answers,
    with_head,
)
from student import Feelprint
from student.model import AttentionPool
from survey.clips import open_corpus
from survey.config import SurveyError

FOLDS = 5
CHANCE = 0.05  # a gain as large by luck must be rarer than this
CORPUS = Path("data/corpora/demo")  # the one that `make survey` asks about
SURVEY = Path("data/survey")  # where the survey keeps the corpus that it made of a folder of music


class NotBetter(RuntimeError):
    """A personal model that is not better than the base beyond chance."""


@dataclass(frozen=True)
class Verdict:
    """What was found on answers that the fit had not seen.

    base, personal: shares right. gained, lost: answers that only the personal, or only the base
    model got right. p: how likely at least so many of these are gains if neither is better (sign
    test, one-sided).
    """

    answers: int
    base: float
    personal: float
    gained: int
    lost: int
    p: float

    @property
    def better(self) -> bool:
        """Whether the gain is beyond chance."""
        return self.p < CHANCE

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.answers} answers: {100 * self.personal:.0f} % right, the base "
            f"{100 * self.base:.0f} % ({self.gained} gained, {self.lost} lost, p = {self.p:.3f})"
        )


def same_question(answers: Answers) -> np.ndarray:
    """A number for each answer; the same three songs have the same: (n,)."""
    return np.unique(np.sort(answers.rows, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def judge(
    model: Feelprint,
    songs: Songs,
    told: Answers,
    random: Answers | None,
    config: FitConfig,
    seed: int = 0,
) -> tuple[AttentionPool, Verdict]:
    """A head fitted to ``told``, and what such a head is worth.

    Five-fold: each answer of ``told`` is judged by a head that was fitted without its question;
    those to ``random`` rounds by the one that is returned. Raises AnswersError for fewer than
    five different questions.
    """
    fold = folds(same_question(told), FOLDS, seed)
    base = right(embed(model.head, songs), told)
    personal = np.zeros(len(told))
    for number in range(FOLDS):
        held = fold == number
        head = fit(model.head, songs, told.part(~held), config, seed=seed)
        personal[held] = right(embed(head, songs), told.part(held))
    head = fit(model.head, songs, told, config, seed=seed)
    if random is not None:
        base = np.append(base, right(embed(model.head, songs), random))
        personal = np.append(personal, right(embed(head, songs), random))
    gained = int(((personal == 1) & (base == 0)).sum())
    lost = int(((personal == 0) & (base == 1)).sum())
    p = float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0
    return head, Verdict(len(base), float(base.mean()), float(personal.mean()), gained, lost, p)


def origin_of(onnx_file: Path, config: FitConfig, answers: bytes) -> Origin:
    """What the personal file says of itself: the base's words, its hash changed by the answers."""
    metadata = {m.key: m.value for m in onnx.load(onnx_file).metadata_props}
    text = json.dumps([metadata["feelprint.config_hash"], asdict(config)])
    digest = hashlib.sha256(text.encode() + hashlib.sha256(answers).digest()).hexdigest()[:16]
    return Origin(
        f"{metadata['feelprint.version']}+personal",
        digest,
        metadata["feelprint.teacher"],
        metadata["feelprint.licence"],
    )


def personalize(
    base: Path,
    table: Path,
    corpora: Sequence[Corpus],
    out: Path,
    config: FitConfig,
) -> dict[str, Any]:
    """Fit ``base`` to the answers in ``table`` (Parquet), judge, and write the model and what was
    found of it (personal.json) into ``out``.

    Raises:
        AnswersError: no model in ``base``, too few answers, or a song that cannot be heard.
        CorpusError: no table of answers.
        NotBetter: the gain is not beyond chance; nothing is written.
        ExportError: the file breaks the model's contract.
    """
    model = base_model(base)
    triplets = read_triplets(table)
    names = sorted({song for t in triplets if t.odd is not None for song in t.ids})
    songs = listen(model, corpora, names)
    told = to_answers(for_training(triplets), names)
    random = [t for t in triplets if t.source == TEST_STREAM and t.odd is not None]
    head, verdict = judge(model, songs, told, to_answers(random, names) if random else None, config)
    if not verdict.better:
        raise NotBetter(
            f"no personal model was written, since it is not better beyond chance: {verdict}. "
            "More answers may change that"
        )
    personal = with_head(model, head)
    out.mkdir(parents=True, exist_ok=True)
    origin = origin_of(base / "feelprint.onnx", config, table.read_bytes())
    export_onnx(personal, out / "feelprint.onnx", origin)
    checks = check_export(personal, out / "feelprint.onnx")
    personal.save(str(out))
    made = {"verdict": asdict(verdict), "fit": asdict(config), "export": checks}
    (out / "personal.json").write_text(json.dumps(made, indent=2) + "\n")
    print(verdict)
    return made


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal", description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="a triplet table (Parquet)")
    parser.add_argument(
        "--corpus", type=Path, action="append", help=f"what the survey asked about ({CORPUS})"
    )
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    parser.add_argument("--out", type=Path, default=Path("runs/personal"))
    parser.add_argument(
        "--prior", type=float, default=FitConfig.prior, help="how strongly the base holds"
    )
    options = parser.parse_args(arguments)
    try:
        corpora = [open_corpus(path, SURVEY) for path in options.corpus or [CORPUS]]
        personalize(
            options.base, options.answers, corpora, options.out, FitConfig(prior=options.prior)
        )
    except (AnswersError, CorpusError, ExportError, NotBetter, SurveyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out / 'feelprint.onnx'} is the model with this listener's ear")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
