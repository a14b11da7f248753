"""The clips that raters hear, from the middle of each track, all equally loud.

A clip is cut when it is first needed (`plan`), or all are cut in advance (`prepare`).

Each clip is made twice, as Opus in Ogg and as AAC in MP4 (Safari before 18.4 plays no Ogg), at
one loudness by EBU R128, without metadata. A track's `<id>.json` is written after its clips, so
that an interrupted run resumes where it stopped and no incomplete file is served; `library.json`
lists the tracks of the survey and the stream of each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_scripts.corpora import open as corpora
from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track
from datasets_scripts.files import atomic_path, write_text
from survey.config import SurveyConfig, SurveyError
from survey.rounds.splits import Streams, artist_key, assign_streams, training_only

FORMATS = {"ogg": "audio/ogg", "m4a": "audio/mp4"}
MIN_TRACK_S = 10.0  # a shorter track is skipped
MIN_SERIOUS_TRACKS = 40  # a corpus with fewer may be served as a trial
LOUDNESS_TOLERANCE_LU = 1.0  # allowed difference of a finished clip from the target loudness
MAX_PEAK_DBTP = -1.0  # of the signal before it is coded (EBU R128, section 2)
MAX_GAIN_STEPS = 4  # measurements with a raised gain behind the limiter
SILENCE_LUFS = -60.0  # a quieter excerpt is skipped; R128's own gate is at -70 LUFS


class ClipError(Exception):
    """Why no clip can be cut from a track."""


@dataclass(frozen=True)
class LibraryTrack:
    """A track of the survey; `genres` are in lower case.

    split: the stream that asks about it, "train" or "test", or "unused"; in a corpus that is too
    small for two streams, its split in the corpus.
    """

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
        """Equal for tracks of one artist; where it is unknown, of one album; else unique."""
        return artist_key(self.artist, self.album, self.id)


class ClipLibrary:
    """The clips in a folder: `tracks` by id, and which of them have a second excerpt.

    skipped_tracks: those without a clip, each with its id, title and the reason, `left_out`.
    cut: cuts the clips of a track, or raises ClipError; None where all clips are cut already.
    on_failure: is called with the (track, excerpt) of a clip that cannot be cut.
    """

    def __init__(self, folder: Path, cut: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._cut = cut
        self.on_failure: Callable[[str, int], None] = lambda track, excerpt: None
        self._busy: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._waiting = 0  # raters for whom a clip is being cut
        self._counting = threading.Lock()
        path = folder / "library.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SurveyError(
                f"no finished clips in {folder} ({error}); make them with: "
                "feelprint-survey prepare --corpus DIR"
            ) from error
        self.tracks: dict[str, LibraryTrack] = {}
        self.two_excerpt_tracks: list[str] = []
        for row in content["tracks"]:
            excerpts = row.pop("excerpts")
            track = LibraryTrack(**{**row, "genres": frozenset(row["genres"])})
            self.tracks[track.id] = track
            if excerpts == 2:
                self.two_excerpt_tracks.append(track.id)
        self.skipped_tracks: list[dict[str, str]] = content["left_out"]

    def path(self, track: str, excerpt: int, suffix: str) -> Path:
        """The file of a clip, which is cut if need be; suffix is a key of FORMATS.

        Raises ClipError where it cannot be cut.
        """
        found = self.folder / f"{track}-{excerpt}.{suffix}"
        if self._cut is None or found.exists():
            return found
        self._count(1)
        try:
            return self._cut_once(track, excerpt, found)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change

    def _cut_once(self, track: str, excerpt: int, found: Path) -> Path:
        with self._busy[track]:  # raters of one round wait for one cut
            try:
                if not found.exists() and self._cut is not None:
                    self._cut(track)
                if not found.exists():
                    raise ClipError(f"the track {track} has no second excerpt: its end is silent")
            except ClipError:
                self.on_failure(track, excerpt)
                raise
        return found

    def cut_all(self, first: Iterable[str] = ()) -> None:
        """Cuts the clips that do not exist yet, one after the other, those of `first` at first.

        It pauses while a rater waits for a clip.
        """
        two = set(self.two_excerpt_tracks)
        for track in [*first, *list(self.tracks)]:
            for excerpt in range(2 if track in two else 1):
                while self._waiting:
                    time.sleep(0.05)
                found = self.folder / f"{track}-{excerpt}.m4a"
                if not found.exists():
                    with suppress(ClipError):
                        self._cut_once(track, excerpt, found)


def open_corpus(
    folder: Path,
    data: Path,
    limit: int | None = None,
    within_s: float | None = None,
    report: Callable[[str], None] = print,
) -> Corpus:
    """The corpus in `folder`, or the music in it, at most `limit` files, indexed in `data`.

    within_s: seconds after which no further file is read, as a slow disk needs. Raises SurveyError
    for a folder without music, or a corpus that is not whole.
    """
    try:
        corpus = corpora.open_corpus(folder, data, limit, within_s)
    except CorpusError as error:
        raise SurveyError(str(error)) from error
    if isinstance(corpus, corpora.MusicFolder) and corpus.unread_files:
        report(
            f"read {len(corpus.tracks)} songs in {within_s:g} s: the next start reads up to "
            f"{corpus.unread_files} more"
        )
    return corpus


def folder_name(config: SurveyConfig) -> str:
    """The folder of the clips; each combination of settings has its own."""
    return f"clips-{config.clip_s:g}s{config.loudness_lufs:g}lufs-{config.gold_tracks}gold"


def prepare(
    corpus: Corpus,
    folder: Path,
    config: SurveyConfig,
    report: Callable[[str], None] = print,
) -> ClipLibrary:
    """Cuts the clips that do not exist yet, and returns the library of `corpus` in `folder`.

    Tracks without a clip are skipped, and `library.json` says which and why. Raises SurveyError
    when ffmpeg is missing or fewer than three tracks have a clip.
    """
    _need_ffmpeg()
    folder.mkdir(parents=True, exist_ok=True)
    two_excerpts = _two_excerpt_tracks(corpus, config)
    todo = [t for t in corpus.tracks if not (folder / f"{t.id}.json").exists()]
    if todo:
        report(f"cutting clips of {len(todo)} songs into {folder}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cuts = pool.map(lambda t: _cut_track(corpus, t, t.id in two_excerpts, folder, config), todo)
        for done, _ in enumerate(cuts, start=1):
            if done % 100 == 0:
                report(f"{done} of {len(todo)}")
    _write_library(corpus, folder, config, {}, report)
    return ClipLibrary(folder)


def plan(
    corpus: Corpus,
    folder: Path,
    config: SurveyConfig,
    asked: Mapping[str, str],
    report: Callable[[str], None] = print,
) -> ClipLibrary:
    """The library of `corpus` in `folder`, whose clips are cut when they are first needed.

    asked: as in `assign_streams`. Raises SurveyError when ffmpeg is missing or there are fewer
    than three tracks.
    """
    _need_ffmpeg()
    folder.mkdir(parents=True, exist_ok=True)
    two_excerpts = _two_excerpt_tracks(corpus, config)
    by_id = {track.id: track for track in corpus.tracks}

    def cut(track: str) -> None:
        _cut_track(corpus, by_id[track], track in two_excerpts, folder, config)
        note = json.loads((folder / f"{track}.json").read_text(encoding="utf-8"))
        if "left_out" in note:
            raise ClipError(note["left_out"])

    _write_library(corpus, folder, config, asked, report)
    return ClipLibrary(folder, cut)


def _need_ffmpeg() -> None:
    if shutil.which("ffmpeg") is None:
        raise SurveyError("ffmpeg is not installed: apt-get install ffmpeg (or your system's way)")


def _two_excerpt_tracks(corpus: Corpus, config: SurveyConfig) -> set[str]:
    """The tracks for gold rounds: as many as configured of those that are long enough."""
    long_enough = [t.id for t in corpus.tracks if t.duration_s >= _two_excerpts_need_s(config)]
    # Ids are hashes, so the first of them are a random choice, and always the same one.
    return set(sorted(long_enough)[: config.gold_tracks])


def _write_library(
    corpus: Corpus,
    folder: Path,
    config: SurveyConfig,
    asked: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    """Writes `library.json`: the tracks that have clips or whose clips are still to be cut."""
    two_excerpts = _two_excerpt_tracks(corpus, config)
    content: dict[str, list[dict[str, Any]]] = {"tracks": [], "left_out": []}
    kept: list[Track] = []
    for track in corpus.tracks:
        path = folder / f"{track.id}.json"
        if path.exists():
            note = json.loads(path.read_text(encoding="utf-8"))
        elif track.duration_s < MIN_TRACK_S:
            note = {"left_out": _too_short(track)}
        else:
            note = {"excerpts": 2 if track.id in two_excerpts else 1}
        if "left_out" in note:
            report(f"left out {track.id} {track.title!r}: {note['left_out']}")
            content["left_out"].append({"id": track.id, "title": track.title, **note})
        else:
            kept.append(track)
            content["tracks"].append(_described(track) | note)
    if len(kept) < 3:
        raise SurveyError(
            f"a round needs 3 songs; {len(kept)} of the corpus's {len(corpus.tracks)} "
            "songs gave a clip"
        )
    streams = assign_streams(kept, asked) if config.shares.random > 0 else training_only(kept)
    if streams.usable or config.shares.random == 0:
        split_of = streams.split_of(track.id for track in kept)
        for row in content["tracks"]:
            row["split"] = split_of[row["id"]]
    elif len(kept) >= MIN_SERIOUS_TRACKS:
        raise SurveyError(_no_test_stream(streams, len(kept)))
    _write_json(folder / "library.json", content)


def _no_test_stream(streams: Streams, tracks: int) -> str:
    return (
        f"the {tracks} songs cannot be split into training and test rounds that share no artist "
        f"and no album: {len(streams.train.tracks)} and {len(streams.test.tracks)} songs would be "
        "left. Add music by other artists, correct an album tag that most songs share, or set "
        "shares.random to 0 (and shares.active to 0.9) to collect answers for training only"
    )


def _too_short(track: Track) -> str:
    return f"it is {track.duration_s:.1f} s long, and a clip needs {MIN_TRACK_S}"


def _two_excerpts_need_s(config: SurveyConfig) -> float:
    """Shortest track, in seconds, with room for a second excerpt after the middle one."""
    return 3 * config.clip_s + 2


def _cut_track(
    corpus: Corpus, track: Track, two_excerpts: bool, folder: Path, config: SurveyConfig
) -> None:
    """Cuts one track's clips, then writes to its `<id>.json` how many, or why there are none."""
    length_s = min(config.clip_s, track.duration_s)
    middle_s = (track.duration_s - length_s) / 2
    try:
        if track.duration_s < MIN_TRACK_S:
            raise ClipError(_too_short(track))
        with tempfile.NamedTemporaryFile() as file:
            file.write(corpus.audio_bytes(track.id))
            file.flush()
            source = Path(file.name)
            _cut(source, middle_s, length_s, folder / f"{track.id}-0", config.loudness_lufs)
            excerpts = 1
            if two_excerpts:
                start_s = middle_s + length_s + 1
                try:
                    _cut(source, start_s, length_s, folder / f"{track.id}-1", config.loudness_lufs)
                    excerpts = 2
                except ClipError:  # a silent ending: no gold rounds with this track
                    pass
        note: dict[str, Any] = {"excerpts": excerpts}
    except (ClipError, CorpusError) as error:
        note = {"left_out": str(error)}
    _write_json(folder / f"{track.id}.json", note)


