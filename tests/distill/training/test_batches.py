"""Batches: a function of seed and step, in quadruplets, short tracks padded and masked."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Track
from datasets_scripts.triplets.table import Triplet
from distill.features.recordings import Recording
from distill.training.batches import ClipBatches, Targets

DIM = 40


def recording(
    number: int, album: str, segments: int = 8, augmentation: int = 0, **known: Any
) -> Recording:
    """A track whose log-mel holds its number, its windows' numbers and its augmentation."""
    rng = np.random.default_rng((number, augmentation))
    windows = 3 * segments
    mel = np.full((windows, 2, 2), number, np.float16)
    mel[:, 0, 1] = np.arange(windows)
    mel[:, 1, 1] = augmentation
    own = np.random.default_rng(number).standard_normal(DIM)
    embeddings = own + 0.3 * rng.standard_normal((segments, DIM))
    track = Track(
        id=f"{number:016x}", title=str(number), artist="", album=album, genres=[], source="s",
        licence="", duration_s=1.0, sha256="", split="train",
    )  # fmt: skip
    track = dataclasses.replace(track, **known)
    return Recording(
        track, augmentation, mel, np.ones(windows, np.uint8), (embeddings.astype(np.float16),)
    )


@pytest.fixture(scope="module")
def found() -> list[Recording]:
    """Twelve albums of three tracks, each as it is and augmented; the last track is short."""
    originals = [recording(n, f"album {n // 3}", 8 if n < 35 else 2) for n in range(36)]
    return originals + [recording(n, f"album {n // 3}", 8, augmentation=1) for n in range(36)]


@pytest.fixture(scope="module")
def targets(found: list[Recording]) -> Targets:
    return Targets.fit(found, 16)


def batches(found: list[Recording], targets: Targets, **options: Any) -> ClipBatches:
    given = {"batch_size": 16, "clip_segments": (2, 4), "seed": 0} | options
    return ClipBatches(found, targets, **given)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(vars(one)[name], vars(other)[name]) for name in vars(one))


def test_a_batch_depends_on_seed_and_step_alone(found: list[Recording], targets: Targets) -> None:
    one, again = batches(found, targets), batches(found, targets)
    drawn = [one[step] for step in range(6)]
    assert all(same(again[step], drawn[step]) for step in (5, 0, 3))  # in any order
    assert not same(drawn[0], drawn[1])
    assert not same(batches(found, targets, seed=1)[0], drawn[0])


def test_quadruplets_are_two_clips_of_a_track_and_two_of_its_album(
    found: list[Recording], targets: Targets
) -> None:
    drawn = batches(found, targets)
    other_tracks = 0
    for step in range(20):
        clips = drawn[step]
        track, album = clips.track.view(-1, 4), clips.album.view(-1, 4)
        assert torch.equal(track[:, 0], track[:, 1])
        assert torch.equal(track[:, 2], track[:, 3])
        assert (album == album[:, :1]).all()
        assert torch.equal(album.view(-1), torch.from_numpy(drawn.album_of)[clips.track])
        other_tracks += int((track[:, 0] != track[:, 2]).sum())
        # the log-mel is that of the track's number
        titles = [int(drawn.by_track[n][0].track.title) for n in clips.track.tolist()]
        assert clips.mel[:, 0, 0, 0].tolist() == titles
    assert other_tracks > 20  # the second track is another one in two of three cases


def test_a_clip_and_its_target_are_of_the_same_segments(
    found: list[Recording], targets: Targets
) -> None:
    drawn = batches(found, targets, clip_segments=(2,))
    seen = set()
    for step in range(10):
        clips = drawn[step]
        for at in range(16):
            copies = drawn.by_track[int(clips.track[at])]
            start = int(clips.mel[at, 0, 0, 1]) // 3
            augmentation = int(clips.mel[at, 0, 1, 1])
            embedding = next(r for r in copies if r.augmentation == augmentation).teacher_embedding(
                start, 2
            )
            assert np.allclose(clips.teacher[at], targets.space(embedding[None])[0], atol=1e-6)
            assert clips.mel[at, :, 0, 1].tolist() == list(range(3 * start, 3 * start + 6))
            # two clips of a track are of one recording: both augmented, or both not
            assert augmentation == int(clips.mel[at ^ 1, 0, 1, 1])
            seen.add((augmentation, start))
    assert {augmentation for augmentation, _ in seen} == {0, 1}
    assert len({start for _, start in seen}) == 7  # from any of the 8 segments but the last


