"""`python -m distill.evaluation.people CORPUS`: does the embedding agree with people's ratings?

CORPUS is the MUSIFEAST-17 corpus (`python -m datasets_scripts musifeast`). Five figures of a
representation, by Euclidean distance and with the neighbours of a clip by other artists only:

- valence_r, arousal_r: Pearson's r between a clip's rating and the mean rating of its 8 nearest;
- feel: the share of correct triplets among all that the ratings give, d(anchor, positive) <
  d(anchor, negative), where the rated distance is under 0.6 and over 1.5 standard deviations
  (`datasets_scripts.triplets.rated`); a tie is wrong;
- genre@1, genre@5: the share of the nearest clip, and of the five nearest, of the same genre.

Each has a 95 % interval by bootstrap over the clips: the anchors are drawn with replacement, each
with its neighbours and triplets among all clips as they are. Positives, negatives and neighbours
are not resampled: the intervals do not cover variation in the candidate set.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.files import write_text
from datasets_scripts.ratings import COUNTRIES, Ratings, rated_corpus
from datasets_scripts.statistics import PERCENTILES
from datasets_scripts.triplets.rated import artist_folds, near_and_far
from distill.config import load
from distill.evaluation.baselines import MECOMP, BaselineError, Bliss, Mecomp
from distill.evaluation.evaluate import file_digest, load_teachers, model_digest
from distill.evaluation.excerpts import (
    SAMPLE_RATE,
    EmbedFn,
    mfcc_embedder,
    student_embedder,
    teacher_embedder,
)
from distill.evaluation.metrics import Score, standardised
from distill.features.shards import CacheError, Shard, is_valid, write_shard
from distill.teachers.base import Teacher, TeacherError
from distill.training.rating_metric import fit_rating_metric, is_fitted_to
from student import ConfigError, Feelprint

FIGURES = ("valence_r", "arousal_r", "feel", "genre@1", "genre@5")
NEIGHBOURS = 8
FOLDS, FOLD_SEEDS = 5, 3
RESAMPLES = 1_000

AnchorScores = dict[str, np.ndarray]  # figure -> (n, 2), see anchor_scores
FitFn = Callable[[np.ndarray, Ratings], np.ndarray]
EmbedWithout = Callable[[np.ndarray], np.ndarray]


def anchor_scores(
    embeddings: np.ndarray, ratings: Ratings, held_out: np.ndarray | None = None
) -> AnchorScores:
    """The figures of embeddings (n, dim), before they are summed over the anchors.

    Figure -> (n, 2), one row per anchor. valence_r, arousal_r: its rating, and the mean rating of
    its 8 nearest clips by other artists. feel: its correct triplets, and all its triplets.
    genre@1, genre@5: share of its nearest of its genre, and 1. With ``held_out`` (n,) bool,
    triplets are counted whose three clips are all held out; neighbours are of all clips.

    Raises ValueError for another number of embeddings than clips, embeddings that are not finite,
    or an anchor with fewer than 8 clips by other artists.
    """
    if len(embeddings) != len(ratings) or not np.isfinite(embeddings).all():
        raise ValueError(
            f"expected a finite embedding for each of {len(ratings)} clips, got an array "
            f"{embeddings.shape} with {int((~np.isfinite(embeddings)).sum())} values not finite"
        )
    distance = squareform(pdist(embeddings.astype(np.float64)))  # (n, n)
    same_artist = ratings.artist[:, None] == ratings.artist[None]
    if (fewest := int((~same_artist).sum(axis=1).min())) < NEIGHBOURS:
        raise ValueError(f"an artist has {fewest} clips by others, expected {NEIGHBOURS} or more")
    order = np.argsort(np.where(same_artist, np.inf, distance), axis=1, kind="stable")[
        :, :NEIGHBOURS
    ]
    near, far = near_and_far(ratings.plane, ratings.artist)
    if held_out is not None:
        within = held_out[:, None] & held_out[None]
        near, far = near & within, far & within
    feel = np.zeros((len(ratings), 2))
    for anchor in range(len(ratings)):
        to_near, to_far = distance[anchor, near[anchor]], np.sort(distance[anchor, far[anchor]])
        not_farther = np.searchsorted(to_far, to_near, side="right")
        feel[anchor] = (len(to_far) - not_farther).sum(), len(to_near) * len(to_far)
    same_genre = (ratings.genre[order] == ratings.genre[:, None]).astype(float)
    one = np.ones(len(ratings))
    return {
        "valence_r": np.stack([ratings.valence, ratings.valence[order].mean(axis=1)], axis=1),
        "arousal_r": np.stack([ratings.arousal, ratings.arousal[order].mean(axis=1)], axis=1),
        "feel": feel,
        "genre@1": np.stack([same_genre[:, 0], one], axis=1),
        "genre@5": np.stack([same_genre[:, :5].mean(axis=1), one], axis=1),
    }


def pearson(pairs: np.ndarray) -> np.ndarray:
    """Pearson's r of (..., n, 2) over n: (...); 0 where one of the two is constant."""
    centred = pairs - pairs.mean(axis=-2, keepdims=True)
    x, y = centred[..., 0], centred[..., 1]
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return (x * y).sum(axis=-1) / np.where(scale > 0, scale, np.inf)


