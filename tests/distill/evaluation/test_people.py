"""Figures against people's ratings: cases by hand, properties, and the command on made-up clips."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datasets_scripts.corpora.corpus import CorpusError
from datasets_scripts.musifeast import build_musifeast
from datasets_scripts.ratings import Ratings, rated_corpus
from distill.evaluation import people
from distill.evaluation.excerpts import student_embedder
from distill.evaluation.people import (
    FIGURES,
    anchor_scores,
    chance_levels,
    cross_validated,
    embed_clips,
    figures,
    fold_table,
    human_ceiling,
    main,
    markdown,
    people_figures,
    summarise,
)
from distill.teachers.base import Teacher
from distill.training.rating_metric import fit_rating_metric, is_fitted_to
from student import Feelprint
from tests.datasets_scripts.made_musifeast import CLIPS, clip_name, rows, write_musifeast


def rated(valence: np.ndarray, arousal: np.ndarray, **known: np.ndarray) -> Ratings:
    """Clips with these ratings, each by an artist and of a genre of its own unless given."""
    names = np.array([str(n) for n in range(len(valence))])
    blank: dict = {"ids": names, "genre": names, "artist": names}
    return Ratings(**(blank | {"valence": valence, "arousal": arousal} | known))


def random_ratings(n: int, seed: int = 0) -> Ratings:
    rng = np.random.default_rng(seed)
    return rated(
        rng.uniform(1, 5, n), rng.uniform(1, 5, n), genre=np.array([str(i % 6) for i in range(n)])
    )


# ten clips on a line, ever farther apart: 0 1 3 6 10 | 15 21 28 36 45; two halves of one feel each
LINE = np.cumsum(np.arange(10.0))[:, None]
HALVES = np.repeat([2.0, 4.0], 5)
PAIRS = np.array(list("aabbccddee"))


def test_neighbours_by_hand() -> None:
    valence = np.arange(10.0)
    scores = anchor_scores(LINE, rated(valence, HALVES, genre=PAIRS))
    # all others but the farthest, which is 45 for the clips up to 21, and 0 for the others
    farthest = np.repeat([9, 0], [7, 3])
    expected = (45 - valence - farthest) / 8
    assert scores["valence_r"].tolist() == np.stack([valence, expected], axis=1).tolist()
    # the nearest is the one before; each genre is a pair, so that every second clip finds its own
    assert scores["genre@1"][:, 0].tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    # the other one of the pair is the nearest or the second nearest: one of five
    assert scores["genre@5"][:, 0].tolist() == pytest.approx([0.2] * 10)


def test_all_triplets_by_hand() -> None:
    scores = anchor_scores(LINE, rated(HALVES, HALVES))
    # 4 positives and 5 negatives an anchor. From 10: 9 of 10 are nearer than 5 to 15, 4 is nearer
    # than all five. From 15: 6, 13, 21, 30 against 15, 14, 12, 9, 5: 4 + 2. From 21: 6, 7, 15, 24
    # against 21, 20, 18, 15, 11: 5 + 5 + 3, where the tie of 15 is wrong
    correct = [20, 20, 20, 20, 17, 6, 13, 20, 20, 20]
    assert scores["feel"].tolist() == [[c, 20] for c in correct]
    score = summarise("feel", [scores["feel"]])
    assert score["value"] == pytest.approx(176 / 200) and score["n"] == 200
    assert score["low"] < 0.88 < score["high"]


def test_the_anchors_own_artist_is_left_out() -> None:
    artist = np.array(list("aabcdefghi"))
    scores = anchor_scores(LINE, rated(HALVES, HALVES, artist=artist, genre=PAIRS))
    assert scores["genre@1"][:2, 0].tolist() == [0, 0]
    assert scores["feel"][0].tolist() == [15, 15]  # three positives instead of four
    assert scores["feel"][2].tolist() == [20, 20]


def test_triplets_within_the_held_out_clips() -> None:
    held_out = np.isin(np.arange(10), [3, 4, 5, 6])
    feel = anchor_scores(LINE, rated(HALVES, HALVES), held_out)["feel"]
    # from 6: 10 against 15 and 21; from 10: 6 at 4 against 5 and 11; from 15: 21 at 6 against 9
    # and 5; from 21: 15 at 6 against 15 and 11
    assert feel[held_out].tolist() == [[2, 2], [2, 2], [1, 2], [2, 2]]
    assert not feel[~held_out].any()


def test_intervals_by_hand() -> None:
    shares = np.array([[1.0, 1.0], [0.0, 1.0]])
    score = summarise("genre@1", [shares])
    assert (score["value"], score["low"], score["high"], score["n"]) == (0.5, 0.0, 1.0, 2)
    line = np.stack([np.arange(6.0), 3 * np.arange(6.0)], axis=1)
    score = summarise("valence_r", [line])
    assert (score["value"], score["high"]) == (pytest.approx(1), pytest.approx(1))
    # the mean over seeds, not their pool
    twice = summarise("feel", [np.array([[1.0, 1.0]]), np.array([[0.0, 3.0]])])
    assert (twice["value"], twice["n"]) == (0.5, 2)
    # a constant has no correlation
    assert summarise("arousal_r", [np.stack([np.arange(6.0), np.ones(6)], axis=1)])["value"] == 0


def test_the_ratings_themselves_are_perfect() -> None:
    ratings = random_ratings(80)
    scores = figures(ratings.plane, ratings)
    assert scores["feel"]["value"] == scores["feel"]["low"] == scores["feel"]["high"] == 1
    assert scores["valence_r"]["value"] > 0.95 and scores["arousal_r"]["value"] > 0.95


def test_noise_is_at_chance() -> None:
    ratings = random_ratings(300)
    noise = np.random.default_rng(5).standard_normal((300, 16))
    scores, chance = figures(noise, ratings), chance_levels(ratings)
    for name in FIGURES:
        assert scores[name]["low"] <= chance[name] <= scores[name]["high"], name
        assert scores[name]["high"] - scores[name]["low"] < 0.3, name
    assert chance["genre@1"] == pytest.approx(49 / 299)


def test_one_point_for_all_has_no_correct_triplet() -> None:
    assert figures(np.ones((30, 4)), random_ratings(30))["feel"]["value"] == 0


def test_rotation_and_scale_change_nothing() -> None:
    ratings = random_ratings(60)
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((60, 8)) + ratings.plane @ rng.standard_normal((2, 8))
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    before, after = figures(embeddings, ratings), figures(3.7 * embeddings @ rotation + 5, ratings)
    for name in FIGURES:
        assert after[name] == pytest.approx(before[name], abs=1e-9)
    stretched = figures(embeddings * np.array([9.0] + [1.0] * 7), ratings)
    assert stretched["feel"] != pytest.approx(before["feel"], abs=1e-3)


def test_chance_of_genre_by_hand() -> None:
    ratings = rated(HALVES, HALVES, genre=PAIRS, artist=np.array(list("aabcdefghi")))
    # eight clips have one of nine others; the first two have none, as it is by the same artist
    assert chance_levels(ratings)["genre@5"] == pytest.approx(8 / 10 / 9)


def test_the_ceiling_is_one_where_countries_agree_and_chance_where_not() -> None:
    ratings = random_ratings(200)
    same = np.stack([ratings.valence, ratings.arousal], axis=1)
    scores = human_ceiling(dataclasses.replace(ratings, by_country={"UK": same, "US": same}))
    assert [scores[name]["value"] for name in ("valence_r", "arousal_r", "feel")] == pytest.approx(
        [1, 1, 1]
    )
    other = np.random.default_rng(9).uniform(1, 5, (200, 2))
    scores = human_ceiling(dataclasses.replace(ratings, by_country={"UK": same, "US": other}))
    assert scores["feel"]["value"] == pytest.approx(0.5, abs=0.05)
    assert abs(scores["valence_r"]["value"]) < 0.2


def test_a_fit_never_sees_held_out_ratings() -> None:
    ratings = random_ratings(60)
    embeddings = np.random.default_rng(4).standard_normal((60, 5))
    folds = fold_table(ratings.artist, folds=3, seeds=1)
    held_out = folds[0] == 0
    changed = dataclasses.replace(ratings, valence=np.where(held_out, 5.5, 0) + ratings.valence)
    matrices: dict[str, list[np.ndarray]] = {"before": [], "after": []}
    for which, these in (("before", ratings), ("after", changed)):

        def fit(x: np.ndarray, train: Ratings, which: str = which) -> np.ndarray:
            matrices[which].append(fit_rating_metric(x, train, 1, 0.3))
            return matrices[which][-1]

        cross_validated(embeddings, fit, these, folds, 10)
    assert len(matrices["before"]) == 3
    same = [np.array_equal(*pair) for pair in zip(*matrices.values(), strict=True)]
    assert same == [True, False, False]


def test_cross_validation_of_the_identity_is_the_plain_figure() -> None:
    ratings = random_ratings(60)
    embeddings = np.random.default_rng(6).standard_normal((60, 5)) + ratings.plane[:, :1]
    plain = figures(embeddings, ratings)
    crossed = cross_validated(
        embeddings, lambda x, _: np.eye(5), ratings, fold_table(ratings.artist)
    )
    for name in ("valence_r", "arousal_r", "genre@1", "genre@5"):
        assert crossed[name] == pytest.approx(plain[name])
    # the same share of far fewer triplets
    assert crossed["feel"]["n"] < plain["feel"]["n"] / 15
    assert crossed["feel"]["value"] == pytest.approx(plain["feel"]["value"], abs=0.05)


def test_a_metric_fitted_on_noise_gains_nothing_where_it_is_judged() -> None:
    ratings = random_ratings(100)
    noise = np.random.default_rng(7).standard_normal((100, 60))
    fit = partial(fit_rating_metric, weight=3, ridge=0.01)
    honest = cross_validated(noise, fit, ratings, fold_table(ratings.artist))
    assert honest["feel"]["value"] == pytest.approx(0.5, abs=0.06)
    assert figures(noise @ fit(noise, ratings), ratings)["feel"]["value"] > 0.7


def test_what_cannot_be_judged() -> None:
    ratings = random_ratings(20)
    with pytest.raises(ValueError, match=r"each of 20 clips, got an array \(19, 3\)"):
        anchor_scores(np.zeros((19, 3)), ratings)
    with pytest.raises(ValueError, match="1 values not finite"):
        anchor_scores(np.where(np.arange(20)[:, None] == 3, np.nan, 1.0), ratings)
    with pytest.raises(ValueError, match="an artist has 7 clips by others, expected 8"):
        anchor_scores(np.zeros((8, 3)), random_ratings(8))
    artists = np.repeat([str(n) for n in range(10)], 2)
    shared = dataclasses.replace(ratings, artist=artists)
    with pytest.raises(ValueError, match="the artist 0 is in two folds"):
        cross_validated(np.zeros((20, 3)), lambda x, _: np.eye(3), shared, np.arange(20)[None] % 2)
    alike = dataclasses.replace(ratings, artist=np.array([str(n % 2) for n in range(20)]))
    calm = dataclasses.replace(
        alike, valence=np.tile([1.0, 5.0], 10), arousal=np.tile([1.0, 5.0], 10)
    )
    with pytest.raises(ValueError, match="no triplet of these clips"):
        figures(np.arange(20.0)[:, None], calm)


# ---- the corpus and the command


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    build_musifeast(write_musifeast(folder / "in"), folder / "corpus")
    return folder / "corpus"


class MeanSquare(Teacher):
    """A teacher whose embedding is loudness alone."""

    name, revision, level_db = "a/loudness", "1", -13.0
    sample_rate, window, dim = 16_000, 16_000, 2
    licence = "MIT"

    def __init__(self) -> None:
        pass

    def key(self) -> dict[str, str]:
        return {"name": self.name}

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([windows.square().mean(dim=1), windows.abs().amax(dim=1)], dim=1)


def test_ratings_are_read_from_the_corpus(corpus: Path, tmp_path: Path) -> None:
    ratings = Ratings.read(corpus)
    assert len(ratings) == CLIPS
    by_title = {row["TRACK_TITLE"]: float(row["valence_M"]) for row in rows(0)}
    titles = {t.id: t.title for t in people.Corpus(corpus).tracks}
    assert ratings.valence.tolist() == [by_title[titles[id]] for id in ratings.ids]
    british = [[float(row["arousal_M"]) for row in rows(seed)] for seed in (1, 2, 3, 4)]
    first = titles[ratings.ids[0]].split()[1]
    assert ratings.by_country["UK"][0, 1] == pytest.approx(np.mean(british, axis=0)[int(first)])
    with pytest.raises(CorpusError, match="musifeast` builds a corpus with ratings"):
        Ratings.read(tmp_path)
    table = pq.read_table(corpus / "ratings.parquet")
    pq.write_table(table.drop_columns(["arousal_mean"]), tmp_path / "ratings.parquet")
    with pytest.raises(CorpusError, match=r"has no columns \['arousal_mean'\]"):
        Ratings.read(tmp_path)
    broken = table.set_column(
        table.column_names.index("valence_mean"), "valence_mean", [[None] * len(table)]
    )
    pq.write_table(broken, tmp_path / "ratings.parquet")
    with pytest.raises(CorpusError, match="valence_mean is not a finite number in every row"):
        Ratings.read(tmp_path)


def test_ratings_of_ones_own_need_no_countries(corpus: Path, tmp_path: Path) -> None:
    names = ["id", "genre", "artist", "valence_mean", "arousal_mean"]
    table = pq.read_table(corpus / "ratings.parquet", columns=names)
    pq.write_table(table, tmp_path / "ratings.parquet")
    ratings = Ratings.read(tmp_path)
    assert len(ratings) == CLIPS and ratings.by_country == {}


@pytest.mark.slow
def test_all_rows_and_baselines_from_the_cache(
    corpus: Path,
    exported: tuple[Feelprint, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, onnx = exported
    monkeypatch.setattr(people, "Bliss", partial(people.Bliss, tmp_path / "no bliss"))
    teachers = [MeanSquare()]
    # the student's own graph instead of MECOMP's: the same input and output
    found = people_figures(model, corpus, onnx, tmp_path / "cache", teachers, 50)
    names = ["student", "student_without_ratings", "untrained", "mfcc", "mecomp", "a-loudness"]
    assert list(found["rows"]) == names and list(found["absent"]) == ["bliss"]
    assert "cargo build" in found["absent"]["bliss"]
    for scores in found["rows"].values():
        assert list(scores) == list(FIGURES)
        for score in scores.values():
            assert score["low"] <= score["high"] and list(score) == ["value", "low", "high", "n"]
    assert found["rows"]["mecomp"]["feel"]["value"] == pytest.approx(
        found["rows"]["student"]["feel"]["value"], abs=0.02
    )
    assert found["rows"]["mfcc"]["feel"]["value"] > 0.9  # the two feels have a register each
    assert (found["clips"], found["artists"], found["genres"]) == (CLIPS, CLIPS - 2, 3)
    assert found["ceiling"]["feel"]["value"] > 0.9 and found["chance"]["feel"] == 0.5
    json.dumps(found, allow_nan=False)

    def nothing(audio: np.ndarray) -> np.ndarray:
        raise AssertionError("embedded again")

    monkeypatch.setattr(people, "mfcc_embedder", nothing)
    again = people_figures(model, corpus, onnx, tmp_path / "cache", teachers, 50)
    assert again == found


def test_a_model_that_is_fitted_to_the_ratings_is_cross_validated(
    corpus: Path, exported: tuple[Feelprint, Path], tmp_path: Path
) -> None:
    rated_tracks, ratings = rated_corpus(corpus)
    fitted = copy.deepcopy(exported[0])
    embed = student_embedder(exported[0].without_ratings())
    vectors = embed_clips(rated_tracks, [str(id) for id in ratings.ids], embed, "clips")
    assert not is_fitted_to(fitted, vectors, ratings)
    transform = torch.from_numpy(fit_rating_metric(vectors, ratings)).half().float()
    fitted.head.rating_transform.copy_(transform)
    assert is_fitted_to(fitted, vectors, ratings)
    found = people_figures(fitted, corpus, tmp_path / "none.onnx", tmp_path / "cache", (), 20)
    assert found["cross_validated"]
    folds = fold_table(ratings.artist)
    assert found["rows"]["student"] == cross_validated(
        vectors, fit_rating_metric, ratings, folds, 20
    )
    assert found["rows"]["student_without_ratings"] == figures(vectors, ratings, 20)
    assert "is cross-validated" in markdown(found)
    fitted.head.rating_transform.mul_(1.5)  # not the fit to these ratings any more
    found = people_figures(fitted, corpus, tmp_path / "none.onnx", tmp_path / "cache", (), 20)
    assert not found["cross_validated"] and "is cross-validated" not in markdown(found)


def test_the_command(
    corpus: Path,
    exported: tuple[Feelprint, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(people, "Bliss", partial(people.Bliss, tmp_path / "no bliss"))
    exported[0].save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--mecomp", str(tmp_path / "none")]
    options += ["--cache", str(tmp_path / "cache")]
    main([str(corpus), *options, "--json", str(tmp_path / "out" / "people.json")])
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "people.json").read_text())
    assert said.splitlines()[0] == "| | valence_r | arousal_r | feel | genre@1 | genre@5 |"
    feel = found["rows"]["student"]["feel"]
    assert f"{feel['value']:.3f} [{feel['low']:.3f}, {feel['high']:.3f}]" in said
    assert "| ceiling: UK and US raters |" in said and "| chance | 0.000 | 0.000 | 0.500 |" in said
    assert "Without mecomp: no MECOMP model" in said and "Without bliss: no bliss" in said
    with pytest.raises(SystemExit, match=r"error: .*is not a corpus"):
        main([str(tmp_path), *options])
    with pytest.raises(SystemExit, match=r"error: no model.safetensors in"):
        main([str(corpus), "--model", str(tmp_path / "none")])


def test_ratings_of_other_tracks(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(corpus / "data")
    table = pq.read_table(corpus / "ratings.parquet").slice(1)
    pq.write_table(table, tmp_path / "ratings.parquet")
    with pytest.raises(CorpusError, match=f"of which {CLIPS - 1} are among the corpus's {CLIPS}"):
        people_figures(Feelprint(), tmp_path, cache=tmp_path / "cache")
    assert clip_name(0) in pq.read_table(corpus / "ratings.parquet")["clip"].to_pylist()
