"""The clips that raters hear: cut ahead from the middle of each track, as loud as each other.

Each clip is made twice, as Opus in Ogg and as AAC in MP4 (Safari before 18.4 plays no Ogg), at
one loudness by EBU R128, without any metadata. A track's `<id>.json` is written after its clips,
so an interrupted run goes on where it stopped and never serves half a file; `library.json` is
written last and lists what the survey may ask about.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_scripts.corpora import open as corpora
from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track
from survey.config import SurveyConfig, SurveyError

FORMATS = {"ogg": "audio/ogg", "m4a": "audio/mp4"}
SHORTEST_S = 10.0  # a shorter track gives no clip
TOLERANCE_LU = 1.0  # how far a finished clip's loudness may be from what was asked


class ClipError(Exception):
    """A track that gives no clip: the message says why."""


@dataclass(frozen=True)
class Song:
    """What the survey knows of a track; `genres` are in lower case."""

    id: str
    title: str
    artist: str
    album: str
    genres: frozenset[str]
    source: str
    licence: str
    split: str

    @property
    def artist_key(self) -> str:
        """Equal for songs of one artist; of one album, or one song, where that is unknown."""
        if self.artist:
            return "artist " + self.artist.casefold()
        return "album " + self.album.casefold() if self.album else "song " + self.id


class ClipLibrary:
    """The clips in a folder: `tracks` by id, and `twins`, those with a second excerpt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "library.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SurveyError(
                f"no finished clips in {folder} ({error}); make them with: "
                "feelprint-survey prepare --corpus DIR"
            ) from error
        self.tracks: dict[str, Song] = {}
        self.twins: list[str] = []
        for row in held["tracks"]:
            excerpts = row.pop("excerpts")
            song = Song(**{**row, "genres": frozenset(row["genres"])})
            self.tracks[song.id] = song
            if excerpts == 2:
                self.twins.append(song.id)
        self.left_out: list[dict[str, str]] = held["left_out"]

    def path(self, track: str, excerpt: int, suffix: str) -> Path:
        """The file of a clip; suffix is a key of FORMATS."""
        return self.folder / f"{track}-{excerpt}.{suffix}"


def open_corpus(folder: Path, data: Path) -> Corpus:
    """The corpus in `folder`, or one made of the music in it and kept in `data`.

    Raises SurveyError for a folder without music, or a corpus that is not whole.
    """
    try:
        return corpora.open_corpus(folder, data)
    except CorpusError as error:
        raise SurveyError(str(error)) from error


def folder_name(config: SurveyConfig) -> str:
    """Names the folder of clips by what they were cut with: other settings, another folder."""
    return f"clips-{config.clip_s:g}s{config.loudness_lufs:g}lufs-{config.gold_tracks}gold"


