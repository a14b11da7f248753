"""Assignment: shares, quotas, repeats, gold rounds, and disjoint streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from datasets_scripts.corpora.corpus import Track
from datasets_scripts.corpora.splits import split_by_groups, track_keys
from datasets_scripts.triplets.table import for_training, split_with_corpus
from distill.personal.answers import to_answers
from distill.personal.crowd import assign_splits
from survey.clips import ClipLibrary, LibraryTrack
from survey.config import RatersPerTriplet, Shares, SurveyConfig, SurveyError
from survey.database.rows import now
from survey.database.schema import rounds, triplets
from survey.database.store import Rater, Store
from survey.results.quality import Answered, Quality, all_answers, as_triplets, model_hits
from survey.rounds import active
from survey.rounds.assign import Assigner, check_gold
from survey.rounds.ensemble import EnsembleConfig, fit_ensemble, identity_maps, mean_accuracy
from survey.rounds.splits import assign_streams, possible_triplets, training_only
from survey.web.app import create_app
from survey.web.sets import TrackMap
from survey.web.site import Survey

from .conftest import CONFIG

LISTENED_S = [5.0, 5.0, 5.0]


@pytest.fixture(scope="module")
def large(library: ClipLibrary) -> ClipLibrary:
    """Two hundred tracks of sixty artists, without clips."""
    made = ClipLibrary(library.folder)
    songs = [
        LibraryTrack(f"{n:016x}", f"Song {n}", f"Artist {n % 60}", "", frozenset(), "", "", "train")
        for n in range(200)
    ]
    made.tracks = {song.id: song for song in songs}
    made.two_excerpt_tracks = [song.id for song in songs[:50]]
    return made


def answer_all(store: Store, assigner: Assigner, rater: Rater, count: int) -> list:
    """Answers `count` rounds, always place 0."""
    found = []
    for _ in range(count):
        current = assigner.rounds(rater, 1)[0]
        store.show(current)
        store.answer(rater, current.token, 0, LISTENED_S)
        found.append(current)
    return found


@pytest.mark.slow
def test_shares(lite: Store, large: ClipLibrary) -> None:
    """Rounds occur in the configured shares, within 4 standard deviations."""
    shares = Shares(active=0.5, random=0.3, repeat=0.1, gold=0.1)
    assigner = Assigner(lite, large, replace(CONFIG, shares=shares), seed=0)
    raters = [lite.add_rater("", "", "") for _ in range(15)]
    kinds = Counter(r.kind for rater in raters for r in assigner.rounds(rater, 40))
    # Without answers there are no repeats; other kinds get their share.
    assert kinds["repeat"] == 0
    assert sum(kinds.values()) == 600
    assert kinds["gold"] == pytest.approx(60, abs=30)
    answered: Counter[str] = Counter()
    for rater in raters:
        lite.delete_rater(rater)
    for rater in [lite.add_rater("", "", "") for _ in range(2)]:
        answered.update(r.kind for r in answer_all(lite, assigner, rater, 100))
    assert answered["random_train"] == pytest.approx(100, abs=29)
    assert answered["random"] == pytest.approx(60, abs=26)
    assert answered["repeat"] == pytest.approx(20, abs=17)
    assert answered["gold"] == pytest.approx(20, abs=17)


def test_every_round_has_three_tracks_of_three_artists(
    store: Store, library: ClipLibrary, assigner: Assigner
) -> None:
    rater = store.add_rater("", "", "")
    for current in answer_all(store, assigner, rater, 15):
        artists = {library.tracks[t].artist for t, _ in current.clips}
        if current.kind == "gold":
            assert len(artists) == 2
            same = Counter(t for t, _ in current.clips).most_common(1)[0][0]
            assert {e for t, e in current.clips if t == same} == {0, 1}
        else:
            assert len(artists) == 3
            assert {e for _, e in current.clips} == {0}


def test_places_are_shuffled(lite: Store, large: ClipLibrary) -> None:
    assigner = Assigner(lite, large, CONFIG, seed=0)
    rater = lite.add_rater("", "", "")
    assigner.rounds(rater, 300)
    with lite.read() as db:
        places = Counter(db.execute(sa.select(rounds.c.places)).scalars())
    assert len(places) == 6
    assert min(places.values()) > 20  # 50 each are expected


def test_a_triplet_gets_its_quota_of_raters_and_no_rater_twice(
    store: Store, large: ClipLibrary
) -> None:
    config = replace(
        CONFIG,
        shares=Shares(0.5, 0.5, 0, 0),
        raters_per_triplet=RatersPerTriplet(active=2, random=3),
    )
    assigner = Assigner(store, large, config, seed=0)
    for _ in range(6):
        answer_all(store, assigner, store.add_rater("", "", ""), 10)
    with store.read() as db:
        pairs = list(db.execute(sa.select(rounds.c.triplet, rounds.c.rater)))
        streams = {r.id: r.stream for r in db.execute(sa.select(triplets))}
    assert len(set(pairs)) == len(pairs)
    for triplet, count in Counter(t for t, _ in pairs).items():
        assert count <= {"random_train": 2, "random": 3}[streams[triplet]]
    full = {"random_train": 2, "random": 3}
    done = [t for t, n in Counter(t for t, _ in pairs).items() if n == full[streams[t]]]
    assert len(done) > len(streams) / 2  # open triplets are filled before new ones are made


def test_repeats_come_later_once_and_with_the_same_clips(lite: Store, large: ClipLibrary) -> None:
    config = replace(CONFIG, shares=Shares(0.4, 0.2, 0.4, 0), repeat_after=5)
    assigner = Assigner(lite, large, config, seed=0)
    rater = lite.add_rater("", "", "")
    found = answer_all(lite, assigner, rater, 60)
    with lite.read() as db:
        original = dict(db.execute(sa.select(rounds.c.id, rounds.c.repeats)).all())
    order = {r.id: i for i, r in enumerate(found)}
    repeats = [r for r in found if r.kind == "repeat"]
    assert len(repeats) >= 10
    assert len({original[r.id] for r in repeats}) == len(repeats)
    for again in repeats:
        first = found[order[original[again.id]]]
        assert first.kind != "repeat"
        assert sorted(first.clips) == sorted(again.clips)
        assert order[again.id] - order[first.id] >= 5


def test_streams_never_share_a_triplet(lite: Store, library: ClipLibrary) -> None:
    """Seven tracks give few triplets; each belongs to one stream only."""
    config = replace(CONFIG, shares=Shares(0.5, 0.5, 0, 0))
    assigner = Assigner(lite, library, config, seed=0)
    artists = [t.artist for t in library.tracks.values()]
    possible = sum(
        len({a, b, c}) == 3
        for i, a in enumerate(artists)
        for j, b in enumerate(artists[:i])
        for c in artists[:j]
    )
    rater = lite.add_rater("", "", "")
    assert len(assigner.rounds(rater, 10_000)) == possible
    assert len(assigner.rounds(rater, 10_000)) == possible  # and no further ones
    with lite.read() as db:
        held = [(t.a, t.b, t.c) for t in db.execute(sa.select(triplets))]
    assert len(set(held)) == len(held) == possible
    assert all(a < b < c for a, b, c in held)


def test_active_rounds_have_the_largest_information_gain(lite: Store, large: ClipLibrary) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, 200, 8))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    ids = list(large.tracks)
    config = replace(CONFIG, shares=Shares(0.5, 0.5, 0, 0))
    assigner = Assigner(lite, large, config, (ids, vectors), seed=0)
    rater = lite.add_rater("", "", "")
    answer_all(lite, assigner, rater, 2)  # test rounds begin after two answers
    kinds: dict[str, list[list[int]]] = {"active": [], "random": []}
    for r in assigner.rounds(rater, 120):
        kinds[r.kind].append([ids.index(t) for t, _ in r.clips])
    gain = {
        kind: active.information_gain(active.odd_probabilities(vectors, np.asarray(t), 0.1)).mean()
        for kind, t in kinds.items()
    }
    assert gain["active"] > 0.95 * np.log(3)
    assert gain["random"] < 0.75 * np.log(3)


def test_gold_distractors_are_far_by_the_embeddings(lite: Store, large: ClipLibrary) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1, 200, 8))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    ids = list(large.tracks)
    assigner = Assigner(lite, large, CONFIG, (ids, vectors), seed=0)
    for track in large.two_excerpt_tracks[:20]:
        similarity = vectors[0] @ vectors[0, ids.index(track)]
        distractor = ids.index(assigner._distractor(track))
        assert (similarity < similarity[distractor]).mean() < 0.12


def test_gold_without_a_long_track_is_an_error(library: ClipLibrary) -> None:
    short = ClipLibrary(library.folder)
    short.two_excerpt_tracks = []
    with pytest.raises(SurveyError, match=r"shares\.gold to 0"):
        check_gold(short, SurveyConfig())


def folder_of(artists: int, tracks_each: int) -> list[Track]:
    """A folder of music, one album by each artist, split as `datasets_scripts` splits it."""
    rows = [(f"artist {n}", f"album {n}") for n in range(artists) for _ in range(tracks_each)]
    splits = split_by_groups([track_keys(*row) for row in rows])
    return [
        Track(f"{n:016x}", f"Song {n}", artist, album, [], "folder", "", 60.0, f"{n:064x}", split)
        for n, ((artist, album), split) in enumerate(zip(rows, splits, strict=True))
    ]


def library_of(tracks: list[Track], large: ClipLibrary) -> ClipLibrary:
    """The tracks with the streams that the survey assigns, without clips."""
    streams = assign_streams(tracks)
    assert streams.usable
    split = {i: "train" for i in streams.train.tracks} | {i: "test" for i in streams.test.tracks}
    made = ClipLibrary(large.folder)
    made.tracks = {
        t.id: LibraryTrack(t.id, t.title, t.artist, t.album, frozenset(), "", "",
                           split.get(t.id, "unused"))
        for t in tracks
    }  # fmt: skip
    made.two_excerpt_tracks = [t.id for t in tracks][:50]
    return made


@pytest.mark.parametrize(("artists", "tracks_each"), [(40, 1), (10, 10), (5, 8), (20, 10)])
def test_every_training_answer_can_be_trained_on(
    lite: Store, large: ClipLibrary, artists: int, tracks_each: int
) -> None:
    """By the main job and by a fit to many raters, which drop what shares artists with the test."""
    tracks = folder_of(artists, tracks_each)
    assigner = Assigner(lite, library_of(tracks, large), CONFIG, seed=1)
    for _ in range(2):
        answer_all(lite, assigner, lite.add_rater("", "", ""), 60)
    table = as_triplets(all_answers(lite))
    train = for_training(table)
    placed = split_with_corpus(train, tracks)[0].get("train", [])
    names = sorted({id for t in table for id in t.ids})
    crowd = assign_splits(table, to_answers(table, names), tracks)
    assert len(placed) == len(train) == crowd.train.sum() > 50
    random = [t for t in table if t.source == "survey-random"]
    assert len(random) >= 0.2 * len(table)
    assert len({t.ids for t in random}) >= 15


def test_streams_share_no_artist_and_stay_when_songs_are_added(large: ClipLibrary) -> None:
    first = assign_streams(folder_of(40, 1))
    asked = {i: "train" for i in first.train.tracks} | {i: "test" for i in first.test.tracks}
    later = assign_streams(folder_of(60, 1), asked)
    assert first.test.tracks <= later.test.tracks and first.train.tracks <= later.train.tracks
    assert not later.test.tracks & later.train.tracks
    assert first.test.triplets >= 100 and first.train.min_artists == 3


def test_what_was_asked_stays_in_its_stream_where_clips_were_cut_elsewhere(
    lite: Store, large: ClipLibrary
) -> None:
    """`prepare` splits the songs without knowing the answers, for a server without the music."""
    first = Assigner(lite, library_of(folder_of(40, 1), large), CONFIG, seed=0)
    for _ in range(4):
        answer_all(lite, first, lite.add_rater("", "", ""), 30)
    asked = lite.streams_asked()
    assert set(asked.values()) == {"train", "test"}
    larger = library_of(folder_of(120, 1), large)
    strays = [i for i, stream in asked.items() if larger.tracks[i].split not in (stream, "unused")]
    assert strays  # otherwise this test shows nothing
    unused = larger.tracks[max(larger.tracks.keys() - asked.keys())]
    larger.tracks[unused.id] = replace(unused, split="unused")
    streams = Assigner(lite, larger, CONFIG, seed=0)._streams
    train, test = streams["random_train"].tracks, streams["random"].tracks
    assert not train & test and unused.id not in train | test
    assert all(i in (train if stream == "train" else test) for i, stream in asked.items())


@pytest.mark.parametrize("embedded", [False, True])
def test_songs_of_one_artist_are_served_for_training_only(
    lite: Store, library: ClipLibrary, embedded: bool
) -> None:
    one = ClipLibrary(library.folder)
    one.tracks = {
        f"{n:016x}": LibraryTrack(f"{n:016x}", f"Song {n}", "A", "", frozenset({"jazz"}), "", "",
                                  "train")
        for n in range(45)
    }  # fmt: skip
    one.two_excerpt_tracks = list(one.tracks)[:5]
    vectors = np.random.default_rng(0).standard_normal((1, 45, 4)).astype(np.float32)
    config = replace(CONFIG, shares=Shares(0.5, 0.0, 0.0, 0.5))
    table = (list(one.tracks), vectors) if embedded else None
    assigner = Assigner(lite, one, config, table, seed=0)
    (same, _), (again, _), (odd, _) = create_app(
        Survey(config, lite, one, assigner)
    ).state.site.practice
    assert same == again != odd
    found = answer_all(lite, assigner, lite.add_rater("", "", ""), 8)
    gold = [{track for track, _ in r.clips} for r in found if r.kind == "gold"]
    assert gold and all(len(tracks) == 2 for tracks in gold)


def test_a_song_that_cannot_be_cut_is_no_distractor(lite: Store, large: ClipLibrary) -> None:
    smaller = ClipLibrary(large.folder)
    smaller.tracks = dict(large.tracks)
    smaller.two_excerpt_tracks = list(large.two_excerpt_tracks)
    vectors = np.random.default_rng(0).standard_normal((1, 200, 4)).astype(np.float32)
    assigner = Assigner(lite, smaller, CONFIG, (list(large.tracks), vectors), seed=0)
    track = smaller.two_excerpt_tracks[0]
    for _ in range(190):
        assigner.drop_clip(gone := assigner._distractor(track), 0)
        assert gone not in smaller.tracks


def test_one_compilation_that_connects_all_artists_cannot_be_split() -> None:
    tracks = [replace(t, album="Hits", split="train") for t in folder_of(50, 1)]
    assert not assign_streams(tracks).usable
    alone = training_only(tracks)
    assert alone.train.triplets == 50 * 49 * 48 // 6 and not alone.test.tracks


@pytest.mark.parametrize("at_least", [1, 2, 3])
def test_possible_triplets_are_counted(at_least: int) -> None:
    artists = [0, 0, 0, 1, 1, 2, 3]
    counted = sum(len(set(c)) >= at_least for c in combinations(artists, 3))
    assert possible_triplets([str(a) for a in artists], at_least) == counted


def test_a_visitor_who_only_opens_the_page_takes_no_test_place(
    lite: Store, large: ClipLibrary
) -> None:
    assigner = Assigner(lite, library_of(folder_of(40, 1), large), CONFIG, seed=0)
    for _ in range(28):
        assigner.rounds(lite.add_rater("", "", ""), 2)
    with lite.read() as db:
        streams = set(db.execute(sa.select(triplets.c.stream)).scalars())
    assert "random" not in streams


def test_four_of_the_first_twenty_rounds_are_gold(lite: Store, large: ClipLibrary) -> None:
    assigner = Assigner(lite, large, SurveyConfig(min_listened_s=0.0), seed=0)
    found = answer_all(lite, assigner, lite.add_rater("", "", ""), 120)
    gold = [r.kind == "gold" for r in found]
    assert sum(gold[:10]) == 2 and sum(gold[10:20]) == 2
    assert sum(gold) <= 8  # the share over all rounds stays that of the configuration


# -- the selection itself


def passes(gold: int, repeats: int, rates: tuple[float, float]) -> float:
    """How likely a rater of these rates of right answers reaches 0.9, after so many of both."""
    return sum(
        binom.pmf(k, gold, rates[0]) * binom.pmf(r, repeats, rates[1])
        for k in range(gold + 1)
        for r in range(repeats + 1)
        if Quality(gold, k, repeats, r).attentive >= 0.9
    )


def test_random_clickers_do_not_pass_the_rounds_that_they_are_given(
    lite: Store, large: ClipLibrary
) -> None:
    """After twenty answers, of which two in the first ten are gold: exact, given the rounds."""
    assigner = Assigner(lite, large, replace(CONFIG, repeat_after=8), seed=5)
    clicker, listener = [], []
    for _ in range(30):
        kinds = [r.kind for r in answer_all(lite, assigner, lite.add_rater("", "", ""), 20)]
        assert kinds[:10].count("gold") == kinds[10:].count("gold") == 2
        counts = kinds.count("gold"), kinds.count("repeat")
        clicker.append(passes(*counts, (1 / 3, 1 / 3)))
        listener.append(passes(*counts, (0.95, 0.7)))
    assert np.mean(clicker) < 0.02
    assert np.mean(listener) > 0.75


def lengthy(tracks: int, dim: int) -> np.ndarray:
    """Embeddings of lengths from 0.5 to 1.8, (tracks, dim)."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((tracks, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * rng.uniform(0.5, 1.8, (tracks, 1))


