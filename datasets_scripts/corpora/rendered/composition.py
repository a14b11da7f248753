"""Seeded compositions for the styles corpus: chords and form for MMA, then an arranged MIDI file.

A composition depends on its random generator only, so the same seed gives the same composition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import mido

# Style family by the name of the style file; the first match counts. MMA's folders are by author.
FAMILIES = (
    ("ambient", r"ambient|desert"),
    ("hip hop", r"hip-?hop|trip"),
    ("electronic", r"trance|techno|house|rave|dance|dnb|digital|electric"),
    ("metal and punk", r"metal|mtl|hrk|thr$|punk"),
    ("reggae and ska", r"reggae|ska$"),
    ("funk and soul", r"funk|soul|^rb|[nw]rb|rnb|r\+b|motown|disco|boneym"),
    ("blues", r"blues|boogie|boggie"),
    ("country", r"country|bluegrass|western|hill|cntry|kwest"),
    ("waltz", r"waltz|serenade|34$"),
    ("latin", r"bossa|samba|salsa|mambo|rhumba|merengue|chacha|bolero|beguine|calypso|cuban"
              r"|latin|^son$|tango|quando|afro"),
    ("jazz", r"jazz|swing|bebop|big-?band|combo|evansish|fus|dixie|charleston|ragtime"),
    ("march and polka", r"march|polka"),
    ("folk and hymn", r"folk|hymn|lullaby|spiritual|zydeco|arpeggio"),
    ("ballad", r"ballad|bald"),
    ("ballroom and show", r"foxtrot|quickstep|jive|twist|twi$|broadway|showtune|softshoe|2beat"),
    ("rock", r"rock|shuffle|strut|highfive"),
    ("pop", r"pop|beat|mide|worldpop"),
)  # fmt: skip
NOT_STYLES = r"metronome|^none$|^count$|^intro$|^ending$|^rd$"

# Range of tempi of a family, in quarter notes a minute.
TEMPI = {
    "ambient": (60, 95), "hip hop": (75, 105), "electronic": (115, 150),
    "metal and punk": (110, 185), "reggae and ska": (70, 140), "funk and soul": (85, 125),
    "blues": (60, 140), "country": (85, 160), "waltz": (85, 180), "latin": (90, 180),
    "jazz": (90, 220), "march and polka": (95, 135), "folk and hymn": (65, 120),
    "ballad": (55, 85), "ballroom and show": (100, 190), "rock": (95, 160), "pop": (85, 135),
}  # fmt: skip

# Bars of chords as scale degree:quality; a comma puts two into one bar.
CHORDS = {
    "pop": (
        "1: 5: 6:m 4:", "6:m 4: 1: 5:", "1: 6:m 4: 5:", "1: 3:m 4: 5:", "4: 5: 3:m 6:m",
        "1: 5:,6:m 4: 4:m", "1:M7 4:M7 1:M7 4:M7", "2:m7 5: 1: 6:m", "1: b7: 4: 1:",
    ),
    "jazz": (
        "2:m7 5:7 1:M7 6:7", "1:M7 6:m7 2:m7 5:7", "3:m7 6:7 2:m7 5:7",
        "1:M7 4:7 3:m7,6:7 2:m7,5:7",
        "1:m7 1:m7 4:m7 5:7", "2:m7b5 5:7 1:m6 1:m6", "4:M7 4:m7 3:m7 b3:dim7",
        "1:M7 b3:M7 b6:M7 b2:M7",
    ),
    "blues": ("1:7 4:7 1:7 1:7 4:7 4:7 1:7 6:7 2:m7 5:7 1:7,4:7 1:7,5:7",
              "1:7 1:7 1:7 1:7 4:7 4:7 1:7 1:7 5:7 4:7 1:7 5:7", "1:m7 1:m7 4:m7 1:m7"),
    "minor": (
        "1:m b6: b3: b7:", "1:m 4:m 5:7 1:m", "1:m b7: b6: 5:7", "1:m 1:m b6: b7:",
        "1:m b3: 4:m b6:", "1:m9 4:m9 1:m9 b6:M7", "1:m b2: 1:m b7:m",
    ),
    "rock": ("1:5 b7:5 4:5 1:5", "1:5 4:5 5:5 4:5", "1:5 b3:5 4:5 b6:5", "1: 4: 1: 5:",
             "1:5 1:5 b7:5 4:5", "1:m b7: 4: 1:m"),
    "drone": ("1:sus2 1: 1:sus4 1:", "1:m7 1:m7 4:m7 4:m7", "1:M7 1:M7 2: 2:", "1:m b7: 1:m b7:"),
    "folk": ("1: 4: 1: 5:", "1: 1: 4: 1: 5: 5: 1: 1:", "1: 5: 1: 4:,5:", "1: 6:m 2:m 5:7",
             "1: 4:,1: 5:7 1:", "6:m 5: 4: 5:"),
}  # fmt: skip
HARMONY = {
    "ambient": ("drone", "minor"), "hip hop": ("minor", "jazz"),
    "electronic": ("minor", "drone", "pop"),
    "metal and punk": ("rock", "minor"), "reggae and ska": ("folk", "minor", "pop"),
    "funk and soul": ("jazz", "drone", "pop"), "blues": ("blues",), "country": ("folk", "pop"),
    "waltz": ("folk", "jazz", "minor"), "latin": ("jazz", "minor", "folk"),
    "jazz": ("jazz", "blues"),
    "march and polka": ("folk",), "folk and hymn": ("folk", "minor"),
    "ballad": ("pop", "minor", "jazz"),
    "ballroom and show": ("jazz", "folk"), "rock": ("rock", "pop", "minor"),
    "pop": ("pop", "minor"),
}  # fmt: skip
QUALITIES = {
    "": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10), "M7": (0, 4, 7, 11),
    "m6": (0, 3, 7, 9), "m9": (0, 3, 7, 10, 14), "dim7": (0, 3, 6, 9), "m7b5": (0, 3, 6, 10),
    "sus2": (0, 2, 7), "sus4": (0, 5, 7), "5": (0, 7),
}  # fmt: skip
NOTES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
DEGREES = {"1": 0, "2": 2, "3": 4, "4": 5, "5": 7, "6": 9, "7": 11}

# Families of General MIDI programs (0-based) for the chords and for the bass.
TIMBRES: dict[str, tuple[range | tuple[int, ...], range | tuple[int, ...]]] = {  # chords, bass
    "keys": ((0, 1, 2, 4, 5, 6, 7), (32, 33, 0)),
    "organs": (range(16, 24), (33, 38, 19)),
    "mallets": (range(8, 16), (32, 12)),
    "guitars": (range(24, 29), range(32, 35)),
    "distorted": ((29, 30, 30, 28), (33, 34)),
    "strings": ((40, 41, 42, 44, 45, 46, 48, 49), (43, 42, 48)),
    "choir": (range(52, 55), (32, 48)),
    "brass": (range(56, 64), (58, 32, 57)),
    "reeds": (range(64, 72), (32, 70, 67)),
    "pipes": (range(72, 80), (32, 43)),
    "synth leads": (range(80, 88), (38, 39, 87)),
    "pads": (range(88, 96), (38, 39, 89)),
    "effects": (range(96, 104), (38, 39)),
    "plucked": ((15, 46, *range(104, 109)), (32, 35)),
    "chip": ((80, 81), (80, 38)),
}
KITS = (0, 8, 16, 24, 25, 32, 40, 48)
LEADS = (*range(0, 6), 11, 12, *range(21, 30), *range(40, 43), 46, *range(52, 88), *range(104, 111))
# The parts that are played, and their weights: mostly the whole band; the others are combinations
# that are rare in game music.
TEXTURES = {
    "band": 30, "band and melody": 38, "band without drums": 7, "chords and melody": 6,
    "bass and drums": 5, "drums": 4, "percussion": 2, "melody": 5, "slow pads": 3,
}  # fmt: skip
SWUNG = ("jazz", "blues")
TICKS = 192  # a quarter note, as MMA writes it


class Style(NamedTuple):
    """A style file of MMA. name: folder/file; beats: to a bar; grooves: their names."""

    name: str
    family: str
    beats: int
    grooves: tuple[str, ...]


class Bar(NamedTuple):
    """One bar: the groove that plays it, and (root pitch class, quality) of one or two chords."""

    groove: str
    chords: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Composition:
    """The parameters of a track to render. tempo: quarter notes a minute; key: 0 is C."""

    style: Style
    tempo: int
    key: int
    bars: tuple[Bar, ...]
    texture: str
    seed: int


def read_styles(library: Path) -> list[Style]:
    """All style files under MMA's library folder that hold music, by name."""
    styles = []
    for path in sorted(library.glob("*/*.mma")):
        text = path.read_text(encoding="utf-8", errors="replace")
        grooves = re.findall(r"^\s*DefGroove\s+(\S+)", text, re.M | re.I)
        beats = re.search(r"^\s*Time\s+(\d+)", text, re.M | re.I)
        if grooves and not re.search(NOT_STYLES, path.stem):
            name = f"{path.parent.name}/{path.stem}"
            styles.append(
                Style(name, family(path.stem), int(beats[1]) if beats else 4, tuple(grooves))
            )
    return styles


