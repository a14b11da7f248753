"""The figures on cases worked by hand; excerpts; triplets of albums."""

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus
from distill.evaluation import metrics as evaluation
from distill.evaluation.metrics import (
    METRIC,
    SAMPLE_RATE,
    TRIPLETS_A_TRACK,
    Triplets,
    album_triplets,
    compact,
    cosine_to_teacher,
    excerpts,
    interval,
    retrieval,
    score,
    standardised,
    teacher_embedder,
)
from distill.features.recordings import Recording
from distill.features.shards import CacheError
from distill.training.batches import Targets
from distill.training.teacher_space import fit_space
from tests.tones import melody

# three tracks of two excerpts on a line; the first two are of one album
LINE = np.array([[[0.0], [1.0]], [[1.4], [10.0]], [[18.0], [19.0]]])
ALBUMS = np.array([0, 0, 1])


def test_retrieval_by_hand() -> None:
    figures = retrieval(LINE, ALBUMS, 100)
    # 0 finds 1; 1 finds 1.4; 1.4 finds 1; 10 finds 18; 18 and 19 find each other
    assert figures["track_recall@1"]["accuracy"] == pytest.approx(3 / 6)
    assert figures["track_recall@1"]["n"] == 6
    # among other tracks: 0, 1 and 1.4 find their album, 10 does not; the third has no mate
    assert figures["album_precision@1"]["accuracy"] == pytest.approx(3 / 4)
    assert figures["album_precision@1"]["n"] == 4


def test_an_interval_by_hand() -> None:
    every = np.array([1.0, 1, 0, 0, 1, 0])
    # one group: nothing to draw from but itself
    one = interval(every, np.zeros(6, int), 200)
    assert (one["accuracy"], one["low"], one["high"], one["n"]) == (0.5, 0.5, 0.5, 6)
    # two groups, one right and one wrong: 0, 1/2 or 1
    two = interval(np.repeat([1.0, 0.0], 3), np.repeat([0, 1], 3), 200)
    assert (two["accuracy"], two["low"], two["high"]) == (0.5, 0.0, 1.0)
    # the more groups agree, the narrower
    many = interval(np.tile([1.0, 0.0], 100), np.arange(200), 500)
    assert 0.40 < many["low"] < 0.5 < many["high"] < 0.60


def test_both_definitions_by_hand() -> None:
    # anchor 0, positive 1.4: d 1.4; negative 18: farther from both. Then anchor 10, positive 0:
    # d 10; negative 18: d 8, wrong. Then anchor 1, positive 10, negative 19: d 9 < 18 is right,
    # and 9 = d(positive, negative) is a tie, which is wrong for the odd one out.
    triplets = Triplets(
        np.array([[0, 0], [1, 1], [0, 1]]),
        np.array([[1, 0], [0, 0], [1, 1]]),
        np.array([[2, 0], [2, 0], [2, 1]]),
    )
    figures = score(LINE, ALBUMS, triplets, 50, evaluate.load(str(METRIC)))
    assert figures["triplet"]["accuracy"] == pytest.approx(2 / 3)
    assert figures["odd_one_out"]["accuracy"] == pytest.approx(1 / 3)
    assert figures["odd_one_out"]["ties"] == 1
    assert figures["triplet"]["n"] == 3


def test_an_embedding_that_says_nothing_scores_nothing() -> None:
    albums = np.repeat(np.arange(4), 3)
    same = np.ones((12, 2, 8)) / np.sqrt(8)
    figures = score(same, albums, album_triplets(albums), 50, evaluate.load(str(METRIC)))
    assert figures["triplet"]["accuracy"] == figures["odd_one_out"]["accuracy"] == 0
    perfect = np.repeat(np.eye(4)[albums][:, None], 2, axis=1)
    perfect += 1e-3 * np.random.default_rng(0).standard_normal(perfect.shape)
    figures = score(perfect, albums, album_triplets(albums), 50, evaluate.load(str(METRIC)))
    assert figures["triplet"]["accuracy"] == figures["odd_one_out"]["accuracy"] == 1


def test_triplets_are_of_albums() -> None:
    albums = np.array([0, 0, 0, 1, 1, 2])  # the last has no mate, and is only ever a stranger
    triplets = album_triplets(albums)
    anchor, positive, negative = (
        rows[:, 0] for rows in (triplets.anchor, triplets.positive, triplets.negative)
    )
    assert np.bincount(anchor).tolist() == [TRIPLETS_A_TRACK] * 5
    assert (albums[anchor] == albums[positive]).all()
    assert (anchor != positive).all()
    assert (albums[anchor] != albums[negative]).all()
    assert 5 in negative
    assert set(np.unique(triplets.anchor[:, 1])) == {0, 1}
    again = album_triplets(albums)
    assert np.array_equal(triplets.negative, again.negative)
    with pytest.raises(CacheError, match="no album of the split has two tracks"):
        album_triplets(np.arange(5))