def test_lengths_of_embeddings_count_wherever_tracks_are_compared(
    lite: Store, large: ClipLibrary
) -> None:
    """Against a computation of its own: the odd one is outside the nearest pair, by Euclid."""
    vectors, ids = lengthy(200, 8), list(large.tracks)
    triplets_ = active.draw_triplets(np.arange(200), 3000, np.random.default_rng(0))
    pairs = [(1, 2), (0, 2), (0, 1)]
    distances = np.stack(
        [np.linalg.norm(vectors[triplets_[:, i]] - vectors[triplets_[:, j]], axis=1)
         for i, j in pairs], axis=1,
    )  # fmt: skip
    odd = distances.argmin(axis=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    by_cosine = active.odd_probabilities(unit[None], triplets_, 0.1)[0].argmax(axis=1)
    assert (odd != by_cosine).mean() > 0.1  # the test can tell the two
    # Active selection and the owner's "Current model".
    p = active.odd_probabilities(vectors[None], triplets_, 0.1)[0]
    assert (p.argmax(axis=1) == odd).all()
    answers_ = [
        Answered(n, "r", "random", (ids[a], ids[b], ids[c]), int(o), 0, 9.0, now(), None)
        for n, ((a, b, c), o) in enumerate(zip(triplets_, odd, strict=True))
    ]
    assert all(model_hits(answers_, (ids, vectors[None]), 0.1))
    # The fit that the survey makes by itself: one table, many answers by this very distance.
    base = vectors @ np.diag([1.0, 1, 1, 1, 0.2, 0.2, 0.2, 0.2])
    fit = EnsembleConfig(members=1, temperature=0.1)
    start = identity_maps(8, fit, np.random.default_rng(0))
    fitted = fit_ensemble(base[None], start, triplets_, odd, fit, np.random.default_rng(0))
    before = mean_accuracy(base[None], triplets_, odd, 0.1)
    assert mean_accuracy(fitted, triplets_, odd, 0.1) > before + 0.05
    # Gold distractors: the farthest tenth by Euclid.
    assigner = Assigner(lite, large, CONFIG, (ids, vectors[None]), seed=0)
    for track in large.two_excerpt_tracks[:20]:
        far = np.linalg.norm(vectors - vectors[ids.index(track)], axis=1)
        distractor = ids.index(assigner._distractor(track))
        assert (far > far[distractor]).mean() < 0.12
    # The taste map: distances on it are those of the plane, up to one scale.
    flat = TrackMap((ids, vectors[None, :, :2]))
    points = np.array([flat.places[i] for i in ids])
    on_map = np.linalg.norm(points[triplets_[:, 0]] - points[triplets_[:, 1]], axis=1)
    true = np.linalg.norm(vectors[triplets_[:, 0], :2] - vectors[triplets_[:, 1], :2], axis=1)
    scale = on_map.sum() / true.sum()
    np.testing.assert_allclose(on_map, scale * true, atol=0.15)  # places have one decimal


def test_odd_probabilities_of_a_worked_case() -> None:
    """Two equal tracks and an orthogonal one: similarities 0, 0 and 1."""
    vectors = np.array([[[1.0, 0], [1, 0], [0, 1]]])
    p = active.odd_probabilities(vectors, np.array([[0, 1, 2], [2, 0, 1]]), 0.5)
    e = np.exp(2)
    np.testing.assert_allclose(p[0, 0], [1 / (2 + e), 1 / (2 + e), e / (2 + e)])
    np.testing.assert_allclose(p[0, 1], [e / (2 + e), 1 / (2 + e), 1 / (2 + e)])


def test_information_gain_of_an_ensemble_is_its_disagreement() -> None:
    certain_a, certain_b, uniform = [1.0, 0, 0], [0, 1.0, 0], [1 / 3, 1 / 3, 1 / 3]
    p = np.array([[certain_a, uniform, certain_a], [certain_b, uniform, certain_a]])
    np.testing.assert_allclose(active.information_gain(p), [np.log(2), 0, 0], atol=1e-6)
    np.testing.assert_allclose(active.information_gain(p[:1, 1:2]), [np.log(3)], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=40), st.integers(0, 2**32 - 1))
