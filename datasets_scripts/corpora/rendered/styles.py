"""The styles corpus: seeded compositions in MMA's styles, rendered by fluidsynth with SoundFonts.

Any number of hours, each track labelled with its style and style family. The audio is Ogg Vorbis
(about 55 MB an hour): the same coding as most of the free corpus, a quarter of FLAC's size, and,
encoded bit-exactly, the same bytes from the same seed on the same machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import sqrt
from pathlib import Path
from random import Random
from typing import NamedTuple

import mido
import numpy as np
import soundfile
from tqdm import tqdm

from datasets_scripts.corpora import debian
from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.corpus import (
    Corpus,
    CorpusError,
    Item,
    Reject,
    Track,
    write_corpus,
    write_rejects,
)
from datasets_scripts.corpora.rendered.composition import (
    Composition,
    Style,
    arrange,
    compose,
    mma_source,
    read_styles,
)
from datasets_scripts.files import atomic_path, write_text

LIBRARY = Path("/usr/share/mma/lib")
# General MIDI banks of Debian, from 6 to 140 MB; the last imitates an FM chip of 1990.
SOUNDFONTS = (
    "fluid-soundfont-gm",
    "timgm6mb-soundfont",
    "musescore-general-soundfont-small",
    "opl3-soundfont",
)
WEIGHTS = (4, 2, 4, 1)
SAMPLE_RATE = 44100
SHORTEST_S, LONGEST_S = 60.0, 120.0
HELD_OUT = 12  # one in so many style files is for validation


class SoundFont(NamedTuple):
    """A bank of instruments: its Debian package, and its file."""

    package: str
    file: Path


def soundfonts(debs: Path, folder: Path) -> list[SoundFont]:
    """The SoundFonts in `folder`, extracted from their packages if they are not there."""
    fonts = []
    folder.mkdir(parents=True, exist_ok=True)
    for package in SOUNDFONTS:
        here = sorted(folder.glob(f"{package}.sf[23]"))
        if not here:
            deb = debian.fetch(package, debs)
            found = [
                (name, content)
                for name, content in debian.members(deb, (".sf2", ".sf3"))
                if not name.endswith("/copyright")
            ]
            if not found:
                raise CorpusError(f"{deb}: no SoundFont in it")
            name, content = max(found, key=lambda f: len(f[1]))
            file = folder / f"{package}{name[-4:]}"
            with atomic_path(file) as part:
                part.write_bytes(content)
            here = [file]
        fonts.append(SoundFont(package, here[0]))
    return fonts


def build_styles(
    hours: float, seed: int, out: Path, debs: Path, jobs: int = 1, library: Path = LIBRARY
) -> Corpus:
    """Render about `hours` hours and write them as a corpus; a killed build resumes.

    Track n depends on the seed and n only, so more hours only add tracks. Raises CorpusError
    for missing tools, or a folder begun with other settings.
    """
    if hours <= 0:
        raise CorpusError(f"{hours} hours: it must be more than none")
    styles = _installed_styles(library)
    _check_settings(out, hours, seed, len(styles))
    if (out / "data").exists():
        return Corpus(out)
    fonts = soundfonts(debs, out.parent / "soundfonts")
    work = out / "work"
    work.mkdir(exist_ok=True)
    items, rejects = _render_hours(hours, styles, fonts, seed, work, jobs)
    write_rejects(out / "rejects.csv", rejects)
    about = (
        f"Generated tracks (seed {seed}) in the styles of MMA (Musical MIDI Accompaniment), "
        "rendered by fluidsynth with SoundFonts. `genres` holds the style family, the style, "
        "and for tracks without the whole band the instrumentation; `album` is the style file, "
        "`source` names the SoundFont. A style file is in one split only. The corpus holds no "
        "recording of any person; the style files are GPL-2+ (Bob van der Poel and others), the "
        "SoundFonts are free (see their Debian packages)."
    )
    write_corpus(items, out, card("feelprint styles corpus", about, [i.track for i in items]))
    shutil.rmtree(work)
    return Corpus(out)


def _installed_styles(library: Path) -> list[Style]:
    """MMA's styles, after a check that every tool is installed. Raises CorpusError."""
    for tool, package in (("mma", "mma"), ("fluidsynth", "fluidsynth"), ("ffmpeg", "ffmpeg")):
        if shutil.which(tool) is None:
            raise CorpusError(f"{tool} is not installed (on Debian: apt install {package})")
    styles = read_styles(library)
    if not styles:
        raise CorpusError(f"{library} holds no style files (on Debian: apt install mma)")
    return styles