def test_standardised_vectors_do_not_know_their_units() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 2, 5))
    scaled = vectors * rng.uniform(0.01, 100, 5) + rng.standard_normal(5)
    assert np.allclose(standardised(vectors), standardised(scaled))
    assert np.allclose(np.linalg.norm(standardised(vectors), axis=2), 1)
    dead = np.concatenate([vectors, np.full((6, 2, 1), 3.0)], axis=2)
    assert np.allclose(standardised(dead)[..., :5], standardised(vectors))


def test_compact_vectors_have_the_same_distances() -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 2, 300))
    small = compact(vectors)
    assert small.shape == (4, 2, 8)
    for x in range(8):
        a, b = vectors.reshape(8, -1), small.reshape(8, -1)
        assert np.allclose(np.linalg.norm(a - a[x], axis=1), np.linalg.norm(b - b[x], axis=1))


def test_excerpts_stand_at_one_and_two_thirds(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(tones)
    found = excerpts(corpus, "test", 4.0, tmp_path)
    assert found.audio.shape == (6, 2, 4 * SAMPLE_RATE)
    assert found.album_names == ["album 6", "album 7"]
    track = next(t for t in corpus.tracks if t.id == found.tracks[0])
    album, number = int(track.album.split()[1]), int(track.title.split()[1])
    whole = melody(album, number, 11.0)  # 3 s are free: a third before, one between, one after
    for excerpt, start in zip(found.audio[0], (1, 6), strict=True):
        want = whole[start * SAMPLE_RATE : (start + 4) * SAMPLE_RATE]
        assert np.abs(excerpt - want).max() < 1e-4
    held_out = {t.album for t in corpus.tracks if t.id in found.tracks}
    assert held_out.isdisjoint(t.album for t in corpus.tracks if t.split == "train")

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(evaluation, "decode", never)
    again = excerpts(corpus, "test", 4.0, tmp_path)
    assert np.array_equal(again.audio, found.audio)


def test_tracks_too_short_for_two_excerpts_are_named(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="0 tracks of the test split are longer than two"):
        excerpts(Corpus(tones), "test", 6.0, tmp_path)


class Levels:
    """A teacher that answers with the mean level of a window of one second."""

    name, sample_rate, window = "levels", 11_025, 11_025

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.square().mean(dim=1, keepdim=True).sqrt()


def test_a_teacher_hears_an_excerpt_at_its_level() -> None:
    hear = teacher_embedder(Levels(), -20.0)  # type: ignore[arg-type]
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
    for gain in (0.001, 1.0):
        assert hear((gain * tone).astype(np.float32)) == pytest.approx(0.1, rel=0.01)
    short = (0.5 * tone[: SAMPLE_RATE // 2]).astype(np.float32)  # half a window, then zeros
    assert hear(short) == pytest.approx(0.1 * np.sqrt(0.5), rel=0.02)
    assert hear(np.zeros(SAMPLE_RATE, np.float32)) == 0


def test_the_cosine_to_the_teacher_by_hand() -> None:
    rng = np.random.default_rng(0)
    space = fit_space(rng.standard_normal((80, 10)), np.repeat(np.arange(20), 4), 6)
    taught = rng.standard_normal((5, 10)).astype(np.float16)
    found = [
        Recording(None, variant, np.zeros((15, 2, 2), np.float16), np.ones(15), (taught,))  # type: ignore[arg-type]
        for variant in (0, 1)
    ]
    wanted = space(taught.astype(np.float32).mean(axis=0)[None], 4)[0]

    class Parrot:
        """A student that answers with what it was given to say."""

        def __init__(self, says: np.ndarray):
            self.says, self.head = torch.from_numpy(says.astype(np.float32)), self

        def eval(self) -> Any:
            return self

        def tokens(self, mel: torch.Tensor) -> torch.Tensor:
            assert mel.shape == (1, 15, 2, 2)
            return mel

        def unit_embedding(self, tokens: torch.Tensor, nonsilent_ratio: torch.Tensor) -> Any:
            return self.says[None], None

    for says, cosine in ((wanted, 1.0), (-wanted, -1.0)):
        made = cosine_to_teacher(Parrot(says), found, Targets(space))  # type: ignore[arg-type]
        assert made["mean"] == pytest.approx(cosine, abs=1e-5)
        assert made["clips"] == 1  # the altered copy is not counted
