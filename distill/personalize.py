"""`python -m distill.personalize --answers answers.parquet`: a model with one listener's ear.

The head of the released model is fitted to the answers by LoRA, cross-validated, and exported only
where it is better than the base beyond chance.
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

from datasets_scripts.corpus import Corpus, CorpusError
from datasets_scripts.triplets import Triplet, read_triplets
from distill.answers import (
    Answers,
    AnswersError,
    FitConfig,
    Songs,
    embed,
    fit,
    folds,
    listen,
    right,
    to_answers,
    with_head,
)
from distill.export import ExportError, Origin, check_export, export_onnx
from student import Feelprint

FOLDS = 5
CHANCE = 0.05  # a gain as large by luck must be rarer than this
BASE = Path("rust/models")
CORPUS = Path("data/corpora/demo")  # the one that `make survey` asks about


class NotBetter(RuntimeError):
    """A personal model that is not better than the base beyond chance."""


@dataclass(frozen=True)
class Verdict:
    """What cross-validation found, in answers that the fit had not seen.

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


def cross_validate(
    model: Feelprint, songs: Songs, answers: Answers, config: FitConfig, seed: int = 0
) -> Verdict:
    """Five-fold: every answer is judged by a head that was fitted without its question.

    Raises AnswersError for fewer than five different questions.
    """
    fold = folds(same_question(answers), FOLDS, seed)
    base = right(embed(model.head, songs), answers)
    personal = np.zeros(len(answers))
    for number in range(FOLDS):
        held = fold == number
        head = fit(model.head, songs, answers.part(~held), config, seed=seed)
        personal[held] = right(embed(head, songs), answers.part(held))
    gained = int(((personal == 1) & (base == 0)).sum())
    lost = int(((personal == 0) & (base == 1)).sum())
    p = float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0
    return Verdict(len(answers), float(base.mean()), float(personal.mean()), gained, lost, p)


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
    triplets: Sequence[Triplet],
    corpora: Sequence[Corpus],
    out: Path,
    origin: Origin,
    config: FitConfig,
) -> dict[str, Any]:
    """Fit, judge, and write the model and what was found of it (personal.json) into ``out``.

    Raises:
        AnswersError: too few answers, or a song that cannot be heard.
        NotBetter: the gain is not beyond chance; nothing is written.
        ExportError: the file breaks the model's contract.
    """
    model = Feelprint.from_pretrained(str(base)).eval()
    names = sorted({song for t in triplets if t.odd is not None for song in t.songs})
    songs = listen(model, corpora, names)
    answers = to_answers(triplets, names)
    verdict = cross_validate(model, songs, answers, config)
    if not verdict.better:
        raise NotBetter(
            f"no personal model was written, since it is not better beyond chance: {verdict}. "
            "More answers may change that"
        )
    personal = with_head(model, fit(model.head, songs, answers, config))
    out.mkdir(parents=True, exist_ok=True)
    export_onnx(personal, out / "feelprint.onnx", origin)
    checks = check_export(personal, out / "feelprint.onnx")
    personal.save(str(out))
    made = {"verdict": asdict(verdict), "fit": asdict(config), "export": checks}
    (out / "personal.json").write_text(json.dumps(made, indent=2) + "\n")
    print(verdict)
    return made


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personalize", description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="a triplet table (Parquet)")
    parser.add_argument(
        "--corpus", type=Path, action="append", help=f"where the songs are ({CORPUS})"
    )
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    parser.add_argument("--out", type=Path, default=Path("runs/personal"))
    parser.add_argument(
        "--prior", type=float, default=FitConfig.prior, help="how strongly the base holds"
    )
    options = parser.parse_args(arguments)
    try:
        for name in ("feelprint.onnx", "model.safetensors", "config.json"):
            if not (options.base / name).is_file():
                raise AnswersError(f"{options.base} is no model's folder: it has no {name}")
        config = FitConfig(prior=options.prior)
        origin = origin_of(options.base / "feelprint.onnx", config, options.answers.read_bytes())
        corpora = [Corpus(path) for path in options.corpus or [CORPUS]]
        triplets = read_triplets(options.answers)
        personalize(options.base, triplets, corpora, options.out, origin, config)
    except (AnswersError, CorpusError, ExportError, NotBetter, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out / 'feelprint.onnx'} is the model with this listener's ear")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
