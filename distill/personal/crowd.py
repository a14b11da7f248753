"""`python -m distill.personal.crowd --config configs/human.yaml`: fine-tuning on people's answers.

The head is fitted to the answers with early stopping, judged on answers that share no song, artist
or album with those that it learned from, and reported beside the base, chance and the ceiling that
people's own disagreement sets. A survey's random rounds stop and judge, and are never learned from.
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
import yaml

from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track
from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.human import READERS, track_names
from datasets_scripts.triplets.table import TEST_STREAM, Triplet, grouped, normalise_weights
from distill.evaluation.figures import Items, difference, interval
from distill.export import ExportError, check_export, export_onnx
from distill.personal.answers import (
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
    tied_groups,
    ties,
    to_answers,
    with_head,
)
from distill.personal.personalize import origin_of, same_question
from student import ConfigError, Feelprint
from student.config import from_mapping

RESAMPLES = 1_000


@dataclass(frozen=True)
class HumanConfig:
    """One fine-tuning on people's answers.

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


def load_human(path: Path) -> HumanConfig:
    """The configuration in the YAML file at ``path``. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}")
    values = yaml.safe_load(path.read_text())
    return from_mapping(HumanConfig, values, str(path))


def rater_weights(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Every answer weighed by its question's number of answers, and by its rater's agreement.

    A rater's agreement is the share of the other answers to the same questions that are the same,
    smoothed by two answers at chance; one who shares no question with others counts in full.
    """
    same: dict[str, float] = defaultdict(float)
    met: dict[str, float] = defaultdict(float)
    for group in grouped(t for t in triplets if t.odd is not None):
        for n, answer in enumerate(group):
            if answer.rater is None:
                continue
            others = [o for m, o in enumerate(group) if m != n and o.rater != answer.rater]
            met[answer.rater] += len(others)
            same[answer.rater] += sum(o.odd == answer.odd for o in others)
    trust = {r: (same[r] + 2 / 3) / (met[r] + 2) if met[r] else 1.0 for r in met}
    return [replace(t, weight=t.weight * trust.get(t.rater or "", 1.0)) for t in normalise_weights(triplets)]


