"""`python -m distill.personal.rated`: a head fitted to people's ratings, as a second model.

The released model takes people's ratings through a linear metric alone. Here the head is trained
on them, with the token layer below it: by the contrastive loss of the triplets that ratings of
valence and arousal imply, with a prior to the base's embeddings; the linear metric is then fitted
again. The result is a second model, under the licence of the rated clips.

The figures are cross-validated: for each fold by artist, head and metric are fitted to the other
folds. `--priors` compares weights of the prior.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.config import read_config
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.files import write_text
from datasets_scripts.ratings import Ratings, rated_corpus
from datasets_scripts.triplets.rated import near_and_far
from distill.evaluation.metrics import Score
from distill.evaluation.people import FIGURES, fold_table, held_out_scores, over_seeds
from distill.export import ExportError, Origin, check_export, export_onnx
from distill.personal.answers import AnswersError, base_model
from distill.training.losses import cosine_loss, odd_one_out_loss
from distill.training.rating_metric import fit_rating_metric
from student import ConfigError, Feelprint

WARM_UP = 20  # steps


@dataclass(frozen=True)
class RatedConfig:
    """One fit of a head to a corpus's ratings."""

    name: str
    base: str  # a model's folder
    corpus: str  # with ratings, as `python -m datasets_scripts musifeast` writes it
    licence: str  # of the fitted model
    steps: int = 200
    batch_size: int = 96  # triplets
    learning_rate: float = 5e-4
    prior: float = 10.0  # weight of the base's embeddings, against that of the triplets
    temperature: float = 0.1
    dropout: float = 0.2  # on the tokens
    fold_seeds: int = 3  # cross-validations with other folds
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "fold_seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Clips:
    """Pooled features of n clips by a frozen CNN, padded to the longest.

    features (n, windows, features), window_weight (n, windows): 0 behind the end of a clip.
    """

    features: Tensor
    window_weight: Tensor

    @classmethod
    @torch.inference_mode()
    def encode(cls, model: Feelprint, corpus: Corpus, ids: Sequence[str]) -> Clips:
        """Decode and encode whole clips. Raises AudioError."""
        features, weights = [], []
        for id in tqdm(ids, desc="clips", unit="clip"):
            audio = torch.from_numpy(decode(corpus.audio_bytes(id), model.config.sample_rate))
            log_mel, window_weight = (each[0] for each in model.log_mel_windows(audio[None]))
            features.append(model.cnn.norm(model.cnn.pooled_features(log_mel)))
            weights.append(window_weight)
        return cls(
            torch.nn.utils.rnn.pad_sequence(features, batch_first=True).clone(),
            torch.nn.utils.rnn.pad_sequence(weights, batch_first=True).clone(),
        )

    @torch.inference_mode()
    def embed(self, model: Feelprint) -> np.ndarray:
        """The clips' embeddings by ``model``, whose CNN encoded them: (n, dim)."""
        return model.head(model.cnn.token(self.features), self.window_weight)[0].numpy()