def _described(track: Track) -> dict[str, Any]:
    """The fields of a `LibraryTrack`, as JSON."""
    row = {name: getattr(track, name) for name in ("id", "title", "artist", "album", "source")}
    genres = sorted({genre.casefold() for genre in track.genres})
    return row | {"genres": genres, "licence": track.licence, "split": track.split}


def _cut(source: Path, start_s: float, length_s: float, stem: Path, target_lufs: float) -> None:
    """Writes stem.ogg and stem.m4a: `length_s` seconds of `source`, at `target_lufs`.

    Two passes of ffmpeg's loudnorm (EBU R128): the first measures, the second applies one gain,
    and limits only where that gain would raise the true peak above -1 dBTP. The result is measured
    again by another filter, ebur128. Raises ClipError.
    """
    segment = ["-ss", f"{start_s:.3f}", "-t", f"{length_s:.3f}", "-i", str(source)]
    gain = _gain_filter(segment, target_lufs)
    fades = f"afade=t=in:d=0.05,afade=t=out:st={length_s - 0.3:.3f}:d=0.3"
    chain = f"{gain},{fades}"
    split = ["-filter_complex", f"[0:a:0]{chain},asplit[x][y]"]
    # bitexact keeps the encoder's name out of the tags; it would be the only tag left.
    untagged = ["-map_metadata", "-1", "-map_chapters", "-1", "-ac", "2"]
    untagged += ["-fflags", "+bitexact", "-flags:a", "+bitexact"]
    opus = ["-map", "[x]", *untagged, "-c:a", "libopus", "-b:a", "96k", "-f", "ogg"]
    aac = [
        "-map",
        "[y]",
        *untagged,
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
    ogg, m4a = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("ogg", "m4a"))
    with atomic_path(ogg) as ogg_part, atomic_path(m4a) as m4a_part:
        _ffmpeg([*segment, *split, *opus, str(ogg_part), *aac, str(m4a_part)])
        for part in (ogg_part, m4a_part):
            loudness = _integrated_lufs(part)
            if abs(loudness - target_lufs) > LOUDNESS_TOLERANCE_LU:
                raise ClipError(
                    f"its loudness cannot be matched: {loudness:.1f} LUFS after normalisation, "
                    f"{target_lufs:g} wanted"
                )