def _check_settings(out: Path, hours: float, seed: int, styles: int) -> None:
    """Record the settings in `out`. Raises CorpusError where it was begun with others."""
    settings = {"hours": hours, "seed": seed, "styles": styles, "fonts": list(SOUNDFONTS)}
    out.mkdir(parents=True, exist_ok=True)
    note = out / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise CorpusError(
            f"{out} was begun with {note.read_text()}, now it is {json.dumps(settings)}: "
            "give another --out, or remove that folder"
        )
    write_text(note, json.dumps(settings))


def _render_hours(
    hours: float, styles: list[Style], fonts: list[SoundFont], seed: int, work: Path, jobs: int
) -> tuple[list[Item], list[Reject]]:
    """Render tracks until `hours` are reached. Raises CorpusError where too many fail."""
    items: list[Item] = []
    rejects: list[Reject] = []
    rendered_s = 0.0
    with tqdm(total=round(hours * 3600), unit="s", desc="rendering") as bar:
        for n, result in _render_all(styles, fonts, seed, work, jobs):
            if isinstance(result, Reject):
                rejects.append(result)
                if len(rejects) > 20 + n // 4:
                    raise CorpusError(f"too many tracks fail, the last: {result.reason}")
                continue
            items.append(Item.of_file(result, work / f"{n:06d}.ogg", f"styles/{seed}-{n:06d}.ogg"))
            rendered_s += result.duration_s
            bar.update(round(result.duration_s))
            if rendered_s >= hours * 3600:
                break
    return items, rejects


def _render_all(
    styles: list[Style], fonts: list[SoundFont], seed: int, work: Path, jobs: int
) -> Iterator[tuple[int, Track | Reject]]:
    """Yield (n, result) for n = 0, 1, 2, ... without end, `jobs` at a time."""
    start = 0
    with ThreadPoolExecutor(jobs) as pool:  # the work is done by other programs
        while True:
            batch = range(start, start + jobs)
            calls = [pool.submit(render, n, styles, fonts, seed, work) for n in batch]
            for n, call in zip(batch, calls, strict=True):
                yield n, call.result()
            start += jobs


def render(
    n: int, styles: list[Style], fonts: list[SoundFont], seed: int, work: Path
) -> Track | Reject:
    """Render track n into `work`, or read the result of an earlier run."""
    record = work / f"{n:06d}.json"
    if record.exists():
        done = json.loads(record.read_text(encoding="utf-8"))
        return Reject(**done) if "reason" in done else Track(**done)
    rng = Random(f"{seed}/{n}")
    of_family = {s.family: sum(o.family == s.family for o in styles) for s in styles}
    style = rng.choices(styles, [1 / sqrt(of_family[s.family]) for s in styles])[0]
    composition = compose(style, rng.uniform(SHORTEST_S, LONGEST_S), rng)
    font = rng.choices(fonts, WEIGHTS[: len(fonts)])[0]
    try:
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            samples = play(composition, font, Path(scratch))
            data = encode(samples, Path(scratch))
    except CorpusError as error:
        reject = Reject(f"{n:06d} {style.name}", str(error))
        write_text(record, json.dumps(reject._asdict()))
        return reject
    (work / f"{n:06d}.ogg").write_bytes(data)
    digest = sha256(data).hexdigest()
    whole = composition.texture in ("band", "band and melody")
    track = Track(
        id=digest[:16],
        title=f"{style.name.split('/')[1]} {n} ({composition.texture}, {composition.tempo} bpm)",
        artist="",
        album=f"mma {style.name}",
        genres=[style.family, style.name, *([] if whole else [composition.texture])],
        source=f"styles: mma and {font.package}",
        licence="none needed: generated",
        duration_s=round(len(samples) / SAMPLE_RATE, 3),
        sha256=digest,
        split=split_of(style),
    )
    write_text(record, json.dumps(vars(track)))
    return track