def family(name: str) -> str:
    """The family of a style file: jazz, latin, electronic, ..."""
    for label, pattern in FAMILIES:
        if re.search(pattern, name.lower()):
            return label
    return "pop"


def compose(style: Style, duration_s: float, rng: Random) -> Composition:
    """Draw a composition of about `duration_s` seconds in `style`."""
    low, high = TEMPI[style.family]
    tempo = rng.randint(low, high)
    if style.beats == 6:
        tempo = round(tempo * 1.7)  # six short beats to the bar
    count = max(8, round(duration_s * tempo / 60 / style.beats))
    key = rng.randrange(12)
    sections = {name: _progression(style, key, rng) for name in "AB"}
    form = rng.choice(("AABA", "ABAB", "AAB", "AB", "A"))
    plain, fills, intros, ends = _groove_kinds(style)
    main = {"A": rng.choice(plain), "B": rng.choice(plain)}
    bars: list[Bar] = []
    at = 0
    while len(bars) < count:
        section = form[at % len(form)]
        for n, chords in enumerate(sections[section]):
            last = n == len(sections[section]) - 1
            groove = rng.choice(fills) if last and fills and rng.random() < 0.7 else main[section]
            bars.append(Bar(groove, chords))
        at += 1
        if rng.random() < 0.25:
            main[section] = rng.choice(plain)
    bars = bars[:count]
    if intros and rng.random() < 0.5:
        groove = rng.choice(intros)
        bars[:2] = [Bar(groove, bar.chords) for bar in bars[:2]]
    tonic = (sections["A"][0][0],)
    bars[-2:] = [Bar(rng.choice(ends) if ends else main["A"], tonic) for _ in range(2)]
    texture = rng.choices(list(TEXTURES), list(TEXTURES.values()))[0]
    return Composition(style, tempo, key, tuple(bars), texture, rng.randrange(1 << 30))