def _gain_filter(segment: list[str], target_lufs: float) -> str:
    """ffmpeg's filters that bring an excerpt to `target_lufs`, with its true peaks limited.

    A constant gain; and, where that lifts a peak above MAX_PEAK_DBTP, a limiter on the signal at
    192 kHz, which sees the peaks between samples (ITU-R BS.1770-5, annex 2, also measures at 4
    times 48 kHz). A limiter takes loudness away, so the gain is raised by what is missing, and
    measured again.
    Raises ClipError for an excerpt that is silent.
    """
    loudness, peak = _measure(segment, "anull")
    if loudness < SILENCE_LUFS:
        raise ClipError("the excerpt that raters would hear is silent")
    gain_db = target_lufs - loudness
    if peak + gain_db <= MAX_PEAK_DBTP:
        return f"volume={gain_db:.2f}dB,aresample=48000"
    limit = 10 ** (MAX_PEAK_DBTP / 20)
    limiter = f"aresample=192000,alimiter=limit={limit:.4f}:level=false:attack=5:release=50"
    chain = ""
    for _ in range(MAX_GAIN_STEPS):
        chain = f"volume={gain_db:.2f}dB,{limiter},aresample=48000"
        missing = target_lufs - _measure(segment, chain)[0]
        if missing < 0.2:
            break
        gain_db += missing
    return chain


