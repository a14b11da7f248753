"""Derived triplets: the odd one follows from the rule, and all follows from the seed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track, write_corpus
from datasets_scripts.triplets import made
from datasets_scripts.triplets.table import Triplet, read_triplets, track_of
from tests.datasets_scripts import sounds


def tracks() -> list[Track]:
    """Six albums of four tracks; the artist of albums 0 and 1 is the same."""
    return [
        sounds.track_of(
            bytes([album, n]),
            album=f"album {album}",
            artist=f"artist {max(1, album)}",
            duration_s=100.0,
        )
        for album in range(6)
        for n in range(4)
    ]


def pair_and_odd(triplet: Triplet, by_id: dict[str, Track]) -> tuple[Track, Track, Track]:
    assert triplet.odd is not None
    first, second = (by_id[track_of(s)] for s in triplet.ids if s != triplet.odd)
    return first, second, by_id[track_of(triplet.odd)]


@pytest.mark.parametrize("by", ["album", "artist", "excerpt"])
def test_labels(by: str) -> None:
    known = tracks()
    by_id = {t.id: t for t in known}
    found = made.MAKERS[by](known, 60, 3)
    assert len({frozenset(t.ids) for t in found}) == 60
    assert found == made.MAKERS[by](known, 60, 3) != made.MAKERS[by](known, 60, 4)
    assert max(Counter(t.ids.index(t.odd) for t in found if t.odd).values()) < 40
    for triplet in found:
        first, second, odd = pair_and_odd(triplet, by_id)
        if by == "album":
            assert first.album == second.album
        elif by == "artist":
            assert first.artist == second.artist
        else:
            assert first == second
            a, b = sorted(float(s.split("@")[1]) for s in triplet.ids if s != triplet.odd)
            assert a >= 0 and a + made.EXCERPT_S <= b <= 100.0 - made.EXCERPT_S
        assert odd.album != first.album and odd.artist not in (first.artist, second.artist)


def test_families_are_of_whole_bands_only() -> None:
    def track(n: int, *genres: str) -> Track:
        return sounds.track_of(bytes([n]), source="styles: x", album=f"m{n}", genres=list(genres))

    known = [track(n, "jazz" if n % 2 else "rock", f"style {n}") for n in range(10)]
    known += [track(n, "jazz", "style", "drums") for n in range(10, 20)]
    bands = {t.id: t.genres[0] for t in known[:10]}
    for triplet in made.from_families(known, 20, 1):
        families = [bands[s] for s in triplet.ids]
        assert families.count(bands[triplet.odd or ""]) == 1


TREE = {"Rock": "", "Punk": "Rock", "Metal": "Rock", "Doom": "Metal", "Jazz": "", "Bop": "Jazz"}


@pytest.mark.parametrize(
    ("x", "y", "steps"),
    [("Punk", "Punk", 0), ("Punk", "Rock", 1), ("Punk", "Metal", 2), ("Punk", "Doom", 3),
     ("Rock", "Jazz", 2), ("Doom", "Bop", 5)],
)  # fmt: skip
def test_steps_in_the_genre_tree(x: str, y: str, steps: int) -> None:
    assert made.tree_distance(x, y, TREE) == made.tree_distance(y, x, TREE) == steps


def test_the_odd_one_is_farther_in_the_tree() -> None:
    genres = [["Rock", "Punk"], ["Rock", "Metal", "Doom"], ["Jazz", "Bop"], ["Jazz"], ["Unknown"]]
    known = [
        sounds.track_of(bytes([n, g]), genres=genres[g], artist=f"a{n}{g}")
        for n in range(3)
        for g in range(5)
    ]
    leaf = {t.id: t.genres[-1] for t in known}
    found = made.from_genre_tree(known, TREE, 40, 5)
    assert not any(leaf[s] == "Unknown" for t in found for s in t.ids)
    for triplet in found:
        x, y = (leaf[s] for s in triplet.ids if s != triplet.odd)
        odd = leaf[triplet.odd or ""]
        steps = made.tree_distance(x, y, TREE)
        assert steps < made.tree_distance(x, odd, TREE)
        assert steps < made.tree_distance(y, odd, TREE)
    with pytest.raises(CorpusError, match="two genres are needed"):
        made.from_genre_tree(known[:1], TREE, 5, 0)


def test_teacher_triplets_have_a_large_margin() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((3, 16)), 10, axis=0)
    embeddings = centres + 0.1 * rng.standard_normal((30, 16))
    ids = [f"t{n}" for n in range(30)]
    found = made.from_embeddings(ids, embeddings, 50, 1)
    assert len({frozenset(t.ids) for t in found}) == 50
    for triplet in found:
        groups = Counter(int(s[1:]) // 10 for s in triplet.ids)
        assert groups[int((triplet.odd or "t0")[1:]) // 10] == 1 and len(groups) == 2
    with pytest.raises(CorpusError, match=r"only .* above the quantile"):
        made.from_embeddings(ids, embeddings, 5000, 1)
    for bad in (embeddings[:5], embeddings * np.nan):
        with pytest.raises(CorpusError):
            made.from_embeddings(ids, bad, 5, 1)


def test_impossible_triplets_are_refused() -> None:
    one = tracks()[:4]
    with pytest.raises(CorpusError, match="no made:album triplet is possible"):
        made.from_albums(one, 5, 0)
    with pytest.raises(CorpusError, match=r"only .* different made:album triplets"):
        made.from_albums(tracks()[8:16], 500, 0)


def test_one_table_for_each_split(tmp_path: Path) -> None:
    items = sounds.items(tmp_path, 12, size=400)
    items = [
        i._replace(
            track=replace(
                i.track, album=f"x{n // 2}", genres=["Punk" if n % 4 < 2 else "Bop"],
                split="test" if n >= 8 else "train" if n < 6 else "validation",
            )
        )
        for n, i in enumerate(items)
    ]  # fmt: skip
    write_corpus(items, tmp_path / "corpus", "")
    corpus = Corpus(tmp_path / "corpus")
    report = made.make(corpus, "album", tmp_path / "out", 4, 0)
    assert "validation: none: no made:album triplet" in report  # it has a single album
    for split in ("train", "test"):
        ids = {t.id for t in corpus.split(split)}
        assert {
            s for t in read_triplets(tmp_path / "out" / f"{split}.parquet") for s in t.ids
        } <= ids
    with pytest.raises(CorpusError, match="only the fma corpus has a genre tree"):
        made.make(corpus, "genre", tmp_path / "genre", 2, 0)
    (corpus.folder / "genre_tree.json").write_text(json.dumps(TREE))
    made.make(corpus, "genre", tmp_path / "genre", 2, 0)
    with pytest.raises(CorpusError, match=r"--embeddings FILE\.npz"):
        made.make(corpus, "teacher", tmp_path / "teacher", 1, 0)
    ids = np.array([t.id for t in corpus.tracks])
    vectors = np.random.default_rng(0).standard_normal((12, 4))
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=vectors)
    report = made.make(corpus, "teacher", tmp_path / "teacher", 1, 0, tmp_path / "e.npz")
    assert "train.parquet: 1 triplets" in report