def split_of(style: Style) -> str:
    """The split of a style file: by its name only, so that it never changes."""
    held_out = int(sha256(style.name.encode()).hexdigest(), 16) % HELD_OUT == 0
    return "validation" if held_out else "train"


def play(composition: Composition, font: SoundFont, scratch: Path) -> np.ndarray:
    """Render the composition: float32, (samples, 2), at SAMPLE_RATE. Raises CorpusError."""
    source, midi_file, wav = scratch / "track.mma", scratch / "track.mid", scratch / "track.wav"
    source.write_text(mma_source(composition))
    # MMA iterates over sets: without a fixed hash seed two runs could differ
    said = _run(["mma", "-w", str(source), "-f", str(midi_file)], {"PYTHONHASHSEED": "0"})
    if not midi_file.exists():
        raise CorpusError(f"mma: {' '.join(said.split())[-200:]}")
    midi = mido.MidiFile(midi_file, clip=True)
    arrange(midi, composition)
    midi.save(midi_file)

    rng = Random(composition.seed + 1)
    options = {
        "synth.reverb.active": int(rng.random() < 0.85),
        "synth.reverb.room-size": round(rng.uniform(0.1, 0.95), 3),
        "synth.reverb.damp": round(rng.uniform(0.0, 0.9), 3),
        "synth.reverb.width": round(rng.uniform(0.0, 1.0), 3),
        "synth.reverb.level": round(rng.uniform(0.1, 0.9), 3),
        "synth.chorus.active": int(rng.random() < 0.5),
        "synth.chorus.level": round(rng.uniform(0.3, 2.5), 3),
        "synth.chorus.depth": round(rng.uniform(2.0, 12.0), 3),
        "synth.dynamic-sample-loading": 1,  # reads only the instruments that are played
        "synth.cpu-cores": 1,
        "synth.polyphony": 256,
    }
    command = ["fluidsynth", "-niq", "-g", "0.3", "-r", str(SAMPLE_RATE), "-O", "float"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    said = _run([*command, "-T", "wav", "-F", str(wav), str(font.file), str(midi_file)])
    if not wav.exists():
        raise CorpusError(f"fluidsynth: {' '.join(said.split())[-200:]}")
    samples, _ = soundfile.read(wav, dtype="float32", always_2d=True)  # (samples, 2)
    loud = np.flatnonzero(np.abs(samples).max(axis=1) > 1e-3)
    if not len(loud) or loud[-1] - loud[0] < 20 * SAMPLE_RATE:
        raise CorpusError("less than 20 s of sound came out")
    samples = samples[loud[0] : loud[-1] + 1]
    return samples * (rng.uniform(0.5, 0.97) / np.abs(samples).max())


def encode(samples: np.ndarray, scratch: Path) -> bytes:
    """Encode (samples, 2) float32 as Ogg Vorbis, about 128 kbit/s, bit-exactly."""
    ogg = scratch / "track.ogg"
    raw = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "2", "-i", "pipe:0"]
    exact = ["-fflags", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1"]
    done = subprocess.run(
        ["ffmpeg", "-v", "error", *raw, "-c:a", "libvorbis", "-q:a", "4", *exact, str(ogg)],
        input=samples.astype("<f4").tobytes(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise CorpusError(f"ffmpeg: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return ogg.read_bytes()


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=300,
            env=os.environ | (environment or {}),
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within 300 s"
    return done.stdout + done.stderr