def _measure(inputs: list[str], chain: str) -> tuple[float, float]:
    """Integrated loudness (LUFS) and true peak (dBTP) behind the filters `chain`."""
    measured = f"{chain},ebur128=peak=true:framelog=verbose"
    log = _ffmpeg(["-nostats", *inputs, "-map", "0:a:0", "-af", measured, "-f", "null", "-"])
    summary = log[log.rfind("Summary:") :]
    found = re.search(r"I:\s+(\S+) LUFS.*Peak:\s+(\S+) dBFS", summary, re.DOTALL)
    if found is None:
        raise ClipError("ffmpeg measured no loudness: there is no sound in it")
    return float(found[1]), float(found[2])


def _integrated_lufs(clip: Path) -> float:
    """Integrated loudness of a finished clip, by ffmpeg's ebur128."""
    log = _ffmpeg(
        ["-nostats", "-i", str(clip), "-af", "ebur128=framelog=verbose", "-f", "null", "-"]
    )
    return float(log[log.rindex("I:") :].split()[1])


def _ffmpeg(arguments: list[str]) -> str:
    """ffmpeg's log; raises ClipError with the end of it when ffmpeg fails."""
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-hide_banner", "-y", "-threads", "1", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ClipError(f"ffmpeg could not read it: {'; '.join(lines[-2:])}")
    return done.stderr


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))
