"""Answers as numbers, folds of disjoint groups, heads and matrices fitted to answers."""

import copy

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus, Track
from datasets_scripts.triplets.table import Triplet
from distill.ablations import mahalanobis
from distill.ablations.simulated_listeners import draw, rhythm, simulate_answers, timbre
from distill.personal import answers, crowd, personalize
from distill.personal.answers import Answers, AnswersError, EncodedTracks, FitConfig
from distill.personal.personalize import Verdict, fit_and_evaluate
from student import Feelprint
from tests.distill.reporting.made_report import TINY
from tests.tones import SAMPLE_RATE, melody, write_tones


def listener(seed: int = 0, n: int = 60) -> tuple[Feelprint, EncodedTracks, np.ndarray]:
    """A tiny model, tracks of random tokens, and a taste: three dimensions of the tokens."""
    torch.manual_seed(seed)
    model = Feelprint(TINY).eval()
    tokens = torch.randn(n, 1, TINY.dim).repeat(1, 4, 1)
    taste = tokens[:, 0, :3].numpy().astype(np.float64)
    return model, EncodedTracks([str(i) for i in range(n)], tokens, torch.ones(n, 4)), taste


def test_odd_one_is_last_and_undecided_answers_are_dropped():
    made = answers.to_answers(
        [Triplet("a", "b", "c", "a", "t", weight=0.5), Triplet("a", "b", "c", None, "t")],
        ["a", "b", "c"],
    )
    assert made.rows.tolist() == [[1, 2, 0]] and made.weight.tolist() == [0.5]
    with pytest.raises(AnswersError, match="the track c of an answer is not known"):
        answers.to_answers([Triplet("a", "b", "c", "a", "t")], ["a", "b"])
    with pytest.raises(AnswersError, match="no answer says"):
        answers.to_answers([Triplet("a", "b", "c", None, "t")], ["a", "b", "c"])


def test_triplet_correct_by_hand():
    line = np.array([[0.0], [1.0], [5.0]])
    rows = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    assert answers.triplet_correct(line, Answers(rows, np.ones(3))).tolist() == [1, 0, 0]


def test_tracks_are_encoded_whole_or_by_excerpt(tmp_path):
    corpus = Corpus(write_tones(tmp_path / "corpus", seconds=21.0, albums=3, tracks=1))
    model, track = Feelprint(TINY).eval(), corpus.tracks[0]
    tracks = answers.encode_tracks(model, [corpus], [track.id, f"{track.id}@18.5"], max_windows=100)
    windows = tracks.window_weight.gt(0).sum(dim=1).tolist()
    assert windows == [-(-21 * SAMPLE_RATE // TINY.window_length), 3]
    with torch.inference_mode():
        whole = model(torch.from_numpy(melody(0, 0, 21.0))[None])
    # the corpus holds 16 bits
    assert (tracks.embed(model.head)[0] - whole[0]).abs().max() < 1e-2
    few = answers.encode_tracks(model, [corpus], [track.id], max_windows=5)
    assert few.tokens.shape[1] == 5
    with pytest.raises(AnswersError, match="nowhere, which is not in"):
        answers.encode_tracks(model, [corpus], ["nowhere"])


def test_fit_learns_a_taste_and_does_not_change_the_base():
    model, tracks, taste = listener()
    train = simulate_answers(taste, np.arange(30), 300, 0.0, 1)
    test = simulate_answers(taste, np.arange(30, 60), 300, 0.0, 2)
    before = copy.deepcopy(model.head.state_dict())
    head = answers.fit(model.head, tracks, train, FitConfig(prior=1.0, learning_rate=1e-2))
    assert all(torch.equal(before[k], v) for k, v in model.head.state_dict().items())
    base, made = (
        answers.triplet_correct(answers.embed(h, tracks), test).mean() for h in (model.head, head)
    )
    assert made > base + 0.05
    assert type(head) is type(model.head) and set(head.state_dict()) == set(before)
    same = answers.fit(model.head, tracks, train, FitConfig(prior=1.0, learning_rate=1e-2))
    assert np.array_equal(answers.embed(head, tracks), answers.embed(same, tracks))  # seeded


def test_prior_keeps_a_fit_to_ten_answers_near_the_base():
    model, tracks, taste = listener()
    train = simulate_answers(taste, np.arange(60), 10, 0.0, 3)
    base = answers.embed(model.head, tracks)
    moved = []
    for prior in (0.0, 200.0, 1e5):
        head = answers.fit(model.head, tracks, train, FitConfig(prior=prior))
        moved.append(np.abs(answers.embed(head, tracks) - base).mean())
    assert moved[0] > 2 * moved[1] > 2 * moved[2]


def test_early_stopping_keeps_the_best_validation_step():
    model, tracks, taste = listener()
    train = simulate_answers(taste, np.arange(30), 20, 1.0, 4)  # guesses only: nothing to learn
    val = simulate_answers(taste, np.arange(30, 60), 200, 0.0, 5)
    config = FitConfig(prior=0.0, steps=60, rank=0)
    likelihood = [
        answers._log_likelihood(torch.from_numpy(answers.embed(head, tracks)), val, 0.1)
        for head in (
            model.head,
            answers.fit(model.head, tracks, train, config),
            answers.fit(model.head, tracks, train, config, val),
        )
    ]
    assert likelihood[2] >= likelihood[0] - 1e-6 > likelihood[1]


def test_connected_triplets_are_one_group():
    def track(n: int, artist: str, album: str) -> Track:
        return Track(str(n), "", artist, album, [], "", "", 1.0, "", "train")

    tracks = [track(n, f"artist {n}", f"album {n}") for n in range(9)]
    tracks[4] = track(4, "artist 1", "other")  # the second answer shares an artist with the first
    triplets = [Triplet(*map(str, three), str(three[0]), "t") for three in ((0, 1, 2), (3, 4, 5))]
    triplets.append(Triplet("6", "7", "8", "6", "t"))
    groups = answers.triplet_groups(triplets, tracks)
    assert groups[0] == groups[1] != groups[2]


def test_folds_are_even_whole_and_seeded():
    groups = np.repeat(np.arange(20), [5] * 4 + [1] * 16)
    fold = answers.folds(groups, 4, 0)
    assert all(len(set(fold[groups == g])) == 1 for g in range(20))
    assert np.bincount(fold).tolist() == [9, 9, 9, 9]
    assert (fold == answers.folds(groups, 4, 0)).all()
    with pytest.raises(AnswersError, match="3 groups"):
        answers.folds(np.arange(3), 5, 0)


def test_matrix_finds_the_features_that_a_listener_uses():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 8))
    train = simulate_answers(features[:, :2], np.arange(40), 150, 0.0, 0)
    test = simulate_answers(features[:, :2], np.arange(40, 80), 400, 0.0, 1)
    matrix = mahalanobis.fit_cross_validated(features, train)
    plain, learned = (
        answers.triplet_correct(f, test).mean() for f in (features, features @ matrix)
    )
    assert learned > plain + 0.15
    weights = np.diag(matrix @ matrix.T)
    assert weights[:2].min() > 3 * weights[2:].max()