def prepare(
    corpus: Corpus,
    folder: Path,
    config: SurveyConfig,
    report: Callable[[str], None] = print,
) -> ClipLibrary:
    """Cuts what is not cut yet, and returns the library of `corpus` in `folder`.

    Tracks that give no clip are left out, and `library.json` says which and why. Raises
    SurveyError when ffmpeg is missing or fewer than three tracks are left.
    """
    if shutil.which("ffmpeg") is None:
        raise SurveyError("ffmpeg is not installed: apt-get install ffmpeg (or your system's way)")
    folder.mkdir(parents=True, exist_ok=True)
    long_enough = [t for t in corpus.tracks if t.duration_s >= _twin_needs_s(config)]
    # Ids are hashes, so the first of them in order are as good as drawn, and always the same.
    twins = {t.id for t in sorted(long_enough, key=lambda t: t.id)[: config.gold_tracks]}
    todo = [t for t in corpus.tracks if not (folder / f"{t.id}.json").exists()]
    if todo:
        report(f"cutting clips of {len(todo)} tracks into {folder}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cuts = pool.map(lambda t: _cut_track(corpus, t, t.id in twins, folder, config), todo)
        for done, _ in enumerate(cuts, start=1):
            if done % 100 == 0:
                report(f"{done} of {len(todo)}")
    held: dict[str, list[dict[str, Any]]] = {"tracks": [], "left_out": []}
    for track in corpus.tracks:
        note = json.loads((folder / f"{track.id}.json").read_text(encoding="utf-8"))
        if "left_out" in note:
            report(f"left out {track.id} {track.title!r}: {note['left_out']}")
            held["left_out"].append({"id": track.id, "title": track.title, **note})
        else:
            held["tracks"].append(_described(track) | note)
    if len(held["tracks"]) < 3:
        raise SurveyError(
            f"a round needs 3 songs; {len(held['tracks'])} of the corpus's {len(corpus.tracks)} "
            "tracks gave a clip"
        )
    _write_json(folder / "library.json", held)
    return ClipLibrary(folder)


def _twin_needs_s(config: SurveyConfig) -> float:
    """Length in seconds from which a second excerpt fits behind the middle one, a second apart."""
    return 3 * config.clip_s + 2


def _cut_track(
    corpus: Corpus, track: Track, twin: bool, folder: Path, config: SurveyConfig
) -> None:
    """Cuts one track's clips and then writes its `<id>.json`, or why there are none."""
    length_s = min(config.clip_s, track.duration_s)
    middle_s = (track.duration_s - length_s) / 2
    try:
        if track.duration_s < SHORTEST_S:
            raise ClipError(f"it is {track.duration_s:.1f} s long, and a clip needs {SHORTEST_S}")
        with tempfile.NamedTemporaryFile() as file:
            file.write(corpus.audio_bytes(track.id))
            file.flush()
            source = Path(file.name)
            _cut(source, middle_s, length_s, folder / f"{track.id}-0", config.loudness_lufs)
            excerpts = 1
            if twin:
                start_s = middle_s + length_s + 1
                try:
                    _cut(source, start_s, length_s, folder / f"{track.id}-1", config.loudness_lufs)
                    excerpts = 2
                except ClipError:  # a silent ending: the track serves, but not for gold rounds
                    pass
        note: dict[str, Any] = {"excerpts": excerpts}
    except (ClipError, CorpusError) as error:
        note = {"left_out": str(error)}
    _write_json(folder / f"{track.id}.json", note)


def _described(track: Track) -> dict[str, Any]:
    """A track as `Song` has it."""
    row = {name: getattr(track, name) for name in ("id", "title", "artist", "album", "source")}
    genres = sorted({genre.casefold() for genre in track.genres})
    return row | {"genres": genres, "licence": track.licence, "split": track.split}


def _cut(source: Path, start_s: float, length_s: float, stem: Path, target_lufs: float) -> None:
    """Writes stem.ogg and stem.m4a: `length_s` seconds of `source`, at `target_lufs`.

    Two passes of ffmpeg's loudnorm (EBU R128): the first measures, the second applies one gain,
    and limits only where that gain would push the true peak over -1 dBTP. Then the result is
    measured again, by another filter. Raises ClipError.
    """
    segment = ["-ss", f"{start_s:.3f}", "-t", f"{length_s:.3f}", "-i", str(source)]
    goal = f"loudnorm=I={target_lufs}:TP=-1:LRA=50"
    heard = _loudness(segment, goal)
    measured = [float(heard[k]) for k in ("input_i", "input_tp", "input_lra", "input_thresh")]
    if measured[0] < -60:  # R128's own gate is at -70 LUFS
        raise ClipError("the part that raters would hear is silent")
    keys = ("measured_I", "measured_TP", "measured_LRA", "measured_thresh")
    values = ":".join(f"{k}={v}" for k, v in zip(keys, measured, strict=True))
    fades = f"afade=t=in:d=0.05,afade=t=out:st={length_s - 0.3:.3f}:d=0.3"
    chain = f"{goal}:{values}:linear=true,aresample=48000,{fades}"
    split = ["-filter_complex", f"[0:a:0]{chain},asplit[x][y]"]
    # bitexact keeps the encoder's name out of the tags, where it would be the only one left.
    bare = ["-map_metadata", "-1", "-map_chapters", "-1", "-ac", "2"]
    bare += ["-fflags", "+bitexact", "-flags:a", "+bitexact"]
    opus = ["-map", "[x]", *bare, "-c:a", "libopus", "-b:a", "96k", "-f", "ogg"]
    aac = [
        "-map",
        "[y]",
        *bare,
        "-c:a",
        "aac",
        "-aac_coder",
        "fast",
        "-b:a",
        "128k",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
    ]
    halves = {suffix: stem.with_name(f"{stem.name}.{suffix}.part") for suffix in FORMATS}
    _ffmpeg([*segment, *split, *opus, str(halves["ogg"]), *aac, str(halves["m4a"])])
    for suffix, half in halves.items():
        loudness = _heard_lufs(half)
        if abs(loudness - target_lufs) > TOLERANCE_LU:
            half.unlink()
            raise ClipError(
                f"its loudness cannot be matched: {loudness:.1f} LUFS after normalisation, "
                f"{target_lufs:g} wanted"
            )
        with half.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(half, stem.with_name(f"{stem.name}.{suffix}"))


def _loudness(inputs: list[str], goal: str) -> dict[str, str]:
    """What loudnorm measures: integrated loudness (LUFS), true peak (dBTP), range, threshold."""
    said = _ffmpeg(
        [*inputs, "-map", "0:a:0", "-af", f"{goal}:print_format=json", "-f", "null", "-"]
    )
    start = said.rfind("{")
    try:
        return dict(json.loads(said[start : said.index("}", start) + 1]))
    except ValueError as error:
        raise ClipError("ffmpeg measured no loudness: there is no sound in it") from error


def _heard_lufs(clip: Path) -> float:
    """Integrated loudness of a finished clip, by ffmpeg's ebur128."""
    said = _ffmpeg(
        ["-nostats", "-i", str(clip), "-af", "ebur128=framelog=verbose", "-f", "null", "-"]
    )
    return float(said[said.rindex("I:") :].split()[1])


def _ffmpeg(arguments: list[str]) -> str:
    """What ffmpeg says of its work; raises ClipError with its last line when it fails."""
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-hide_banner", "-y", "-threads", "1", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ClipError(f"ffmpeg could not read it: {'; '.join(lines[-2:])}")
    return done.stderr


def _write_json(path: Path, value: Any) -> None:
    half = path.with_name(path.name + ".part")
    with half.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)