def ratio(pairs: np.ndarray) -> np.ndarray:
    """Sum of the first over the sum of the second of (..., n, 2) over n: (...)."""
    sums = pairs.sum(axis=-2)
    return sums[..., 0] / sums[..., 1]


def summarise(
    figure: str, rows: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """A figure of one or more arrays (n, 2) of `anchor_scores`, averaged over the arrays.

    value: the figure; low, high: 95 % percentile interval over resamples of the n anchors, the
    same draw for all arrays; n: the anchors, or the triplets of feel (the mean over the arrays).

    Raises ValueError where the ratings give no triplet.
    """
    statistic = pearson if figure.endswith("_r") else ratio
    count = (
        float(np.mean([pairs[:, 1].sum() for pairs in rows])) if figure == "feel" else len(rows[0])
    )
    if not count:
        raise ValueError("no triplet of these clips has a positive and a negative by other artists")
    anchors = len(rows[0])
    drawn = np.random.default_rng(seed).integers(anchors, size=(resamples, anchors))
    values = np.mean([statistic(pairs[drawn]) for pairs in rows], axis=0)  # (resamples,)
    low, high = np.percentile(values, PERCENTILES)
    value = float(np.mean([statistic(pairs) for pairs in rows]))
    return {"value": value, "low": float(low), "high": float(high), "n": round(count)}


def figures(
    embeddings: np.ndarray, ratings: Ratings, resamples: int = RESAMPLES
) -> dict[str, Score]:
    """The five figures of embeddings (n, dim): name -> value, low, high, n (`summarise`)."""
    scores = anchor_scores(embeddings, ratings)
    return {name: summarise(name, [scores[name]], resamples) for name in FIGURES}


def held_out_scores(
    embed_without: EmbedWithout, ratings: Ratings, folds: np.ndarray
) -> list[AnchorScores]:
    """The `anchor_scores` of clips that a fit has not seen, one entry for each seed of the folds.

    ``embed_without(held_out)`` fits to the clips outside the mask (n,) and returns the embeddings
    of all, (n, m). ``folds`` (seeds, n) numbers the folds of each seed; no artist may be in two
    folds of a seed. The fold's clips are the anchors: their neighbours are of all clips, their
    triplets of this fold only.

    Raises ValueError for folds that share an artist.
    """
    seeds: list[AnchorScores] = []
    for fold_of in folds:
        seed_scores = {name: np.zeros((len(ratings), 2)) for name in FIGURES}
        for fold in np.unique(fold_of):
            held_out = fold_of == fold
            if shared := set(ratings.artist[held_out]) & set(ratings.artist[~held_out]):
                raise ValueError(f"the artist {min(shared)} is in two folds")
            scores = anchor_scores(embed_without(held_out), ratings, held_out)
            for name in FIGURES:
                seed_scores[name][held_out] = scores[name][held_out]
        seeds.append(seed_scores)
    return seeds


def fitted_without(embeddings: np.ndarray, fit: FitFn, ratings: Ratings) -> EmbedWithout:
    """For `held_out_scores`: embeddings (n, dim) times what ``fit`` gives for the other clips.

    ``fit(train_embeddings, train_ratings)`` returns a matrix (dim, m).
    """
    return lambda held_out: embeddings @ fit(embeddings[~held_out], ratings.subset(~held_out))


def over_seeds(seeds: Sequence[AnchorScores], resamples: int = RESAMPLES) -> dict[str, Score]:
    """The five figures of `held_out_scores`, averaged over the seeds."""
    return {name: summarise(name, [s[name] for s in seeds], resamples) for name in FIGURES}


def cross_validated(
    embeddings: np.ndarray,
    fit: FitFn,
    ratings: Ratings,
    folds: np.ndarray,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """The five figures of embeddings (n, dim) that ``fit`` transforms, on clips it has not seen."""
    seeds = held_out_scores(fitted_without(embeddings, fit, ratings), ratings, folds)
    return over_seeds(seeds, resamples)


def fold_table(artists: np.ndarray, folds: int = FOLDS, seeds: int = FOLD_SEEDS) -> np.ndarray:
    """Folds by artist for several seeds, as `cross_validated` takes them: (seeds, n)."""
    return np.stack([artist_folds(artists, folds, seed) for seed in range(seeds)])


def chance_levels(ratings: Ratings) -> dict[str, float]:
    """What a representation without information reaches: 0 for r, 1/2 for feel.

    For genre, the mean share of clips by other artists that are of the anchor's genre.
    """
    other = ratings.artist[:, None] != ratings.artist[None]
    same = (ratings.genre[:, None] == ratings.genre[None]) & other
    genre = float((same.sum(axis=1) / other.sum(axis=1)).mean())
    return {"valence_r": 0.0, "arousal_r": 0.0, "feel": 0.5, "genre@1": genre, "genre@5": genre}


def human_ceiling(ratings: Ratings, resamples: int = RESAMPLES) -> dict[str, Score]:
    """How well one country's raters predict the other's; genre has no ceiling.

    valence_r, arousal_r: Pearson's r between the mean ratings of both countries. feel: the rated
    plane of one country as the representation, the other's ratings for the triplets; the mean of
    both directions.
    """
    uk, us = (ratings.of_country(country) for country in COUNTRIES)
    directions = [anchor_scores(uk.plane, us)["feel"], anchor_scores(us.plane, uk)["feel"]]
    return {
        "valence_r": summarise(
            "valence_r", [np.stack([uk.valence, us.valence], axis=1)], resamples
        ),
        "arousal_r": summarise(
            "arousal_r", [np.stack([uk.arousal, us.arousal], axis=1)], resamples
        ),
        "feel": summarise("feel", directions, resamples),
    }


def embed_clips(corpus: Corpus, ids: Sequence[str], embed_fn: EmbedFn, label: str) -> np.ndarray:
    """The embedding of every whole clip, (n, dim). Raises AudioError."""
    vectors = []
    for id in tqdm(ids, desc=label, unit="clip"):
        vectors.append(embed_fn(decode(corpus.audio_bytes(id), SAMPLE_RATE)))
    return np.stack(vectors).astype(np.float32)


@dataclass(frozen=True)
class _Clips:
    """Whole clips of ``corpus``, whose embeddings by the baselines are kept in ``cache``."""

    corpus: Corpus
    ids: list[str]
    cache: Path

    def embed(self, name: str, version: str, make: Callable[[], EmbedFn]) -> np.ndarray:
        """The embeddings (n, dim) by ``make()``, kept under ``version``."""
        hashes = {track.id: track.sha256 for track in self.corpus.tracks}
        key = json.dumps(["whole clips 1", name, version, [hashes[id] for id in self.ids]])
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        path = self.cache / "people" / f"{name}-{digest}.safetensors"
        if not is_valid(path):
            write_shard(path, {"vectors": embed_clips(self.corpus, self.ids, make(), name)}, {})
        return np.array(Shard(path).arrays["vectors"])


def _baselines(
    model: Feelprint, mecomp: Path, teachers: Sequence[Teacher]
) -> list[tuple[str, str, Callable[[], EmbedFn], bool]]:
    """Name, version, embedder, and whether its dimensions have no common unit."""
    torch.manual_seed(0)
    untrained = Feelprint(model.config)
    baselines: list[tuple[str, str, Callable[[], EmbedFn], bool]] = [
        ("untrained", model_digest(untrained), lambda: student_embedder(untrained), False),
        ("mfcc", "1", lambda: mfcc_embedder, True),
        ("mecomp", file_digest(mecomp), lambda: Mecomp(mecomp), False),
        ("bliss", "0.13.0", lambda: Bliss(), False),
    ]
    for teacher in teachers:
        version = json.dumps([teacher.key(), teacher.level_db], sort_keys=True)
        make = partial(teacher_embedder, teacher)
        baselines.append((teacher.name.replace("/", "-"), version, make, True))
    return baselines


def people_figures(
    model: Feelprint,
    folder: Path,
    mecomp: Path = MECOMP,
    cache: Path = Path("data/cache"),
    teachers: Sequence[Teacher] = (),
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The figures of a student and its baselines on the MUSIFEAST-17 corpus in ``folder``.

    ``teachers`` are rows too. Baselines' embeddings are kept in ``cache``. Returns, ready for JSON,

        clips, artists, genres: their numbers
        rows: row -> figure -> {value, low, high, n}; figures are `FIGURES`. Rows: student;
            student_without_ratings, whose rating transform is the identity; untrained; mfcc;
            mecomp; bliss; each teacher by its name
        cross_validated: whether the row student is
        absent: row -> why this baseline is missing
        chance: figure -> level
        ceiling: figure -> {value, low, high, n}, one country's raters against the other's; empty
            without ratings by country

    The row student is cross-validated where its rating transform was fitted to these ratings: it
    is fitted anew without the artists of each fold. Any other model is measured as it is, which is
    an estimate for unseen clips only where its training did not use these ratings.

    Raises:
        CorpusError: not such a corpus, or its ratings are of other tracks.
        AudioError: a clip that cannot be decoded.
        CacheError: the cache cannot be written.
    """
    corpus, ratings = rated_corpus(folder)
    clips = _Clips(corpus, [str(id) for id in ratings.ids], cache)
    prior = model.without_ratings()
    embeddings = embed_clips(corpus, clips.ids, student_embedder(prior), "student")
    fitted = is_fitted_to(model, embeddings, ratings)
    rows = {
        "student": (
            cross_validated(
                embeddings, fit_rating_metric, ratings, fold_table(ratings.artist), resamples
            )
            if fitted
            else figures(embeddings @ model.head.rating_transform.numpy(), ratings, resamples)
        ),
        "student_without_ratings": figures(embeddings, ratings, resamples),
    }
    absent: dict[str, str] = {}
    for name, version, make, standardise in _baselines(model, mecomp, teachers):
        try:
            vectors = clips.embed(name, version, make)
        except BaselineError as error:
            absent[name] = str(error)
            continue
        rows[name] = figures(standardised(vectors) if standardise else vectors, ratings, resamples)
    return {
        "clips": len(ratings),
        "artists": len(set(ratings.artist)),
        "genres": len(set(ratings.genre)),
        "cross_validated": fitted,
        "rows": rows,
        "absent": absent,
        "chance": chance_levels(ratings),
        "ceiling": human_ceiling(ratings, resamples) if ratings.by_country else {},
    }


def markdown(measured: Mapping[str, Any]) -> str:
    """The table of `people_figures` as Markdown, with intervals, chance and ceiling."""

    def cell(score: Score | None) -> str:
        if score is None:
            return ""
        return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"

    lines = [f"| | {' | '.join(FIGURES)} |", "|---" * (1 + len(FIGURES)) + "|"]
    rows = measured["rows"] | {"ceiling: UK and US raters": measured["ceiling"]}
    for name, scores in rows.items():
        lines.append(f"| {name} | {' | '.join(cell(scores.get(f)) for f in FIGURES)} |")
    chance = " | ".join(f"{measured['chance'][figure]:.3f}" for figure in FIGURES)
    lines += [f"| chance | {chance} |", ""]
    triplets = measured["rows"]["student"]["feel"]["n"]
    lines.append(
        f"{measured['clips']} clips by {measured['artists']} artists, {measured['genres']} genres, "
        f"{triplets:,} triplets; 95 % intervals by bootstrap over the clips."
    )
    if measured["cross_validated"]:
        lines.append(
            f"The student's rating metric is fitted to these ratings: its row is cross-validated, "
            f"{FOLDS} folds by artist, mean of {FOLD_SEEDS} seeds."
        )
    return "\n".join([*lines, *(f"Without {n}: {why}" for n, why in measured["absent"].items())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.evaluation.people",
        description="Compare a released model and its baselines with people's ratings.",
    )
    parser.add_argument("corpus", type=Path, help="of `python -m datasets_scripts musifeast`")
    parser.add_argument("--model", type=Path, default=Path("rust/models"), metavar="FOLDER")
    parser.add_argument("--mecomp", type=Path, default=MECOMP, metavar="FILE")
    parser.add_argument("--config", type=Path, help="a run's YAML: adds its teachers as rows")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures here")
    args = parser.parse_args(arguments)
    try:
        if not (args.model / "model.safetensors").is_file():
            raise ConfigError(f"no model.safetensors in {args.model}; expected a released model")
        teachers = []
        if args.config:
            teachers = load_teachers(load(args.config))
        with contextlib.redirect_stdout(sys.stderr):  # the hub's library prints where it loads from
            model = Feelprint.from_pretrained(str(args.model)).eval()
        measured = people_figures(model, args.corpus, args.mecomp, args.cache, teachers)
        if args.json:
            write_text(args.json, json.dumps(measured, indent=2) + "\n")
    except (AudioError, CacheError, ConfigError, CorpusError, TeacherError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to resume")
    print(markdown(measured))


if __name__ == "__main__":
    main()