def trainable_clips(ratings: Ratings, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positives and the negatives of each clip in the mask ``among`` (n,): two masks (n, n).

    Positives are near an anchor in the plane of valence and arousal, negatives far
    (`near_and_far`); both are in ``among``.

    Raises AnswersError where no clip has both.
    """
    near, far = (
        mask & among & among[:, None] for mask in near_and_far(ratings.plane, ratings.artist)
    )
    if not (near.any(axis=1) & far.any(axis=1)).any():
        raise AnswersError(
            f"none of {among.sum()} clips has one of similar and one of other ratings; expected "
            "clips that differ in valence and arousal"
        )
    return near, far


@torch.inference_mode(False)
def fit_rated(
    base: Feelprint, clips: Clips, ratings: Ratings, among: np.ndarray, config: RatedConfig
) -> Feelprint:
    """A copy of ``base`` whose token layer and head are fitted to the clips in ``among`` (n,).

    ``base`` has no rating metric; the copy has one that is fitted to the same clips.
    """
    near, far = trainable_clips(ratings, among)
    anchors = np.flatnonzero(near.any(axis=1) & far.any(axis=1))
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    model = copy.deepcopy(base)
    token, head = model.cnn.token.requires_grad_(True), model.head.requires_grad_(True)
    with torch.no_grad():
        prior = head.unit_embedding(token(clips.features), clips.window_weight)[0]
    parameters = [*token.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01)
    for step in range(config.steps):
        factor = (
            min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        )
        optimiser.param_groups[0]["lr"] = config.learning_rate * factor
        drawn = rng.choice(anchors, config.batch_size)
        triplets = np.array(
            [
                (one, rng.choice(np.flatnonzero(near[one])), rng.choice(np.flatnonzero(far[one])))
                for one in drawn
            ]
        )
        used, rows = np.unique(triplets, return_inverse=True)
        tokens = F.dropout(token(clips.features[used]), config.dropout)
        embeddings = head.unit_embedding(tokens, clips.window_weight[used])[0]
        anchor, positive, negative = torch.from_numpy(rows.reshape(-1, 3).T)
        loss = odd_one_out_loss(
            embeddings[anchor], embeddings[positive], embeddings[negative], config.temperature
        ) + config.prior * cosine_loss(embeddings, prior[used])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():  # as in a release
            parameter.copy_(parameter.half().float())
        metric = fit_rating_metric(clips.embed(model)[among], ratings.subset(among))
        model.head.rating_transform.copy_(torch.from_numpy(metric).half().float())
    return model.eval()


def cross_validate(
    base: Feelprint, clips: Clips, ratings: Ratings, config: RatedConfig
) -> dict[str, Score]:
    """The figures of clips by artists that the head and its metric were not fitted to."""
    folds = fold_table(ratings.artist, seeds=config.fold_seeds)

    def embed_without(held_out: np.ndarray) -> np.ndarray:
        return clips.embed(fit_rated(base, clips, ratings, ~held_out, config))

    return over_seeds(held_out_scores(embed_without, ratings, folds))


def read(config: RatedConfig) -> tuple[Feelprint, Clips, Ratings]:
    """The base without its rating metric, the clips, and their ratings.

    Raises AnswersError, AudioError, CorpusError.
    """
    with contextlib.redirect_stdout(sys.stderr):  # the hub's library prints where it loads from
        base = base_model(Path(config.base)).without_ratings()
    corpus, ratings = rated_corpus(Path(config.corpus))
    return base, Clips.encode(base, corpus, [str(id) for id in ratings.ids]), ratings


def origin_of(config: RatedConfig) -> Origin:
    """The metadata of the fitted file: the base's, with the clips' licence and a hash of both."""
    base = onnx.load(Path(config.base) / "feelprint.onnx")
    metadata = {each.key: each.value for each in base.metadata_props}
    table = hashlib.sha256((Path(config.corpus) / "ratings.parquet").read_bytes()).hexdigest()
    text = json.dumps([metadata["feelprint.config_hash"], asdict(config), table])
    return Origin(
        f"{metadata['feelprint.version']}+rated",
        hashlib.sha256(text.encode()).hexdigest()[:16],
        metadata["feelprint.teacher"],
        config.licence,
    )


def fit_model(config: RatedConfig, out: Path) -> dict[str, Any]:
    """Fit, cross-validate and export; writes the model and metrics.json into ``out``.

    Raises AnswersError, AudioError, CorpusError, ExportError.
    """
    base, clips, ratings = read(config)
    figures: dict[str, Any] = {
        "figures": cross_validate(base, clips, ratings, config),
        "config": asdict(config),
    }
    fitted = fit_rated(base, clips, ratings, np.ones(len(ratings), dtype=bool), config)
    out.mkdir(parents=True, exist_ok=True)
    export_onnx(fitted, out / "feelprint.onnx", origin_of(config))
    figures["export"] = check_export(fitted, out / "feelprint.onnx")
    fitted.save(str(out))
    write_text(out / "metrics.json", json.dumps({"rated": figures}, indent=2) + "\n")
    return figures


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
            inputs = read(config)
            settings = [dataclasses.replace(config, prior=prior) for prior in options.priors]
            print(
                table({f"prior {each.prior:g}": cross_validate(*inputs, each) for each in settings})
            )
        else:
            figures = fit_model(config, options.runs / config.name)
            print(table({config.name: figures["figures"]}))
    except (AnswersError, AudioError, ConfigError, CorpusError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