def test_the_matrix_starts_at_the_identity_for_one_answer():
    features = np.random.default_rng(0).standard_normal((6, 3))
    matrix = mahalanobis.fit_matrix(features, Answers(np.array([[0, 1, 2]]), np.ones(1)), 0.0)
    assert matrix.shape == (3, 3) and np.isfinite(matrix).all()


def test_gain_must_be_significant():
    # 5 gained and none lost happens by chance in 1 of 32 cases, 4 in 1 of 16
    assert Verdict(50, 0.4, 0.5, 5, 0, 1 / 32).better
    assert not Verdict(50, 0.4, 0.48, 4, 0, 1 / 16).better


@pytest.mark.slow
def test_cross_validation_finds_a_taste_and_rejects_guesses():
    model, tracks, taste = listener()
    config = FitConfig(prior=1.0, learning_rate=1e-2, steps=60)
    train = simulate_answers(taste, np.arange(60), 250, 0.0, 6)
    found = fit_and_evaluate(model, tracks, train, None, config)[1]
    assert found.better and found.personal > found.base
    noise = simulate_answers(taste, np.arange(60), 60, 1.0, 7)
    assert not fit_and_evaluate(model, tracks, noise, None, config)[1].better


def test_random_rounds_are_evaluated_by_a_head_fitted_without_them(monkeypatch):
    model, tracks, taste = listener()
    train, random = (simulate_answers(taste, np.arange(60), 20, 0.0, seed) for seed in (8, 9))
    fitted = []

    def fit(head, tracks, train, config, seed=0):
        fitted.append(train.rows.tolist())
        return head

    monkeypatch.setattr(personalize, "fit", fit)
    found = personalize.fit_and_evaluate(model, tracks, train, random, FitConfig())[1]
    assert found.answers == 40
    assert [len(rows) for rows in fitted] == [16] * 5 + [20]
    assert all(row in train.rows.tolist() for rows in fitted for row in rows)


def test_question_ids_are_equal_for_the_same_three_tracks():
    rows = np.array([[0, 1, 2], [2, 0, 1], [3, 4, 5]])
    assert Answers(rows, np.ones(3)).question_ids().tolist() == [0, 0, 1]