def sizes_of(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to ``shares``, the first as large as makes them ``count``."""
    held = [round(count * share) for share in shares[1:]]
    return [count - sum(held), *held]


def one_split(groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part of each answer (n,), a number of ``shares``, whole groups together.

    Groups are drawn in a seeded order into the part that still lacks most, so that the sizes are
    exact where groups are single answers.
    """
    lacking = np.array(sizes_of(len(groups), shares), dtype=np.float64)
    wanted = lacking.copy()
    numbers, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.zeros(len(groups), dtype=np.int64)
    for at in order:
        into = int(np.argmax(lacking / np.maximum(wanted, 1)))
        part[groups == numbers[at]] = into
        lacking[into] -= sizes[at]
    return part


@dataclass(frozen=True)
class Streams:
    """Which answers may train and which may judge, as masks (n,), and what of these stays
    together: numbers (n,).
    """

    train: np.ndarray
    judge: np.ndarray
    groups: np.ndarray

    def split(self, shares: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks (n,) of the answers that stop a fit, and of those that test it."""
        apart = not (self.train & self.judge).any()  # no part of what judges trains
        if apart:
            shares = [share / sum(shares[1:]) for share in shares[1:]]
        part = np.full(len(self.judge), -1)
        part[self.judge] = one_split(self.groups[self.judge], shares, seed) + apart
        return part == 1, part == 2

    def folds(self, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same masks for each of ``k`` folds; the fold after the tested one stops the fit."""
        fold = np.full(len(self.judge), -1)
        fold[self.judge] = folds(self.groups[self.judge], k, seed)
        return [(fold == (number + 1) % k, fold == number) for number in range(k)]


def streams(triplets: Sequence[Triplet], answers: Answers, tracks: Sequence[Track]) -> Streams:
    """What may be learned from, and what may judge.

    Where the answers hold a survey's random rounds, these judge, the same three songs together,
    and of the others those train that share no song, artist or album with them. Elsewhere every
    answer does either, and those that share a song, artist or album, also through others, stay
    together. Raises AnswersError where nothing is left to train on.
    """
    random = np.array([t.source == TEST_STREAM for t in triplets])
    if not random.any():
        every = np.ones(len(triplets), dtype=bool)
        return Streams(every, every, tied_groups(triplets, tracks))
    tied = ties(triplets, tracks)
    held = set().union(*(t for t, judges in zip(tied, random, strict=True) if judges))
    train = np.array([not t & held for t in tied])
    if not train.any():
        raise AnswersError(
            f"nothing to learn from: {random.sum()} answers are to random rounds, which only "
            f"judge, and the other {(~random).sum()} share a song, artist or album with them"
        )
    return Streams(train, random, same_question(answers))


def _fit(
    model: Feelprint, songs: Songs, answers: Answers, stop: Answers, config: HumanConfig, seed: int
) -> np.ndarray:
    return embed(fit(model.head, songs, answers, config.fit, stop, seed), songs)


def repeated(
    model: Feelprint, songs: Songs, answers: Answers, parts: Streams, config: HumanConfig
) -> dict[str, Any]:
    """Cross-validation, repeated with other folds: what a dozen test answers cannot decide.

    The intervals are over the judging answers (each counts the share of rounds in which it was
    right), by bootstrap over the groups that stay together.
    """
    base = right(embed(model.head, songs), answers)[parts.judge]
    hits = np.zeros((config.repeats, len(answers)))
    for repeat in range(config.repeats):
        for stop, test in parts.folds(config.folds, config.seed + repeat):
            train = parts.train & ~stop & ~test
            vectors = _fit(model, songs, answers.part(train), answers.part(stop), config, repeat)
            hits[repeat, test] = right(vectors, answers.part(test))
    hits, groups = hits[:, parts.judge], parts.groups[parts.judge]
    again = Items(hits.mean(axis=0), groups)
    return {
        **interval(again, RESAMPLES),
        "by_repeat": [float(row.mean()) for row in hits],
        "base": float(base.mean()),
        "gain": difference(again, Items(base, groups), RESAMPLES),
    }


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of ``hits`` in ``n`` (E. B. Wilson, 1927)."""
    z, share = 1.959964, hits / n
    centre = share + z * z / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def human(config: HumanConfig, out: Path) -> dict[str, Any]:
    """Fine-tune, judge, export; writes the model and metrics.json into ``out``.

    Raises AnswersError, CorpusError, ExportError.
    """
    corpora = [Corpus(Path(path)) for path in config.corpora]
    known = {name: id_ for corpus in corpora for name, id_ in track_names(corpus).items()}
    reading = READERS[config.format](Path(config.answers), known)
    triplets = [t for t in rater_weights(reading.triplets) if t.odd is not None]
    if not triplets:
        raise AnswersError(f"{config.answers}: {reading.summary()}: nothing to learn from")
    names = sorted({song for t in triplets for song in t.ids})
    model = base_model(Path(config.base))
    songs = listen(model, corpora, names)
    answers = to_answers(triplets, names)
    parts = streams(triplets, answers, [t for corpus in corpora for t in corpus.tracks])
    people = agreement([t for t, judges in zip(triplets, parts.judge, strict=True) if judges])
    stop, test = parts.split(config.shares, config.seed)
    train = parts.train & ~stop & ~test
    if not all(mask.any() for mask in (train, stop, test)):
        raise AnswersError(
            f"{len(answers)} answers fall into {train.sum()} to train on, {stop.sum()} to stop by "
            f"and {test.sum()} to test with; answers about other songs are needed"
        )
    stopping, tested = answers.part(stop), answers.part(test)
    vectors = _fit(model, songs, answers.part(train), stopping, config, config.seed)
    hits, before = right(vectors, tested), right(embed(model.head, songs), tested)
    low, high = wilson(float(hits.sum()), len(hits))
    again = repeated(model, songs, answers, parts, config)
    final = fit(model.head, songs, answers.part(parts.train & ~stop), config.fit, stopping)
    made = with_head(model, final)
    out.mkdir(parents=True, exist_ok=True)
    base_file, table = Path(config.base) / "feelprint.onnx", Path(config.answers).read_bytes()
    export_onnx(made, out / "feelprint.onnx", origin_of(base_file, config.fit, table))
    figures = {
        "reading": reading.summary(),
        "rejected": [dataclasses.asdict(r) for r in reading.rejected],
        "human_ceiling": people.ceiling,
        "krippendorff_alpha": people.alpha,
        "sizes": [int(mask.sum()) for mask in (train, stop, test)],
        "test": {
            "accuracy": float(hits.mean()),
            "low": low,
            "high": high,
            "n": len(hits),
            "base": float(before.mean()),
        },
        "repeated": again,
        "chance": 1 / 3,
        "export": check_export(made, out / "feelprint.onnx"),
        "config": asdict(config),
    }
    made.save(str(out))
    (out / "metrics.json").write_text(json.dumps({"human": figures}, indent=2) + "\n")
    return figures


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal.crowd", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/human.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    try:
        config = load_human(options.config)
        found = human(config, options.runs / config.name)
    except (AnswersError, ConfigError, CorpusError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    test, again = found["test"], found["repeated"]
    ceiling = found["human_ceiling"]
    print(
        f"{found['reading']}\nsplit {found['sizes']}: {100 * test['accuracy']:.0f} % of "
        f"{test['n']} [{100 * test['low']:.0f} to {100 * test['high']:.0f}], the base "
        f"{100 * test['base']:.0f} %\n{config.repeats} times {config.folds} folds: "
        f"{100 * again['accuracy']:.1f} % [{100 * again['low']:.1f} to {100 * again['high']:.1f}], "
        f"the base {100 * again['base']:.1f} %\nthe ceiling: "
        + (f"{100 * ceiling:.1f} %" if ceiling is not None else "not known, no question has two")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