def _progression(style: Style, key: int, rng: Random) -> list[tuple[tuple[int, str], ...]]:
    text = rng.choice(CHORDS[rng.choice(HARMONY[style.family])])
    bars = []
    for bar in text.split():
        chords = []
        for chord in bar.split(","):
            degree, quality = chord.split(":")
            flat = degree.startswith("b")
            root = (key + DEGREES[degree.lstrip("b")] - flat) % 12
            chords.append((root, quality))
        bars.append(tuple(chords))
    return bars * (1 if len(bars) >= 8 else 2)


def _groove_kinds(style: Style) -> tuple[list[str], list[str], list[str], list[str]]:
    """The main, fill, intro and ending grooves of a style."""
    kinds: dict[str, list[str]] = {"fill|break": [], "intro": [], "end": []}
    plain = []
    for groove in style.grooves:
        for pattern, names in kinds.items():
            if re.search(pattern, groove, re.I):
                names.append(groove)
                break
        else:
            plain.append(groove)
    fills, intros, ends = kinds.values()
    return plain or list(style.grooves), fills, intros, ends


def mma_source(composition: Composition) -> str:
    """The composition in MMA's input language."""
    lines = [f"RndSeed {composition.seed}", f"Tempo {composition.tempo}"]
    lines.append(f"Use {composition.style.name}")
    groove = ""
    for n, bar in enumerate(composition.bars, 1):
        if bar.groove != groove:
            groove = bar.groove
            lines.append(f"Groove {groove}")
        names = [NOTES[root] + quality for root, quality in bar.chords]
        if len(names) > 1:  # the second chord in the middle of the bar
            names[1] += f"@{composition.style.beats // 2 + 1}"
        lines.append(f"{n} {' '.join(names)}")
    return "\n".join(lines) + "\n"


