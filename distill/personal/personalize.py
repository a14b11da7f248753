"""`python -m distill.personal --answers answers.parquet`: a model fitted to one listener's answers.

The head of the released model is fitted to the answers by LoRA, evaluated on answers that it was
not fitted to, and exported only where it is significantly better than the base. Random rounds of
the survey are for evaluation only.
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
from datasets_scripts.corpora.open import open_corpus
from datasets_scripts.files import write_text
from datasets_scripts.triplets.table import (
    TEST_STREAM,
    Triplet,
    for_training,
    read_triplets,
    track_of,
)
from distill.export import ExportError, Origin, check_export, export_onnx
from distill.personal.answers import (
    BASE,
    SURVEY,
    Answers,
    AnswersError,
    EncodedTracks,
    FitConfig,
    base_model,
    embed,
    encode_tracks,
    fit,
    folds,
    to_answers,
    triplet_correct,
    with_head,
)
from student import Feelprint
from student.model import AttentionPool

FOLDS = 5
SIGNIFICANCE = 0.05  # level of the sign test
CORPUS = Path("data/corpora/demo")  # the default of `make survey`


class NotBetter(RuntimeError):
    """A personal model that is not significantly better than the base."""


@dataclass(frozen=True)
class Verdict:
    """The comparison of the personal model with the base on answers outside the fit.

    base, personal: shares of correct answers. gained, lost: answers that only the personal, or only
    the base model gets right. p: the probability of at least so many gains among these if neither
    model is better (sign test, one-sided).
    """

    answers: int
    base: float
    personal: float
    gained: int
    lost: int
    p: float

    @property
    def better(self) -> bool:
        """Whether the gain is significant."""
        return self.p < SIGNIFICANCE

    def __str__(self) -> str:
        """One line for the report."""
        return (
            f"{self.answers} answers: {100 * self.personal:.0f} % right, the base "
            f"{100 * self.base:.0f} % ({self.gained} gained, {self.lost} lost, p = {self.p:.3f})"
        )


def fit_and_evaluate(
    model: Feelprint,
    tracks: EncodedTracks,
    train: Answers,
    random: Answers | None,
    config: FitConfig,
    seed: int = 0,
) -> tuple[AttentionPool, Verdict]:
    """A head fitted to ``train``, and its evaluation.

    Five-fold cross-validation: each answer of ``train`` is evaluated by a head that was fitted
    without its question; the answers to ``random`` rounds by the head that is returned. Raises
    AnswersError for fewer than five different questions.
    """
    fold = folds(train.question_ids(), FOLDS, seed)
    base_embeddings = embed(model.head, tracks)
    base = triplet_correct(base_embeddings, train)
    personal = np.zeros(len(train))
    for number in range(FOLDS):
        test = fold == number
        head = fit(model.head, tracks, train.subset(~test), config, seed=seed)
        personal[test] = triplet_correct(embed(head, tracks), train.subset(test))
    head = fit(model.head, tracks, train, config, seed=seed)
    if random is not None:
        base = np.append(base, triplet_correct(base_embeddings, random))
        personal = np.append(personal, triplet_correct(embed(head, tracks), random))
    gained = int(((personal == 1) & (base == 0)).sum())
    lost = int(((personal == 0) & (base == 1)).sum())
    p = float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0
    return head, Verdict(len(base), float(base.mean()), float(personal.mean()), gained, lost, p)


def origin_of(onnx_file: Path, config: FitConfig, answers: bytes) -> Origin:
    """The metadata of the fitted file: the base's, with a hash that depends on the answers too."""
    metadata = {m.key: m.value for m in onnx.load(onnx_file).metadata_props}
    text = json.dumps([metadata["feelprint.config_hash"], asdict(config)])
    digest = hashlib.sha256(text.encode() + hashlib.sha256(answers).digest()).hexdigest()[:16]
    return Origin(
        f"{metadata['feelprint.version']}+personal",
        digest,
        metadata["feelprint.teacher"],
        metadata["feelprint.licence"],
    )


def answers_about(triplets: Sequence[Triplet], corpora: Sequence[Corpus]) -> list[Triplet]:
    """The answers whose tracks are all in ``corpora``; says how many others are left out.

    Raises AnswersError where none is left.
    """
    known = {track.id for corpus in corpora for track in corpus.tracks}
    named = {track_of(id) for t in triplets for id in t.ids}
    kept = [t for t in triplets if known.issuperset(map(track_of, t.ids))]
    where = ", ".join(str(corpus.folder) for corpus in corpora)
    if not kept:
        raise AnswersError(
            f"none of the {len(triplets)} answers is about tracks of {where}: is that the music "
            "that the survey asked about?"
        )
    if len(kept) < len(triplets):
        print(
            f"left out {len(triplets) - len(kept)} of {len(triplets)} answers: "
            f"{len(named - known)} of their tracks are not in {where}"
        )
    return kept


def personalize(
    base: Path,
    table: Path,
    corpora: Sequence[Corpus],
    out: Path,
    config: FitConfig,
) -> dict[str, Any]:
    """Fit ``base`` to the answers in ``table`` (Parquet), evaluate it, and write the model and the
    evaluation (personal.json) into ``out``.

    Raises:
        AnswersError: no model in ``base``, too few answers, or a track that cannot be decoded.
        CorpusError: no table of answers.
        NotBetter: the gain is not significant; nothing is written.
        ExportError: the file breaks the model's contract.
    """
    model = base_model(base)
    triplets = answers_about(read_triplets(table), corpora)
    names = sorted({id for t in triplets if t.odd is not None for id in t.ids})
    tracks = encode_tracks(model, corpora, names)
    train = to_answers(for_training(triplets), names)
    rounds = [t for t in triplets if t.source == TEST_STREAM and t.odd is not None]
    random = to_answers(rounds, names) if rounds else None
    head, verdict = fit_and_evaluate(model, tracks, train, random, config)
    if not verdict.better:
        raise NotBetter(
            f"no personal model was written, since it is not significantly better: {verdict}. "
            "More answers may change that"
        )
    personal = with_head(model, head)
    out.mkdir(parents=True, exist_ok=True)
    origin = origin_of(base / "feelprint.onnx", config, table.read_bytes())
    export_onnx(personal, out / "feelprint.onnx", origin)
    checks = check_export(personal, out / "feelprint.onnx")
    personal.save(str(out))
    record = {"verdict": asdict(verdict), "fit": asdict(config), "export": checks}
    write_text(out / "personal.json", json.dumps(record, indent=2) + "\n")
    print(verdict)
    return record


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal", description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="a triplet table (Parquet)")
    parser.add_argument(
        "--corpus", type=Path, action="append", help=f"the survey's corpus ({CORPUS})"
    )
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    parser.add_argument("--out", type=Path, default=Path("runs/personal"))
    parser.add_argument(
        "--prior",
        type=float,
        default=FitConfig.prior,
        help="weight of the prior that keeps every track near its embedding by the base, relative "
        "to one answer",
    )
    options = parser.parse_args(arguments)
    try:
        corpora = [open_corpus(path, SURVEY) for path in options.corpus or [CORPUS]]
        personalize(
            options.base, options.answers, corpora, options.out, FitConfig(prior=options.prior)
        )
    except (AnswersError, CorpusError, ExportError, NotBetter) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out / 'feelprint.onnx'} is the model fitted to these answers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
