"""Triplets derived from a corpus's metadata or a teacher's embeddings. All seeded.

Each function draws triplets of one split of the corpus at a time, so no track is in two splits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from datasets_scripts.corpora.corpus import SPLITS, Corpus, CorpusError, Track
from datasets_scripts.corpora.splits import track_keys
from datasets_scripts.triplets.table import Triplet, write_triplets

EXCERPT_S = 18.0


def from_labels(
    tracks: Sequence[Track], label: Callable[[Track], str], source: str, count: int, seed: int
) -> list[Triplet]:
    """Two tracks of one label, and the odd one of another.

    The odd one shares no artist and no album with the pair. Labels are drawn uniformly, whatever
    their sizes. Raises CorpusError when no triplet is possible.
    """
    rng = Random(f"{seed}/{source}")
    groups: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        if label(track):
            groups[label(track)].append(track)
    pairs = sorted(name for name, group in groups.items() if len(group) > 1)
    if not pairs or len(groups) < 2:
        raise CorpusError(
            f"no {source} triplet is possible: {len(pairs)} of {len(groups)} labels have two tracks"
        )
    names = sorted(groups)

    def draw() -> Triplet | None:
        name = rng.choice(pairs)
        first, second = rng.sample(groups[name], 2)
        other = rng.choice([n for n in names if n != name])
        odd = rng.choice(groups[other])
        pair = track_keys(first.artist, first.album) | track_keys(second.artist, second.album)
        if pair & track_keys(odd.artist, odd.album):
            return None
        return _shuffled(first.id, second.id, odd.id, source, rng)

    return _draw_distinct(draw, count, source)


def from_albums(tracks: Sequence[Track], count: int, seed: int) -> list[Triplet]:
    """Two tracks of one album, the odd one of another."""
    return from_labels(tracks, lambda t: t.album, "made:album", count, seed)


def from_artists(tracks: Sequence[Track], count: int, seed: int) -> list[Triplet]:
    """Two tracks of one artist, the odd one of another."""
    return from_labels(tracks, lambda t: t.artist, "made:artist", count, seed)


def from_families(tracks: Sequence[Track], count: int, seed: int) -> list[Triplet]:
    """Two tracks of one style family of the styles corpus, the odd one of another.

    Only whole bands: a drum solo in one style is more like a drum solo in another.
    """
    bands = [t for t in tracks if t.source.startswith("styles") and len(t.genres) == 2]
    return from_labels(bands, lambda t: t.genres[0], "made:family", count, seed)


def from_excerpts(tracks: Sequence[Track], count: int, seed: int) -> list[Triplet]:
    """Two excerpts of EXCERPT_S seconds of a track that do not overlap, the odd one of another."""
    long = [t for t in tracks if t.duration_s >= 2 * EXCERPT_S]
    rng = Random(f"{seed}/made:excerpt")
    if len(long) < 2:
        raise CorpusError(f"{len(long)} tracks of {2 * EXCERPT_S:.0f} s and more: two are needed")

    def draw() -> Triplet | None:
        track, other = rng.sample(long, 2)
        if track_keys(track.artist, track.album) & track_keys(other.artist, other.album):
            return None
        first = rng.uniform(0, track.duration_s - 2 * EXCERPT_S)
        second = rng.uniform(first + EXCERPT_S, track.duration_s - EXCERPT_S)
        start = rng.uniform(0, other.duration_s - EXCERPT_S)
        return _shuffled(
            f"{track.id}@{first:.2f}",
            f"{track.id}@{second:.2f}",
            f"{other.id}@{start:.2f}",
            "made:excerpt",
            rng,
        )

    return _draw_distinct(draw, count, "made:excerpt")


def from_genre_tree(
    tracks: Sequence[Track], tree: dict[str, str], count: int, seed: int
) -> list[Triplet]:
    """Three tracks of which one is farther away in the genre tree than the other two are apart.

    tree: genre -> its parent, "" for a root. The distance of two tracks is the least number of
    steps between a most specific genre of one and of the other, where the roots have a common
    ancestor. The nearest pair must be nearer by at least one step than both others.
    """
    rng = Random(f"{seed}/made:genre")
    leaves = {t.id: _leaves(t.genres, tree) for t in tracks}
    usable = [t for t in tracks if leaves[t.id]]
    by_leaf: dict[str, list[Track]] = defaultdict(list)
    for track in usable:
        for leaf in leaves[track.id]:
            by_leaf[leaf].append(track)
    names = sorted(name for name, group in by_leaf.items() if len(group) > 1)
    if not names or len(by_leaf) < 2:
        raise CorpusError(
            "no genre triplet is possible: two genres are needed, one with two tracks"
        )

    def between(x: str, y: str) -> int:
        return min(tree_distance(g, h, tree) for g in leaves[x] for h in leaves[y])

    def draw() -> Triplet | None:
        first, second = rng.sample(by_leaf[rng.choice(names)], 2)
        third = rng.choice(usable)
        ids = [first.id, second.id, third.id]
        if len(set(ids)) < 3:
            return None
        pair_steps = {odd: between(*(id for id in ids if id != odd)) for odd in ids}
        nearest, second_nearest, _ = sorted(pair_steps.values())
        if nearest == second_nearest:
            return None
        odd = min(pair_steps, key=lambda id: pair_steps[id])
        x, y = (id for id in ids if id != odd)
        return _shuffled(x, y, odd, "made:genre", rng)

    return _draw_distinct(draw, count, "made:genre")


def tree_distance(x: str, y: str, tree: dict[str, str]) -> int:
    """Steps between two genres through their nearest common ancestor; "" is that of the roots."""
    lines = [[*_lineage(genre, tree), ""] for genre in (x, y)]
    common = next(genre for genre in lines[0] if genre in lines[1])
    return lines[0].index(common) + lines[1].index(common)


def _lineage(genre: str, tree: dict[str, str]) -> list[str]:
    """A genre and its ancestors, up to the root."""
    line = []
    while genre and genre not in line:
        line.append(genre)
        genre = tree.get(genre, "")
    return line


def _leaves(genres: Iterable[str], tree: dict[str, str]) -> list[str]:
    """The genres of a track that are in the tree and not an ancestor of another of them."""
    known = [g for g in genres if g in tree]
    ancestors = {up for g in known for up in _lineage(g, tree)[1:]}
    return [g for g in known if g not in ancestors]


def from_embeddings(
    ids: Sequence[str],
    embeddings: np.ndarray,
    count: int,
    seed: int,
    margin_quantile: float = 0.9,
) -> list[Triplet]:
    """Triplets that a teacher answers with a large margin.

    embeddings: (tracks, dim), compared by cosine. The margin of a triple is the similarity of its
    nearest pair minus that of the second nearest; of many random triples, those with a margin
    above the quantile `margin_quantile` are taken. Raises CorpusError for arrays of wrong shapes,
    or too few triples.
    """
    if embeddings.ndim != 2 or len(ids) != len(embeddings) or len(ids) < 3:
        raise CorpusError(f"{len(ids)} ids, embeddings {embeddings.shape}: one row for each of 3+")
    if len(set(ids)) != len(ids) or not np.isfinite(embeddings).all():
        raise CorpusError("the embeddings' ids must differ, and their values be finite")
    if not 0 <= margin_quantile < 1:
        raise CorpusError(f"margin_quantile is from 0 to less than 1, not {margin_quantile}")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(norms, 1e-12)
    tries = int(np.ceil(2 * count / (1 - margin_quantile)))
    triples = np.random.default_rng(seed).integers(0, len(ids), (tries, 3))
    triples = np.unique(np.sort(triples, axis=1), axis=0)  # each set of three once
    a, b, c = triples.T
    triples = triples[(a != b) & (b != c)]
    left, right = unit[triples[:, [1, 0, 0]]], unit[triples[:, [2, 2, 1]]]  # (triples, 3, dim)
    pairs = (left * right).sum(axis=2)  # (triples, 3): of the two others than track n
    ranked = np.sort(pairs, axis=1)
    margin = ranked[:, 2] - ranked[:, 1]
    above = int(np.ceil(len(triples) * (1 - margin_quantile)))
    chosen = np.argsort(-margin, kind="stable")[:above][:count]
    if len(chosen) < count:
        raise CorpusError(
            f"only {len(chosen)} triplets have a margin above the quantile, not {count}: "
            "ask for fewer"
        )
    rng = Random(f"{seed}/made:teacher")
    found = []
    for n in chosen:
        odd = int(pairs[n].argmax())
        x, y = (ids[i] for k, i in enumerate(triples[n]) if k != odd)
        found.append(_shuffled(x, y, ids[triples[n, odd]], "made:teacher", rng))
    return found


MAKERS: dict[str, Callable[[Sequence[Track], int, int], list[Triplet]]] = {
    "album": from_albums,
    "artist": from_artists,
    "family": from_families,
    "excerpt": from_excerpts,
}


def make(
    corpus: Corpus, by: str, out: Path, count: int, seed: int, embeddings: Path | None = None
) -> str:
    """Make `count` triplets of each split, and write `out`/{train,validation,test}.parquet.

    by: one of MAKERS; "genre", by the corpus's genre_tree.json; or "teacher", by `embeddings`, an
    .npz file with `ids` (tracks,) and `embeddings` (tracks, dim). A split that is too small for
    triplets is named in the report. Returns the report. Raises CorpusError when no split has any.
    """
    vectors = _read_embeddings(embeddings) if by == "teacher" else {}
    tree = _read_tree(corpus) if by == "genre" else {}
    report, problems = [], []
    for split in SPLITS:
        tracks = corpus.split(split)
        try:
            if by == "teacher":
                ids = [t.id for t in tracks if t.id in vectors]
                rows = np.array([vectors[id] for id in ids])
                found = from_embeddings(ids, rows, count, seed)
            elif by == "genre":
                found = from_genre_tree(tracks, tree, count, seed)
            else:
                found = MAKERS[by](tracks, count, seed)
        except CorpusError as error:
            problems.append(f"{split}: none: {error}")
            continue
        write_triplets(found, out / f"{split}.parquet")
        report.append(f"{out / f'{split}.parquet'}: {len(found)} triplets")
    if not report:
        raise CorpusError("; ".join(problems))
    return "\n".join(report + problems)


def _read_embeddings(path: Path | None) -> dict[str, np.ndarray]:
    if path is None:
        raise CorpusError("triplets from a teacher need its embeddings: --embeddings FILE.npz")
    try:
        with np.load(path) as file:
            ids, vectors = file["ids"], file["embeddings"]
    except (OSError, KeyError, ValueError) as error:
        raise CorpusError(f"{path}: no .npz file with `ids` and `embeddings`: {error}") from None
    if vectors.ndim != 2 or len(ids) != len(vectors):
        raise CorpusError(f"{path}: {len(ids)} ids, but embeddings of the shape {vectors.shape}")
    return {str(id): vector for id, vector in zip(ids, vectors, strict=True)}


def _read_tree(corpus: Corpus) -> dict[str, str]:
    path = corpus.folder / "genre_tree.json"
    if not path.exists():
        raise CorpusError(f"{path} is not there: only the fma corpus has a genre tree")
    return json.loads(path.read_text(encoding="utf-8"))


def _shuffled(first: str, second: str, odd: str, source: str, rng: Random) -> Triplet:
    ids = [first, second, odd]
    rng.shuffle(ids)
    return Triplet(ids[0], ids[1], ids[2], odd=odd, source=source)


def _draw_distinct(draw: Callable[[], Triplet | None], count: int, source: str) -> list[Triplet]:
    """`count` different triplets. Raises CorpusError when they do not exist."""
    found: dict[frozenset[str], Triplet] = {}
    misses = 0
    while len(found) < count:
        triplet = draw()
        if triplet is None or frozenset(triplet.ids) in found:
            misses += 1
            if misses > 1000 + 50 * count:
                raise CorpusError(
                    f"only {len(found)} different {source} triplets were found, not {count}: "
                    "ask for fewer"
                )
        else:
            found[frozenset(triplet.ids)] = triplet
    return list(found.values())
