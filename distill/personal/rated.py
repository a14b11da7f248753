"""`python -m distill.personal.rated`: a head fitted to people's ratings, as a second model.

The released model takes people's ratings through a linear metric alone. Here the whole head is
fitted to them: to the triplets that ratings of valence and arousal imply, with a prior to the
base's embeddings; the linear metric is then fitted again. The result is a second model, under the
licence of the rated clips.

The figures are cross-validated: for each fold by artist, head and metric are fitted to the other
folds. The prior is what it costs to learn from few clips; it is chosen with `--priors`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_scripts.config import read_config
from datasets_scripts.corpora.corpus import CorpusError
from datasets_scripts.files import write_text
from datasets_scripts.ratings import Ratings, rated_corpus
from datasets_scripts.triplets.rated import near_and_far
from distill.evaluation.metrics import Score
from distill.evaluation.people import FIGURES, fold_table, held_out_scores, over_seeds
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
    with_head,
)
from distill.personal.personalize import origin_of
from distill.training.rating_metric import fit_rating_metric
from student import ConfigError, Feelprint
from student.model import AttentionPool


@dataclass(frozen=True)
class RatedConfig:
    """One fit of a head to a corpus's ratings."""

    name: str
    base: str  # a model's folder
    corpus: str  # with ratings, as `python -m datasets_scripts musifeast` writes it
    licence: str  # of the fitted model
    triplets: int = 8_000  # drawn for each fit
    fold_seeds: int = 3  # cross-validations with other folds
    seed: int = 0
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(steps=200, learning_rate=1e-3, rank=0, prior=5.0)
    )

    def __post_init__(self) -> None:
        if self.triplets < 1 or self.fold_seeds < 1:
            raise ConfigError(
                f"triplets and fold_seeds must be 1 or more, got {self.triplets} and "
                f"{self.fold_seeds}"
            )


def rated_answers(ratings: Ratings, among: np.ndarray, count: int, seed: int) -> Answers:
    """``count`` triplets of the clips in the mask ``among`` (n,), each clip as often an anchor.

    Of each, the anchor and the positive are near each other in the plane of valence and arousal,
    and the negative, the odd one, is far (`near_and_far`). The answers have the weight 1 /
    ``count``, so that a prior's weight does not depend on their number.

    Raises AnswersError where no clip has both a positive and a negative.
    """
    near, far = (mask & among[None] for mask in near_and_far(ratings.plane, ratings.artist))
    anchors = np.flatnonzero(among & near.any(axis=1) & far.any(axis=1))
    if not len(anchors):
        raise AnswersError(
            f"none of {among.sum()} clips has one of similar and one of other ratings; expected "
            "clips that differ in valence and arousal"
        )
    rng = np.random.default_rng(seed)
    drawn = np.resize(rng.permutation(anchors), count)
    rows = [
        (a, rng.choice(np.flatnonzero(near[a])), rng.choice(np.flatnonzero(far[a]))) for a in drawn
    ]
    return Answers(np.array(rows), np.full(count, 1 / count))


def fit_rated(
    head: AttentionPool,
    tracks: EncodedTracks,
    ratings: Ratings,
    among: np.ndarray,
    config: RatedConfig,
    seed: int,
) -> AttentionPool:
    """A copy of ``head`` fitted to the ratings of the clips in ``among`` (n,), with its metric.

    ``head`` has no rating metric, or one that saw no other clips than these.
    """
    answers = rated_answers(ratings, among, config.triplets, seed)
    fitted = fit(head, tracks, answers, config.fit, seed=seed)
    metric = fit_rating_metric(embed(fitted, tracks)[among], ratings.subset(among))
    fitted.rating_transform.copy_(torch.from_numpy(metric))
    return fitted


def cross_validate(
    head: AttentionPool, tracks: EncodedTracks, ratings: Ratings, config: RatedConfig
) -> dict[str, Score]:
    """The figures of clips by artists that the head and its metric were not fitted to."""
    folds = fold_table(ratings.artist, seeds=config.fold_seeds)

    def embed_without(held_out: np.ndarray) -> np.ndarray:
        return embed(fit_rated(head, tracks, ratings, ~held_out, config, config.seed), tracks)

    return over_seeds(held_out_scores(embed_without, ratings, folds))


def fit_model(config: RatedConfig, out: Path) -> dict[str, Any]:
    """Fit, cross-validate and export; writes the model and metrics.json into ``out``.

    Raises AnswersError, CorpusError, ExportError.
    """
    base, tracks, ratings = _read(config)
    figures = {
        "figures": cross_validate(base.head, tracks, ratings, config),
        "config": asdict(config),
    }
    every = np.ones(len(ratings), dtype=bool)
    fitted = with_head(base, fit_rated(base.head, tracks, ratings, every, config, config.seed))
    out.mkdir(parents=True, exist_ok=True)
    table = (Path(config.corpus) / "ratings.parquet").read_bytes()
    origin = origin_of(Path(config.base) / "feelprint.onnx", config.fit, table)
    origin = dataclasses.replace(
        origin, version=origin.version.replace("+personal", "+rated"), licence=config.licence
    )
    export_onnx(fitted, out / "feelprint.onnx", origin)
    figures["export"] = check_export(fitted, out / "feelprint.onnx")
    fitted.save(str(out))
    write_text(out / "metrics.json", json.dumps({"rated": figures}, indent=2) + "\n")
    return figures


def _read(config: RatedConfig) -> tuple[Feelprint, EncodedTracks, Ratings]:
    """The base without its rating metric, the clips' tokens, and their ratings."""
    base = base_model(Path(config.base)).without_ratings()
    corpus, ratings = rated_corpus(Path(config.corpus))
    return base, encode_tracks(base, [corpus], [str(id) for id in ratings.ids]), ratings


def table(rows: dict[str, dict[str, Score]]) -> str:
    """Figures of several settings as Markdown: a row for each."""
    lines = [f"| | {' | '.join(FIGURES)} |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, scores in rows.items():
        cells = [f"{s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in scores.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal.rated", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/rated.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--priors", type=float, nargs="+", help="compare these, and fit no model")
    options = parser.parse_args(arguments)
    try:
        config = read_config(RatedConfig, options.config)
        if options.priors:
            base, tracks, ratings = _read(config)
            settings = {
                f"prior {prior:g}": dataclasses.replace(
                    config, fit=dataclasses.replace(config.fit, prior=prior)
                )
                for prior in options.priors
            }
            judge = partial(cross_validate, base.head, tracks, ratings)
            print(table({name: judge(each) for name, each in settings.items()}))
        else:
            figures = fit_model(config, options.runs / config.name)
            print(table({config.name: figures["figures"]}))
    except (AnswersError, ConfigError, CorpusError, ExportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