def arrange(midi: mido.MidiFile, composition: Composition) -> None:
    """Choose the parts, their programs, effects and melody, in place."""
    rng = Random(composition.seed)
    texture = composition.texture
    drums = [t for t in midi.tracks if _channel(t) == 9]
    bass = [
        t
        for t in midi.tracks
        if _channel(t) not in (None, 9) and re.match("bass|walk", t.name, re.I)
    ]
    chords = [t for t in midi.tracks if _channel(t) not in (None, 9) and t not in bass]
    keep = {
        "band": drums + bass + chords,
        "band and melody": drums + bass + chords,
        "band without drums": bass + chords,
        "chords and melody": chords,
        "bass and drums": drums + bass,
        "drums": drums,
        "percussion": drums,
        "melody": [],
        "slow pads": chords,
    }[texture]
    timbre = rng.choice(list(TIMBRES)) if rng.random() < 0.55 else None
    if texture == "slow pads":
        timbre = rng.choice(("pads", "strings", "choir", "organs"))
    for track in list(midi.tracks[1:]):
        if track in drums or track in bass or track in chords:
            if track in keep:
                choices = TIMBRES[timbre][track in bass] if timbre else None
                kit = rng.choice(KITS) if rng.random() < 0.6 else None
                program = kit if track in drums else rng.choice(choices) if choices else None
                _change(track, program, rng, percussion=texture == "percussion")
            else:
                midi.tracks.remove(track)
    if not any(_channel(t) is not None for t in midi.tracks) or "melody" in texture:
        _add_melody(midi, composition, rng)


def _channel(track: mido.MidiTrack) -> int | None:
    return next((m.channel for m in track if m.type == "note_on"), None)


def _change(track: mido.MidiTrack, program: int | None, rng: Random, percussion: bool) -> None:
    """Change the program, the velocities and the sends to reverb and chorus of one part."""
    channel = _channel(track)
    hand = {n: rng.randrange(54, 82) for n in range(128)}  # a percussion instrument for each drum
    louder = rng.uniform(0.75, 1.15)
    for message in track:
        if message.type == "program_change" and program is not None:
            message.program = program
        if message.type in ("note_on", "note_off"):
            if percussion:
                message.note = hand[message.note]
            if message.type == "note_on" and message.velocity:
                message.velocity = max(1, min(127, round(message.velocity * louder)))
    for control, value in ((91, rng.randrange(0, 110)), (93, rng.choice((0, 0, 30, 80)))):
        track.insert(
            0, mido.Message("control_change", channel=channel, control=control, value=value)
        )