def test_sixty_answers_split_as_mecomps_do():
    part = crowd.random_parts(np.arange(60), (0.5, 0.3, 0.2), 0)
    assert np.bincount(part).tolist() == [30, 18, 12]
    groups = np.repeat(np.arange(50), [4, 4, 4] + [1] * 47)[:59]
    part = crowd.random_parts(groups, (0.5, 0.3, 0.2), 1)
    assert all(len(set(part[groups == g])) == 1 for g in np.unique(groups))
    assert abs(np.bincount(part)[2] - 12) <= 2


def survey_of(artists: int, random: int) -> tuple[list[Triplet], list[Track], Answers]:
    """Two tracks an artist, answers about neighbours, the first ``random`` to random rounds."""
    tracks = [
        Track(str(n), "", f"artist {n // 2}", "", [], "", "", 1.0, "", "train")
        for n in range(2 * artists)
    ]
    triplets = [
        Triplet(
            *map(str, (n, n + 2, n + 4)),
            str(n),
            "survey-random" if n // 2 < random else "survey-random_train",
            rater,
        )
        for n in range(0, 2 * artists - 4, 2)
        for rater in ("ann", "bob")
    ]
    return triplets, tracks, answers.to_answers(triplets, [t.id for t in tracks])


def test_random_rounds_evaluate_and_never_train():
    triplets, tracks, rows = survey_of(artists=40, random=20)
    splits = crowd.assign_splits(triplets, rows, tracks)
    random = np.array([t.source == "survey-random" for t in triplets])
    assert (splits.eval == random).all() and random.sum() == 40
    artist_of = {t.id: t.artist for t in tracks}
    eval_artists = {artist_of[s] for t, r in zip(triplets, random, strict=True) if r for s in t.ids}
    for t, trains in zip(triplets, splits.train, strict=True):
        assert trains == eval_artists.isdisjoint(artist_of[id] for id in t.ids)
    # of 18 questions, two share an artist with the random rounds
    assert splits.train.sum() == 2 * 16
    pairs = [splits.split((0.5, 0.3, 0.2), 0), *splits.folds(5, 0)]
    for val, test in pairs:
        assert not (val & test).any() and (val | test <= random).all()
        for mask in (val, test):  # both answers to a question
            assert (mask[0::2] == mask[1::2]).all()
    assert [int(mask.sum()) for mask in pairs[0]] == [24, 16]
    assert (sum(test.astype(int) for _, test in pairs[1:]) == random).all()


def test_without_random_rounds_every_answer_may_train_or_evaluate():
    triplets, tracks, _ = survey_of(artists=40, random=0)
    triplets = triplets[::12]  # far enough from each other to share no artist
    rows = answers.to_answers(triplets, [t.id for t in tracks])
    splits = crowd.assign_splits(triplets, rows, tracks)
    assert splits.train.all() and splits.eval.all() and len(set(splits.groups)) == len(triplets)


def test_survey_of_random_rounds_only_is_refused():
    triplets, tracks, rows = survey_of(artists=10, random=9)
    with pytest.raises(AnswersError, match=r"16 answers are to random rounds.* the other 0 share"):
        crowd.assign_splits(triplets, rows, tracks)


def test_a_rater_who_disagrees_with_all_counts_less():
    rows = [
        Triplet(f"a{q}", f"b{q}", f"c{q}", f"{odd}{q}", "t", rater)
        for q in range(10)
        for rater, odd in (("ann", "a"), ("bob", "a"), ("cat", "a"), ("odd", "b"))
    ]
    rows.append(Triplet("x", "y", "z", "x", "t", "alone"))
    weight = {t.rater: t.weight for t in crowd.rater_weights(rows)}
    assert weight["ann"] == weight["bob"] > 3 * weight["odd"] > 0
    assert weight["alone"] == 1.0


@pytest.mark.slow
def test_rhythm_depends_on_tempo_and_timbre_does_not():
    def clicks(every_s: float, hz: float) -> np.ndarray:
        t = np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
        return (np.sin(2 * np.pi * hz * t) * np.exp(-(t % every_s) * 30)).astype(np.float32)

    slow, slow_high, fast = clicks(0.7, 300), clicks(0.7, 3_000), clicks(0.45, 300)

    def distance(features_of, x, y):
        return np.linalg.norm(features_of(x, SAMPLE_RATE) - features_of(y, SAMPLE_RATE))

    assert distance(rhythm, slow, slow_high) < 0.5 * distance(rhythm, slow, fast)
    assert distance(timbre, slow, fast) < 0.5 * distance(timbre, slow, slow_high)


def test_the_curves_are_drawn():
    rows = [[0, 0.5, 0.4, 0.6], [10, 0.55, 0.5, 0.6]]
    lines = {"personal": rows, "mahalanobis": rows}
    svg = draw({"rhythm": lines, "timbre": lines})
    assert svg.count("<polyline") == 4 and svg.startswith("<svg") and "nan" not in svg
