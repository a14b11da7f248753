"""`python -m distill.personal.crowd --config configs/human.yaml`: a fit to many raters' answers.

The head is fitted to the answers with early stopping, and evaluated on answers that share no track,
artist or album with those of the fit. The report also gives the accuracy of the base, chance, and
the ceiling that follows from the raters' disagreement. A survey's random rounds are for validation
and test only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.config import read_config
from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track
from datasets_scripts.files import write_text
from datasets_scripts.statistics import bootstrap_interval, wilson_interval
from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.human import READERS, ImportResult, track_names
from datasets_scripts.triplets.table import (
    TEST_STREAM,
    Triplet,
    group_keys,
    grouped,
    normalise_weights,
)
from distill.export import ExportError, check_export, export_onnx
from distill.personal.answers import (
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
    triplet_groups,
    with_head,
)
from distill.personal.personalize import origin_of
from student import ConfigError, Feelprint


@dataclass(frozen=True)
class CrowdConfig:
    """One fine-tuning on the answers of many raters.

    `shares` are of training, validation and test; of a survey's random rounds, which are not
    trained on, the last two.
    """

    name: str
    base: str  # a model's folder
    corpora: tuple[str, ...]
    answers: str
    format: str = "table"  # table, mecomp or votes, as `datasets_scripts triplets human` reads them
    shares: tuple[float, ...] = (0.5, 0.3, 0.2)  # 30, 18 and 12 of MECOMP's 60
    folds: int = 5
    repeats: int = 10
    seed: int = 0
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=200, prior=50.0))

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or abs(sum(self.shares) - 1) > 1e-9 or min(self.shares) <= 0:
            raise ConfigError(f"shares must be three parts of one, got {self.shares}")
        if self.format not in READERS:
            raise ConfigError(f"format is {self.format!r}; known: {', '.join(READERS)}")


def rater_weights(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Every answer, weighted by its question's number of answers and by its rater's agreement.

    A rater's agreement is the share of the other answers to the same questions that are the same,
    smoothed by two answers at chance; a rater without such questions has the weight 1.
    """
    same: dict[str, float] = defaultdict(float)
    compared: dict[str, float] = defaultdict(float)
    for group in grouped(t for t in triplets if t.odd is not None):
        for n, answer in enumerate(group):
            if answer.rater is None:
                continue
            others = [o for m, o in enumerate(group) if m != n and o.rater != answer.rater]
            compared[answer.rater] += len(others)
            same[answer.rater] += sum(o.odd == answer.odd for o in others)
    agreements = {r: (same[r] + 2 / 3) / (n + 2) if n else 1.0 for r, n in compared.items()}
    return [
        replace(t, weight=t.weight * agreements.get(t.rater or "", 1.0))
        for t in normalise_weights(triplets)
    ]


def part_sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to ``shares`` that sum to ``count``; the first takes the rest."""
    others = [round(count * share) for share in shares[1:]]
    return [count - sum(others), *others]


def random_parts(groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part of each answer (n,), an index of ``shares``, whole groups together.

    The groups are assigned in a seeded order, the largest first, to the part that lacks the largest
    share of its size, so that the sizes are exact where every group is one answer. scikit-learn's
    GroupShuffleSplit counts groups instead of answers.
    """
    lacking = np.array(part_sizes(len(groups), shares), dtype=np.float64)
    target = lacking.copy()
    numbers, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.zeros(len(groups), dtype=np.int64)
    for group in order:
        into = int(np.argmax(lacking / np.maximum(target, 1)))
        part[groups == numbers[group]] = into
        lacking[into] -= sizes[group]
    return part