def _add_melody(midi: mido.MidiFile, composition: Composition, rng: Random) -> None:
    """Add a melody over the chords: recurring motifs, with chord tones on the beats."""
    used = {_channel(t) for t in midi.tracks}
    free = [c for c in range(16) if c != 9 and c not in used]
    if not free:
        return
    channel = free[0]
    track = mido.MidiTrack()
    midi.tracks.append(track)
    track.append(mido.Message("program_change", channel=channel, program=rng.choice(LEADS)))
    for control, value in ((91, rng.randrange(20, 110)), (10, rng.randrange(40, 88))):
        track.append(mido.Message("control_change", channel=channel, control=control, value=value))
    events: list[tuple[int, mido.Message]] = []
    for start, length, note, velocity in melody_notes(composition, rng):
        on = mido.Message("note_on", channel=channel, note=note, velocity=velocity)
        events += [
            (start, on),
            (start + length, mido.Message("note_off", channel=channel, note=note)),
        ]
    now = 0
    for at, message in sorted(events, key=lambda e: (e[0], e[1].type == "note_on")):
        track.append(message.copy(time=at - now))
        now = at


def melody_notes(composition: Composition, rng: Random) -> list[tuple[int, int, int, int]]:
    """A melody over the whole composition: (start and length in ticks, MIDI note, velocity)."""
    beats = composition.style.beats
    centre = rng.choice((55, 62, 67, 72, 79))
    dense = rng.uniform(0.25, 0.75)
    rest = rng.choice((0.05, 0.15, 0.3))
    legato = rng.uniform(0.5, 1.0)
    loud = rng.randint(75, 115)
    minor = composition.bars[0].chords[0][1].startswith("m")
    scale: tuple[int, ...] = (0, 2, 3, 5, 7, 8, 10) if minor else (0, 2, 4, 5, 7, 9, 11)
    if rng.random() < 0.3:
        scale = (0, 3, 5, 7, 10) if minor else (0, 2, 4, 7, 9)
    steps = [p for p in range(centre - 12, centre + 15) if (p - composition.key) % 12 in scale]
    motifs = [_motif(beats, dense, rest, rng) for _ in range(3)]
    at = len(steps) // 2
    notes = []
    for n, bar in enumerate(composition.bars):
        motif = motifs[(0, 1, 0, 2)[n % 4]]
        for start, length, step, sounds in motif:
            at += step
            if not 0 <= at < len(steps):
                at = max(0, min(len(steps) - 1, at - 2 * step))
            pitch = steps[at]
            root, quality = bar.chords[-1 if start >= beats / 2 else 0]
            if start == int(start):  # on a beat: the nearest tone of the chord
                tones = {(root + i) % 12 for i in QUALITIES[quality]}
                steps_away = [pitch + by for by in (0, -1, 1, -2, 2, -3, 3)]  # the nearest first
                pitch = next((p for p in steps_away if p % 12 in tones), pitch)
            if sounds:
                late = 1 / 6 if composition.style.family in SWUNG and start % 1 == 0.5 else 0.0
                tick = round((n * beats + start + late) * TICKS)
                velocity = max(1, min(127, loud + rng.randint(-12, 12)))
                notes.append((tick, max(12, round(length * legato * TICKS)), pitch, velocity))
    return notes


def _motif(
    beats: int, dense: float, rest: float, rng: Random
) -> list[tuple[float, float, int, bool]]:
    """One bar of (start, length in beats; step in the scale; whether it sounds)."""
    motif = []
    start = 0.0
    while start < beats:
        room = beats - start
        lengths = (0.5, 0.5, 1.0) if rng.random() < dense else (1.0, 1.5, 2.0, 3.0)
        length = min(room, rng.choice(lengths))
        step = rng.choice((-2, -1, -1, 0, 1, 1, 2, rng.choice((-4, 4))))
        motif.append((start, length, step, rng.random() >= rest))
        start += length
    return motif
