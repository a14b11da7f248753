"""Clips: equally loud, without metadata, cut once; skipped tracks are reported."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from datasets_scripts.corpora.corpus import Corpus, Item, file_sha256, write_corpus
from survey import clips
from survey.clips import ClipLibrary, prepare
from survey.config import SurveyError

from .conftest import CONFIG, TRACKS, make_item


def probe(path: Path) -> dict:
    """ffprobe's description of a file."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams"]
    return json.loads(subprocess.check_output([*command, "-show_chapters", str(path)]))


def loudness(path: Path) -> float:
    """Integrated loudness by ffmpeg's ebur128 filter, which prepare() does not use."""
    command = ["ffmpeg", "-nostats", "-i", str(path), "-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return float(said[said.rindex("I:") :].split()[1])


def test_every_track_has_a_clip_in_both_formats(library: ClipLibrary) -> None:
    assert len(library.tracks) == TRACKS
    assert len(library.two_excerpt_tracks) == CONFIG.gold_tracks
    for track in library.tracks:
        for suffix, codec in (("ogg", "opus"), ("m4a", "aac")):
            found = probe(library.path(track, 0, suffix))
            assert found["streams"][0]["codec_name"] == codec
            assert float(found["format"]["duration"]) == pytest.approx(10, abs=0.1)
    for track in library.two_excerpt_tracks:
        assert library.path(track, 1, "ogg").is_file()


def test_clips_are_equally_loud(library: ClipLibrary) -> None:
    """The corpus spans 32 dB; its clips agree to within a loudness unit."""
    found = [loudness(library.path(track, 0, "ogg")) for track in library.tracks]
    assert found == pytest.approx([CONFIG.loudness_lufs] * TRACKS, abs=1.0)
    assert loudness(library.path(library.two_excerpt_tracks[0], 1, "m4a")) == pytest.approx(
        -16, abs=1.0
    )


def test_true_peaks_are_limited(tmp_path: Path) -> None:
    """A quiet tone with loud clicks, 20 dB above what a constant gain could make of it."""
    t = np.arange(15 * 48_000) / 48_000
    wave = 0.02 * np.sin(2 * np.pi * 330 * t)
    wave[::24_000] = 0.9
    source = tmp_path / "clicks.wav"
    soundfile.write(source, np.stack([wave, wave], axis=1), 48_000)
    segment = ["-ss", "2", "-t", "10", "-i", str(source)]
    chain = clips._gain_filter(segment, -16.0)
    measured = tmp_path / "limited.wav"
    command = ["ffmpeg", "-v", "error", *segment, "-af", chain, "-c:a", "pcm_f32le", str(measured)]
    subprocess.run(command, check=True)
    assert loudness(measured) == pytest.approx(-16, abs=0.5)
    samples, rate = soundfile.read(measured)
    assert rate == 48_000
    fine = soxr.resample(samples, rate, 8 * rate, quality="VHQ")
    assert 20 * np.log10(np.abs(fine).max()) <= clips.MAX_PEAK_DBTP + 0.5


def test_a_constant_gain_where_no_peak_needs_a_limit(tmp_path: Path) -> None:
    t = np.arange(12 * 48_000) / 48_000
    wave = 0.05 * np.sin(2 * np.pi * 330 * t)
    source = tmp_path / "tone.wav"
    soundfile.write(source, np.stack([wave, wave], axis=1), 48_000)
    chain = clips._gain_filter(["-i", str(source)], -16.0)
    gain = float(re.fullmatch(r"volume=(\S+)dB,aresample=48000", chain)[1])  # type: ignore[index]
    assert gain == pytest.approx(
        -16 - 20 * np.log10(0.05), abs=1.5
    )  # a tone of one channel: -0.7 LU


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A corpus of MP3s with titles, artists, other tags, and an encoder's name."""
    items = []
    for number in range(3):
        item = make_item(tmp_path, number, seconds=15)
        file = tmp_path / f"{number}.mp3"
        tags = ["-metadata", "title=Secret", "-metadata", "artist=Somebody", "-metadata", "x=y"]
        command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / item.name), *tags, str(file)]
        subprocess.run(command, check=True)
        items.append(of_file(item, file))
    write_corpus(items, tmp_path / "corpus", "# tagged\n")
    return tmp_path / "corpus"


