"""Where the excerpts lie, and what a teacher's embedder does to them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_scripts.corpora.corpus import Corpus
from distill.evaluation import excerpts as module
from distill.evaluation.excerpts import SAMPLE_RATE, excerpts, teacher_embedder
from distill.features.shards import CacheError
from tests.tones import melody


def test_excerpts_lie_at_one_and_two_thirds(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(tones)
    pairs = excerpts(corpus, "test", 4.0, tmp_path)
    assert pairs.audio.shape == (6, 2, 4 * SAMPLE_RATE)
    assert pairs.album_names == ["album 6", "album 7"]
    track = next(t for t in corpus.tracks if t.id == pairs.tracks[0])
    album, number = int(track.album.split()[1]), int(track.title.split()[1])
    whole = melody(album, number, 11.0)  # 3 s are free: a third before, one between, one after
    for excerpt, start in zip(pairs.audio[0], (1, 6), strict=True):
        expected = whole[start * SAMPLE_RATE : (start + 4) * SAMPLE_RATE]
        assert np.abs(excerpt - expected).max() < 1e-4
    held_out = {t.album for t in corpus.tracks if t.id in pairs.tracks}
    assert held_out.isdisjoint(t.album for t in corpus.tracks if t.split == "train")

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "decode", never)
    again = excerpts(corpus, "test", 4.0, tmp_path)
    assert np.array_equal(again.audio, pairs.audio)


def test_tracks_too_short_for_two_excerpts_are_named(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="0 tracks of the test split are longer than two"):
        excerpts(Corpus(tones), "test", 6.0, tmp_path)


class Levels:
    """A teacher whose embedding is the RMS of a window of one second."""

    name, sample_rate, window, level_db = "levels", 11_025, 11_025, -20.0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.square().mean(dim=1, keepdim=True).sqrt()


def test_a_teacher_embeds_an_excerpt_at_its_level() -> None:
    embed_fn = teacher_embedder(Levels())  # type: ignore[arg-type]
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
    for gain in (0.001, 1.0):
        assert embed_fn((gain * tone).astype(np.float32)) == pytest.approx(0.1, rel=0.01)
    short = (0.5 * tone[: SAMPLE_RATE // 2]).astype(np.float32)  # half a window, then zeros
    assert embed_fn(short) == pytest.approx(0.1 * np.sqrt(0.5), rel=0.02)
    assert embed_fn(np.zeros(SAMPLE_RATE, np.float32)) == 0


def test_a_teachers_windows_cover_an_excerpt() -> None:
    """Half a window or less at the end is left out; more gets a window that ends the excerpt."""
    embed_fn = teacher_embedder(Levels())  # type: ignore[arg-type]
    quiet = np.full(2 * SAMPLE_RATE, 0.01, np.float32)
    for end_s, windows in ((0.4, 2), (0.6, 3)):
        audio = np.concatenate([quiet, np.ones(round(end_s * SAMPLE_RATE), np.float32)])
        level = 0.1 / np.sqrt(np.mean(audio**2))  # of the ones at the end, at -20 dB
        expected = 0.0 if windows == 2 else level * np.sqrt(end_s) / 3
        assert embed_fn(audio) == pytest.approx(expected, abs=0.02)
