"""Active selection: the triplets from whose answers the model would learn most."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.triplets.distance import opposite_squares
from survey.config import SurveyError

N_CANDIDATES = 20_000  # triplets drawn uniformly, of which the most informative are kept


def read_embeddings(paths: Sequence[Path], ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The tracks of `ids` in every table, and their embeddings, (members, tracks, dim).

    Each table is a Parquet file with the columns `id` (string) and `embedding` (list of floats),
    one row a track; several tables are the members of an ensemble, whose vectors must have the
    same length, while their axes may differ. Raises SurveyError for a table that does not fit.
    """
    wanted = set(ids)
    members: list[dict[str, np.ndarray]] = []
    for path in paths:
        try:
            table = pq.read_table(path, columns=["id", "embedding"])
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
            raise SurveyError(
                f"cannot read the embeddings {path}: {error}; expected a Parquet file with the "
                "columns id and embedding"
            ) from error
        rows = zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)
        found = {i: np.asarray(v, np.float32) for i, v in rows if i in wanted}
        lengths = {v.shape for v in found.values()}
        if len(found) < 3 or len(lengths) != 1:
            raise SurveyError(
                f"the embeddings {path} must hold at least 3 tracks of this corpus with vectors "
                f"of one length; found {len(found)} tracks and the shapes {sorted(lengths)}"
            )
        if not all(np.isfinite(v).all() and np.linalg.norm(v) > 0 for v in found.values()):
            raise SurveyError(f"the embeddings {path} hold a vector that is zero or not finite")
        members.append(found)
    if len({next(iter(m.values())).shape for m in members}) != 1:
        raise SurveyError("the members of an ensemble must have vectors of one length")
    shared = [i for i in ids if all(i in member for member in members)]
    if len(shared) < 3:
        raise SurveyError(f"the {len(members)} tables of embeddings share {len(shared)} tracks")
    return shared, np.stack([[member[i] for i in shared] for member in members])


def odd_probabilities(vectors: np.ndarray, triplets: np.ndarray, temperature: float) -> np.ndarray:
    """How likely each track is the odd one out: a softmax over minus half the pairs' squares.

    The odd one is the track outside the nearest pair (`opposite_squares`).
    vectors: (members, tracks, dim); triplets: (n, 3) track indices. Returns (members, n, 3).
    """
    logits = np.stack(opposite_squares(vectors, triplets), axis=-1) / (-2 * temperature)
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def information_gain(probabilities: np.ndarray) -> np.ndarray:
    """The expected information gain of each answer, in nats: (members, n, 3) -> (n,).

    For one model the entropy of its answer; for an ensemble the mutual information between the
    answer and the member (BALD; Houlsby et al. 2011): high where the members are confident and
    disagree, low where all of them find the three tracks equally likely.
    """
    mean = _entropy(probabilities.mean(axis=0))
    if len(probabilities) == 1:
        return mean
    return mean - _entropy(probabilities).mean(axis=0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.clip(p, 1e-12, None))).sum(axis=-1)


def draw_triplets(
    artists: np.ndarray, count: int, rng: np.random.Generator, min_artists: int = 3
) -> np.ndarray:
    """`count` triplets of different tracks, uniform over those of at least `min_artists` artists.

    artists: (tracks,), the number of each track's artist. Returns (count, 3). Raises SurveyError
    when there is no such triplet.
    """
    if len(np.unique(artists)) < min_artists or len(artists) < 3:
        raise SurveyError(
            f"a round needs songs of {min_artists} different artists; the corpus has "
            f"{len(artists)} songs of {len(np.unique(artists))}"
        )
    kept = np.empty((0, 3), np.int64)
    while len(kept) < count:
        drawn = rng.integers(len(artists), size=(4 * count + 16, 3))
        different = _distinct(drawn) == 3
        kept = np.concatenate([kept, drawn[different & (_distinct(artists[drawn]) >= min_artists)]])
    return kept[:count]


def _distinct(rows: np.ndarray) -> np.ndarray:
    """How many different numbers each row of three holds: (n, 3) -> (n,)."""
    ordered = np.sort(rows, axis=1)
    return 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)


def select_uncertain(
    vectors: np.ndarray,
    artists: np.ndarray,
    count: int,
    temperature: float,
    rng: np.random.Generator,
    asked: Set[tuple[int, int, int]] = frozenset(),
    min_artists: int = 3,
) -> np.ndarray:
    """Up to `count` triplets with the largest information gain, the largest first: (n, 3).

    They are selected from N_CANDIDATES uniform ones, without those in `asked` (each sorted). A
    track is in at most twice the mean number of triplets per track, so that one unusual track
    does not fill the list.
    """
    drawn = draw_triplets(artists, N_CANDIDATES, rng, min_artists)
    candidates = np.unique(np.sort(drawn, axis=1), axis=0)
    order = np.argsort(-information_gain(odd_probabilities(vectors, candidates, temperature)))
    per_track = max(2, -(-6 * count // len(artists)))
    used = np.zeros(len(artists), np.int64)
    chosen = []
    for triplet in candidates[order]:
        if used[triplet].max() < per_track and tuple(triplet) not in asked:
            used[triplet] += 1
            chosen.append(triplet)
            if len(chosen) == count:
                break
    return np.asarray(chosen, np.int64).reshape(-1, 3)