def of_file(item: Item, file: Path) -> Item:
    """The item's track with another audio file, and the id that follows from it."""
    sha = file_sha256(file)
    return Item.of_file(replace(item.track, id=sha[:16], sha256=sha), file, file.name)


@pytest.mark.slow
def test_clips_carry_no_metadata(tagged: Path, tmp_path: Path) -> None:
    made = prepare(Corpus(tagged), tmp_path / "clips", CONFIG, lambda _: None)
    for track in made.tracks:
        for suffix in clips.FORMATS:
            path = made.path(track, 0, suffix)
            data = path.read_bytes()
            for word in (b"Secret", b"Somebody", b"Lavf", b"Lavc59", b"LAME"):
                assert word not in data, (suffix, word)
            found = probe(path)
            tags = found["format"].get("tags", {}) | found["streams"][0].get("tags", {})
            boring = {"major_brand", "minor_version", "compatible_brands", "language"}
            boring |= {"handler_name", "vendor_id"}
            assert tags.pop("encoder", "Lavc libopus") == "Lavc libopus"  # written to every clip
            assert set(tags) <= boring, tags
            assert found["chapters"] == []


@pytest.mark.slow
def test_clip_is_from_the_middle(tmp_path: Path) -> None:
    """The clip of a track with sound only in its middle ten seconds is sound throughout."""
    items = [make_item(tmp_path, n, seconds=30) for n in range(3)]
    file = tmp_path / items[0].name
    wave, rate = soundfile.read(file)
    wave[: 10 * rate] = 0
    wave[20 * rate :] = 0
    soundfile.write(file, wave, rate)
    items[0] = of_file(items[0], file)
    write_corpus(items, tmp_path / "corpus", "# middle\n")
    made = prepare(Corpus(tmp_path / "corpus"), tmp_path / "clips", CONFIG, lambda _: None)
    wave, rate = soundfile.read(made.path(items[0].track.id, 0, "ogg"))
    seconds = np.sqrt((wave[: 9 * rate].reshape(9, -1) ** 2).mean(axis=1))
    assert seconds.min() > 0.3 * seconds.max()


@pytest.mark.slow
def test_skipped_tracks_are_reported(tmp_path: Path) -> None:
    items = [make_item(tmp_path, n, seconds=12) for n in range(3)]
    items.append(make_item(tmp_path, 3, seconds=5))
    quiet = make_item(tmp_path, 4, seconds=12, level=0.0)
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"this is no music at all" * 99)
    items += [quiet, of_file(make_item(tmp_path, 5), broken)]
    write_corpus(items, tmp_path / "corpus", "# trouble\n")
    said: list[str] = []
    made = prepare(Corpus(tmp_path / "corpus"), tmp_path / "clips", CONFIG, said.append)
    reasons = {row["id"]: row["left_out"] for row in made.skipped_tracks}
    assert "5.0 s long" in reasons[items[3].track.id]
    assert "silent" in reasons[quiet.track.id]
    assert "ffmpeg could not read it" in reasons[items[-1].track.id]
    assert len(made.tracks) == 3
    assert sum(line.startswith("left out") for line in said) == 3


@pytest.mark.slow
def test_cutting_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [make_item(tmp_path, n, seconds=12) for n in range(3)]
    write_corpus(items, tmp_path / "corpus", "# three\n")
    corpus = Corpus(tmp_path / "corpus")
    folder = tmp_path / "clips"
    prepare(corpus, folder, CONFIG, lambda _: None)
    # As after a kill: one track's note and the library were not written yet.
    (folder / f"{items[1].track.id}.json").unlink()
    (folder / "library.json").unlink()
    with pytest.raises(SurveyError, match="feelprint-survey prepare"):
        ClipLibrary(folder)
    cut: list[str] = []
    whole = clips._cut_track
    monkeypatch.setattr(
        clips, "_cut_track", lambda c, t, *rest: (cut.append(t.id), whole(c, t, *rest))
    )
    made = prepare(corpus, folder, CONFIG, lambda _: None)
    assert cut == [items[1].track.id]
    assert len(made.tracks) == 3
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
def test_too_few_songs_is_an_error(tmp_path: Path) -> None:
    items = [make_item(tmp_path, n, seconds=12) for n in range(2)]
    write_corpus(items, tmp_path / "corpus", "# two\n")
    with pytest.raises(SurveyError, match="a round needs 3 songs; 2 of"):
        prepare(Corpus(tmp_path / "corpus"), tmp_path / "clips", CONFIG, lambda _: None)
