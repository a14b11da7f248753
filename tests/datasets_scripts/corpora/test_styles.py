"""Rendered tracks: the same seed gives the same track; every style and texture can be rendered."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import mido
import numpy as np
import pytest

from datasets_scripts.audio import measure, open_audio
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.corpora.rendered import composition, styles
from datasets_scripts.corpora.rendered.composition import (
    Style,
    arrange,
    compose,
    family,
    melody_notes,
    mma_source,
)
from tests.datasets_scripts.leaks import shared_keys

SWING = Style("stdlib/swing", "jazz", 4, ("Swing", "SwingFill", "SwingIntro", "SwingEnd"))
FONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("mma", "fluidsynth", "ffmpeg"))) or not FONT.exists(),
    reason="needs mma, fluidsynth, ffmpeg and timgm6mb-soundfont",
)


def test_same_seed_gives_the_same_composition() -> None:
    one, two, other = (compose(SWING, 60, Random(seed)) for seed in ("a", "a", "b"))
    assert one == two and mma_source(one) == mma_source(two)
    assert melody_notes(one, Random(1)) == melody_notes(two, Random(1))
    assert mma_source(one) != mma_source(other)


@pytest.mark.parametrize("seed", range(8))
def test_composition_has_the_given_length(seed: int) -> None:
    drawn = compose(SWING, 80, Random(seed))
    assert len(drawn.bars) * 4 * 60 / drawn.tempo == pytest.approx(80, rel=0.05)
    assert drawn.bars[-1].groove == "SwingEnd"
    lines = mma_source(drawn).splitlines()
    assert lines[:3] == [f"RndSeed {drawn.seed}", f"Tempo {drawn.tempo}", "Use stdlib/swing"]
    assert lines[-1].startswith(f"{len(drawn.bars)} ")


def test_melody_has_chord_tones_on_the_beats() -> None:
    drawn = compose(SWING, 60, Random(3))
    on_chord = total = 0
    for start, length, note, velocity in melody_notes(drawn, Random(4)):
        assert 30 < note < 100 and length > 0 and 0 < velocity < 128
        if start % composition.TICKS == 0:
            bar = drawn.bars[start // (4 * composition.TICKS)]
            chord = bar.chords[-1 if start // composition.TICKS % 4 >= 2 else 0]
            tones = {(chord[0] + i) % 12 for i in composition.QUALITIES[chord[1]]}
            on_chord += note % 12 in tones
            total += 1
    assert total > 10 and on_chord == total


@pytest.mark.parametrize(
    ("name", "label"),
    [("bossanova", "latin"), ("heavymetal", "metal and punk"), ("hip-hop", "hip hop"),
     ("trance1", "electronic"), ("polka", "march and polka"), ("bebop", "jazz"),
     ("bluegrass", "country"), ("jazzwaltz", "waltz"), ("reggae", "reggae and ska"),
     ("8beatpop1", "pop"), ("popballad", "ballad")],
)  # fmt: skip
def test_families(name: str, label: str) -> None:
    assert family(name) == label


def midi() -> mido.MidiFile:
    file = mido.MidiFile(type=1, ticks_per_beat=composition.TICKS)
    file.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo")]))
    for name, channel in (("Drum-Kick", 9), ("Bass-Main", 1), ("Chord-Piano", 2), ("Walk", 3)):
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
        track.append(mido.Message("program_change", channel=channel, program=0))
        track.append(mido.Message("note_on", channel=channel, note=60, velocity=80))
        track.append(mido.Message("note_off", channel=channel, note=60, time=100))
        file.tracks.append(track)
    return file


@pytest.mark.parametrize("texture", list(composition.TEXTURES))
def test_textures_keep_the_parts_they_name(texture: str) -> None:
    drawn = compose(SWING, 60, Random(5))
    file = midi()
    arrange(
        file, composition.Composition(drawn.style, drawn.tempo, drawn.key, drawn.bars, texture, 6)
    )
    names = {track.name for track in file.tracks[1:]} - {""}
    assert ("Drum-Kick" in names) == (
        texture in ("band", "band and melody", "bass and drums", "drums", "percussion")
    )
    assert ("Bass-Main" in names) == ("Walk" in names) == (texture.startswith(("band", "bass")))
    tune = file.tracks[-1]
    assert (tune.name == "") == ("melody" in texture)
    if tune.name == "":
        assert {m.channel for m in tune if m.type == "note_on"} == {0}


@pytest.mark.slow
@needs_tools
def test_the_same_seed_gives_the_same_corpus_and_resumes_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(styles, "SHORTEST_S", 22.0)
    monkeypatch.setattr(styles, "LONGEST_S", 24.0)
    font = styles.SoundFont("timgm6mb-soundfont", FONT)
    monkeypatch.setattr(styles, "soundfonts", lambda debs, folder: [font])
    played = []
    play = styles.play

    def watched(drawn, font, scratch):
        played.append(drawn)
        if len(played) == 3:
            raise KeyboardInterrupt
        return play(drawn, font, scratch)

    monkeypatch.setattr(styles, "play", watched)
    hours = 50 / 3600
    with pytest.raises(KeyboardInterrupt):
        styles.build_styles(hours, 1, tmp_path / "a", tmp_path)
    first = styles.build_styles(hours, 1, tmp_path / "a", tmp_path)
    assert len(played) == len(first) + 1 and len(first) >= 3  # those before the kill were kept
    second = styles.build_styles(hours, 1, tmp_path / "b", tmp_path)
    assert [t.sha256 for t in first.tracks] == [t.sha256 for t in second.tracks]
    for track in first.tracks:
        data = first.audio_bytes(track.id)
        with open_audio(data) as file:
            samples = file.read(dtype="float32", always_2d=True)
        assert 20 < measure(data).duration_s < 40 and np.abs(samples.mean(axis=1)).max() < 1.1
        assert track.genres[0] == family(track.genres[1].split("/")[1])
    assert shared_keys(first.tracks) == {}
    with pytest.raises(CorpusError, match="begun with"):
        styles.build_styles(hours, 2, tmp_path / "a", tmp_path)
    assert len(Corpus(tmp_path / "a")) == len(first)


@needs_tools
def test_all_of_mma_s_styles_are_known() -> None:
    found = composition.read_styles(styles.LIBRARY)
    assert len(found) > 250 and len({s.family for s in found}) == len(composition.FAMILIES)
    assert all(s.beats in (2, 3, 4, 5, 6) and s.grooves for s in found)
    splits = [styles.split_of(s) for s in found]
    assert 10 < splits.count("validation") < 40


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CorpusError, match="apt install mma"):
        styles.build_styles(1, 0, tmp_path / "out", tmp_path)
    with pytest.raises(CorpusError, match="more than none"):
        styles.build_styles(0, 0, tmp_path / "out", tmp_path)