def test_drawn_triplets_have_three_artists(codes: list[int], seed: int) -> None:
    artists = np.asarray(codes)
    rng = np.random.default_rng(seed)
    if len(set(codes)) < 3:
        with pytest.raises(SurveyError):
            active.draw_triplets(artists, 5, rng)
        return
    drawn = active.draw_triplets(artists, 50, rng)
    assert drawn.shape == (50, 3)
    assert all(len(set(artists[t])) == 3 for t in drawn)


def test_drawn_triplets_are_uniform() -> None:
    """Four tracks of four artists: each of the four triplets is drawn 2,000 times in 8,000."""
    drawn = active.draw_triplets(np.arange(4), 8000, np.random.default_rng(0))
    counts = Counter(map(tuple, np.sort(drawn, axis=1)))
    assert len(counts) == 4
    assert list(counts.values()) == pytest.approx([2000] * 4, abs=160)


def test_least_sure_leaves_out_what_was_asked_and_spreads() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 30, 4))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    first = active.select_uncertain(vectors, np.arange(30), 60, 0.1, np.random.default_rng(1))
    asked = {tuple(t) for t in first}
    second = active.select_uncertain(
        vectors, np.arange(30), 60, 0.1, np.random.default_rng(1), asked
    )
    assert len(first) == len(second) == 60
    assert not asked & {tuple(t) for t in second}
    assert np.bincount(first.ravel()).max() <= 12  # twice the mean of 60 * 3 / 30


def write_table(path: Path, ids: list[str], vectors: list) -> Path:
    pq.write_table(pa.table({"id": ids, "embedding": vectors}), path)
    return path


def test_embeddings_are_read_or_refused(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d"]
    good = write_table(tmp_path / "g.parquet", [*ids, "x"], [[3.0, 4.0]] * 5)
    found, vectors = active.read_embeddings([good, good], ids)
    assert found == ids and vectors.shape == (2, 4, 2)
    np.testing.assert_allclose(vectors[0, 0], [3.0, 4.0])  # the model's own lengths
    bad = {
        "at least 3 tracks": write_table(tmp_path / "few.parquet", ids[:2], [[1.0]] * 2),
        "one length": write_table(tmp_path / "len.parquet", ids, [[1.0], [1.0], [1.0], [1.0, 2]]),
        "zero or not finite": write_table(tmp_path / "zero.parquet", ids, [[0.0]] * 4),
        "columns id and embedding": tmp_path / "missing.parquet",
    }
    for said, path in bad.items():
        with pytest.raises(SurveyError, match=said):
            active.read_embeddings([path], ids)