def test_a_short_track_is_padded_and_the_padding_is_masked(targets: Targets) -> None:
    short = [recording(n, f"album {n}", 2) for n in range(3)]
    clips = batches(short, targets, clip_segments=(4,))[0]
    assert clips.mel.shape == (16, 12, 2, 2)
    assert (clips.nonsilent_ratio[:, :6] == 1).all()
    assert (clips.nonsilent_ratio[:, 6:] == 0).all()
    assert (clips.mel[:, 6:] == 0).all()


def test_one_length_is_drawn_for_each_batch(found: list[Recording], targets: Targets) -> None:
    drawn = batches(found, targets)
    assert {drawn[step].mel.shape[1] for step in range(12)} == {6, 12}


def test_tracks_without_an_album_are_grouped_by_artist_or_alone(targets: Targets) -> None:
    known = [
        recording(0, "", artist="someone"),
        recording(1, "", artist="someone"),
        recording(2, ""),
        recording(3, ""),
        recording(4, "best of", source="one"),
        recording(5, "best of", source="other"),
    ]
    albums = batches(known, targets).album_of
    assert albums[0] == albums[1]
    assert len(set(albums)) == 5


def test_rare_music_is_drawn_more_often_than_its_share(targets: Targets) -> None:
    """Thirty tracks with equal embeddings and two with others."""
    found = [recording(7, f"album {n}") for n in range(30)]
    found = [
        dataclasses.replace(r, track=dataclasses.replace(r.track, id=str(n)))
        for n, r in enumerate(found)
    ]
    found += [recording(100, "rare"), recording(101, "rare")]
    space = Targets.fit([recording(n, "") for n in range(40)], 16)
    drawn = batches(found, space)
    assert drawn.weight[-2:].sum() > 1.5 * 2 / 32
    assert drawn.weight.sum() == pytest.approx(1)


def test_several_teachers_are_concatenated(found: list[Recording]) -> None:
    two = dataclasses.replace(found[0], teacher=(found[0].teacher[0], found[1].teacher[0][:, :5]))
    embedding = two.teacher_embedding(1, 3)
    assert embedding.shape == (DIM + 5,)
    assert np.allclose(embedding[:DIM], found[0].teacher_embedding(1, 3))
    assert np.allclose(embedding[DIM:], found[1].teacher_embedding(1, 3)[:5])


def test_short_tracks_are_cut_into_two_clips() -> None:
    """Previews of 30 s: five segments are cut into clips of two."""
    found = [recording(n, "", 5) for n in range(40)]
    space = Targets.fit(found, 16).space
    tracks = np.stack([r.teacher_embedding(0, 5) for r in found])
    assert np.isfinite(space(tracks)).all()
    assert space.components.shape == (DIM, 16)


def test_triplets_follow_the_quadruplets_with_the_odd_one_last(
    found: list[Recording], targets: Targets
) -> None:
    def song(number: int) -> str:
        return f"{number:016x}"

    triplets = [
        Triplet(song(0), song(1), song(2), song(0), "t", weight=0.25),
        Triplet(song(3), song(4) + "@0.5", song(5), song(5), "t", weight=0.75),
    ]
    drawn = batches(found, targets, triplets=triplets)
    titles, starts = [], set()
    for step in range(40):
        clips = drawn[step]
        assert clips.triplets.tolist() == [[16 + 3 * n, 17 + 3 * n, 18 + 3 * n] for n in range(4)]
        numbers = clips.mel[:, 0, 0, 0].int()
        assert clips.track.tolist() == numbers.tolist() and len(clips.teacher) == 28
        titles += [tuple(rows) for rows in numbers[clips.triplets].tolist()]
        starts |= {int(m[0, 0, 1]) for m in clips.mel[16:] if m[0, 0, 0] == 4}
    assert set(titles) == {(1, 2, 0), (3, 4, 5)}
    assert titles.count((3, 4, 5)) == pytest.approx(0.75 * len(titles), rel=0.15)
    assert starts == {12}  # 0.5 s of 1 s, in eight segments of three windows
    plain = batches(found, targets)[0]
    assert plain.triplets.shape == (0, 3)
    assert torch.equal(plain.track, drawn[0].track[:16])  # the quadruplets are of the same tracks


def test_a_batch_that_is_not_of_quadruplets_is_refused(
    found: list[Recording], targets: Targets
) -> None:
    with pytest.raises(ValueError, match="made of quadruplets, got batch_size 18"):
        batches(found, targets, batch_size=18)