@dataclass(frozen=True)
class Splits:
    """The answers that may train and those that may evaluate, as masks (n,), and their groups.

    groups (n,): the answers of one group stay together when the evaluating ones are split.
    """

    train: np.ndarray
    eval: np.ndarray
    groups: np.ndarray

    def split(self, shares: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks (n,) of the answers for validation (early stopping) and for test."""
        disjoint = not (self.train & self.eval).any()  # then no evaluating answer is for training
        if disjoint:
            shares = [share / sum(shares[1:]) for share in shares[1:]]
        part = np.full(len(self.eval), -1)
        part[self.eval] = random_parts(self.groups[self.eval], shares, seed) + disjoint
        return part == 1, part == 2

    def folds(self, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same masks for each of ``k`` folds; the fold after the test fold validates."""
        fold = np.full(len(self.eval), -1)
        fold[self.eval] = folds(self.groups[self.eval], k, seed)
        return [(fold == (number + 1) % k, fold == number) for number in range(k)]


def assign_splits(triplets: Sequence[Triplet], answers: Answers, tracks: Sequence[Track]) -> Splits:
    """Which answers may train, and which may evaluate.

    If the answers include a survey's random rounds, these evaluate, with answers about the same
    three tracks in one group, and of the others those train that share no track, artist or album
    with them. Otherwise every answer may do either, and those that share a track, artist or album,
    directly or through others, are in one group. Raises AnswersError where none is left for
    training.
    """
    random = np.array([t.source == TEST_STREAM for t in triplets])
    if not random.any():
        every = np.ones(len(triplets), dtype=bool)
        return Splits(every, every, triplet_groups(triplets, tracks))
    keys = group_keys(triplets, tracks)
    eval_keys = set().union(
        *(own for own, is_random in zip(keys, random, strict=True) if is_random)
    )
    train = np.array([own.isdisjoint(eval_keys) for own in keys])
    if not train.any():
        raise AnswersError(
            f"nothing to train on: {random.sum()} answers are to random rounds, which only "
            f"evaluate, and the other {(~random).sum()} share a track, artist or album with them"
        )
    return Splits(train, random, answers.question_ids())


def cross_validate(
    model: Feelprint, tracks: EncodedTracks, answers: Answers, splits: Splits, config: CrowdConfig
) -> dict[str, Any]:
    """Cross-validation, repeated with other folds, because a dozen test answers are too few.

    The 95 % intervals are over the evaluating answers (the value of each is the share of repeats in
    which it was correct), by bootstrap over their groups.
    """
    base = triplet_correct(embed(model.head, tracks), answers)[splits.eval]
    correct = np.zeros((config.repeats, len(answers)))
    for repeat in range(config.repeats):
        for val, test in splits.folds(config.folds, config.seed + repeat):
            train = answers.subset(splits.train & ~val & ~test)
            head = fit(model.head, tracks, train, config.fit, answers.subset(val), repeat)
            correct[repeat, test] = triplet_correct(embed(head, tracks), answers.subset(test))
    correct, groups = correct[:, splits.eval], splits.groups[splits.eval]
    values = correct.mean(axis=0)
    low, high = bootstrap_interval(values, groups)
    gain_low, gain_high = bootstrap_interval(values - base, groups)
    return {
        "accuracy": float(values.mean()),
        "low": low,
        "high": high,
        "n": len(values),
        "by_repeat": [float(row.mean()) for row in correct],
        "base": float(base.mean()),
        "gain": {
            "difference": float((values - base).mean()),
            "low": gain_low,
            "high": gain_high,
        },
    }


def evaluate_split(
    model: Feelprint,
    tracks: EncodedTracks,
    answers: Answers,
    masks: tuple[np.ndarray, np.ndarray, np.ndarray],
    config: CrowdConfig,
) -> dict[str, Any]:
    """Accuracy on the test answers, with Wilson's interval, of a fit to the training answers.

    masks: training, validation and test, (n,) each.
    """
    train, val, test = (answers.subset(mask) for mask in masks)
    head = fit(model.head, tracks, train, config.fit, val, config.seed)
    correct = triplet_correct(embed(head, tracks), test)
    base = triplet_correct(embed(model.head, tracks), test)
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {
        "accuracy": float(correct.mean()),
        "low": low,
        "high": high,
        "n": len(correct),
        "base": float(base.mean()),
    }


def read_answers(
    config: CrowdConfig, corpora: Sequence[Corpus]
) -> tuple[ImportResult, list[Triplet]]:
    """The import of the answers' file, and its answers with the weights of their raters.

    Raises AnswersError where no answer names an odd one, CorpusError for an unreadable file.
    """
    names = {name: id for corpus in corpora for name, id in track_names(corpus).items()}
    result = READERS[config.format](Path(config.answers), names)
    triplets = [t for t in rater_weights(result.triplets) if t.odd is not None]
    if not triplets:
        raise AnswersError(f"{config.answers}: {result.summary()}: nothing to train on")
    return result, triplets


def finetune(config: CrowdConfig, out: Path) -> dict[str, Any]:
    """Fit, evaluate and export; writes the model and metrics.json into ``out``.

    Raises AnswersError, CorpusError, ExportError.
    """
    corpora = [Corpus(Path(path)) for path in config.corpora]
    result, triplets = read_answers(config, corpora)
    names = sorted({id for t in triplets for id in t.ids})
    model = base_model(Path(config.base))
    tracks = encode_tracks(model, corpora, names)
    answers = to_answers(triplets, names)
    splits = assign_splits(triplets, answers, [t for corpus in corpora for t in corpus.tracks])
    raters = agreement([t for t, evals in zip(triplets, splits.eval, strict=True) if evals])
    val, test = splits.split(config.shares, config.seed)
    train = splits.train & ~val & ~test
    if not all(mask.any() for mask in (train, val, test)):
        raise AnswersError(
            f"{len(answers)} answers fall into {train.sum()} for training, {val.sum()} for "
            f"validation and {test.sum()} for test; answers about other tracks are needed"
        )
    tested = evaluate_split(model, tracks, answers, (train, val, test), config)
    repeated = cross_validate(model, tracks, answers, splits, config)
    all_but_val = answers.subset(splits.train & ~val)
    head = fit(model.head, tracks, all_but_val, config.fit, answers.subset(val))
    fitted = with_head(model, head)
    out.mkdir(parents=True, exist_ok=True)
    base_file, table = Path(config.base) / "feelprint.onnx", Path(config.answers).read_bytes()
    export_onnx(fitted, out / "feelprint.onnx", origin_of(base_file, config.fit, table))
    figures = {
        "import": result.summary(),
        "rejected": [dataclasses.asdict(r) for r in result.rejected],
        "human_ceiling": raters.ceiling,
        "krippendorff_alpha": raters.alpha,
        "sizes": [int(mask.sum()) for mask in (train, val, test)],
        "test": tested,
        "repeated": repeated,
        "chance": 1 / 3,
        "export": check_export(fitted, out / "feelprint.onnx"),
        "config": asdict(config),
    }
    fitted.save(str(out))
    write_text(out / "metrics.json", json.dumps({"human": figures}, indent=2) + "\n")
    return figures


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal.crowd", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/human.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    try:
        config = read_config(CrowdConfig, options.config)
        figures = finetune(config, options.runs / config.name)
    except (AnswersError, ConfigError, CorpusError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    test, repeated = figures["test"], figures["repeated"]
    ceiling = figures["human_ceiling"]
    print(
        f"{figures['import']}\nsplit {figures['sizes']}: {100 * test['accuracy']:.0f} % of "
        f"{test['n']} [{100 * test['low']:.0f} to {100 * test['high']:.0f}], the base "
        f"{100 * test['base']:.0f} %\n{config.repeats} times {config.folds} folds: "
        f"{100 * repeated['accuracy']:.1f} % [{100 * repeated['low']:.1f} to "
        f"{100 * repeated['high']:.1f}], the base {100 * repeated['base']:.1f} %\nthe ceiling: "
        + (f"{100 * ceiling:.1f} %" if ceiling is not None else "not known, no question has two")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
