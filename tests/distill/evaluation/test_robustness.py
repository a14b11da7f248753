"""The alterations of the robustness table, and the measures on them."""

import shutil

import numpy as np
import pytest
import soundfile

from distill.evaluation import robustness
from distill.evaluation.robustness import (
    SAMPLE_RATE,
    by_mecomp,
    by_torchaudio,
    mono,
    select_excerpts,
)


def tone(seconds: float, rate: int, hz: float = 440.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)[:, None]


def test_the_cubic_is_exact_on_a_cubic():
    t = np.arange(400) / 400
    native = (t**3 - 0.5 * t)[:, None].astype(np.float32)
    made = by_mecomp(native, 44_100)
    at = np.arange(len(made)) * 2 / 400
    assert np.abs(made - (at**3 - 0.5 * at))[1:-3].max() < 1e-6


def test_at_the_models_own_rate_the_cubic_changes_nothing():
    native = tone(0.2, SAMPLE_RATE)
    assert np.array_equal(by_mecomp(native, SAMPLE_RATE), native[:, 0])


def test_stereo_is_added_and_scaled():
    native = np.concatenate([tone(0.1, SAMPLE_RATE), tone(0.1, SAMPLE_RATE)], axis=1)
    assert by_mecomp(native, SAMPLE_RATE) == pytest.approx(native[:, 0] * np.sqrt(2), abs=1e-6)


def test_the_cubic_aliases_what_a_filter_removes():
    native = tone(0.5, 44_100, hz=15_000)  # above half of 22,050 Hz
    assert np.abs(mono(native, 44_100)[2_000:-2_000]).max() < 0.01
    assert np.abs(by_torchaudio(native, 44_100)[2_000:-2_000]).max() < 0.01
    assert np.abs(by_mecomp(native, 44_100)[2_000:-2_000]).max() > 0.1


def test_the_two_good_resamplers_agree():
    native = tone(1.0, 44_100)
    ours, theirs = mono(native, 44_100), by_torchaudio(native, 44_100)
    assert np.abs(ours[500:-500] - theirs[500 : len(ours) - 500]).max() < 1e-3


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_an_mp3_keeps_its_place_and_length():
    native = tone(2.0, 44_100)
    made, clean = robustness.mp3(native, 44_100), mono(native, 44_100)
    assert abs(len(made) - len(clean)) <= 1
    n = min(len(made), len(clean))
    assert np.corrcoef(made[2_000 : n - 2_000], clean[2_000 : n - 2_000])[0, 1] > 0.99


def test_clips_are_spread_over_tracks_that_are_long_enough():
    durations = {f"t{n}": 10.0 if n % 2 else 60.0 for n in range(100)}
    clips = select_excerpts(durations, 10, 18.0)
    assert len(clips) == 10 and len({clip.track for clip in clips}) == 10
    assert all(durations[clip.track] == 60.0 for clip in clips)
    assert all(clip.start_s > 0 and clip.start_s + 18.5 <= 60 for clip in clips)
    assert select_excerpts({"short": 15.0}, 10, 18.0) == []


def test_every_alteration_of_a_real_file(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.repeat(tone(25.0, 44_100), 2, axis=1), 44_100)
    clip = robustness.Excerpt("a", 2.0, 6.0)
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    references, alterations = robustness.altered(path.read_bytes(), clip)
    length = 6 * SAMPLE_RATE
    assert abs(len(references["clean"]) - length) <= 1
    assert len(references["whole"]) == 25 * SAMPLE_RATE
    assert len(alterations["first half"]) == len(references["clean"]) // 2
    assert len(alterations["20 s of the track"]) == 20 * SAMPLE_RATE
    assert abs(len(alterations["start +0.5 s"]) - length) <= 1
    louder = np.abs(alterations["gain +12 dB"]).max() / np.abs(references["clean"]).max()
    assert louder == pytest.approx(10 ** (12 / 20), rel=1e-5)
    assert not alterations["zeros appended"][len(references["clean"]) :].any()


def test_a_collapsed_space_has_high_cosines_and_no_self_retrieval():
    same = np.ones((5, 4))
    collapsed = robustness._compare(same, same)
    assert collapsed["mean_cosine"] == pytest.approx(1.0)
    assert collapsed["min_cosine"] == pytest.approx(1.0)
    assert collapsed["self_retrieval"] == 0.0
    steady = robustness._compare(np.eye(5), np.eye(5))
    assert (steady["mean_cosine"], steady["self_retrieval"]) == (1.0, 1.0)
    assert steady["max_abs_change"] == 0.0
    swapped = robustness._compare(np.eye(5)[::-1], np.eye(5))
    assert swapped["self_retrieval"] == pytest.approx(0.2)
