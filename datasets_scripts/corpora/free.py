"""The free corpus: the music of Debian packages, with the rights in each track.

A YAML file (`configs/free_splits.yaml`) lists the packages by split, the files in them that are not
music, and the licences of packages whose copyright file is free text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.audio import SUFFIXES, AudioError, duration, measure
from datasets_scripts.corpora import debian
from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.corpus import (
    SPLITS,
    Corpus,
    CorpusError,
    Item,
    Reject,
    Track,
    file_sha256,
    write_corpus,
    write_rejects,
)
from datasets_scripts.corpora.tags import read_tags
from datasets_scripts.files import write_csv, write_text
from student.config import ConfigError

SHORTEST_S = 30.0  # shorter files are jingles and effects
MODULES = (".it", ".mid", ".midi", ".mod", ".s3m", ".xm", ".zik")  # scores, not audio
DUPLICATE_CORRELATION = 0.95  # see `is_duplicate`


@dataclass(frozen=True)
class FreeConfig:
    """The packages of a corpus.

    packages: split -> package names. not_music: package -> globs for the ends of excluded paths.
    licences: package -> {glob for the end of a path: licence}, read by a person where the
    package's copyright file is free text. Raises ConfigError for a package in two splits, an
    unknown split, or a package in not_music or licences that is not in packages.
    """

    packages: dict[str, tuple[str, ...]]
    not_music: dict[str, tuple[str, ...]] = field(default_factory=dict)
    licences: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [name for split in self.packages.values() for name in split]
        repeated = sorted({name for name in names if names.count(name) > 1})
        unknown = sorted(set(self.packages) - set(SPLITS))
        unlisted = sorted((set(self.not_music) | set(self.licences)) - set(names))
        if repeated or unknown or unlisted:
            raise ConfigError(
                f"packages in two splits: {repeated}; unknown splits: {unknown}; "
                f"in not_music or licences but not in packages: {unlisted}"
            )


@dataclass
class ExtractedTrack:
    """An audio file of a package, extracted into the work folder; one entry of its record."""

    package: str
    path: str
    file: str
    sha256: str
    duration_s: float
    envelope: list[int]  # dB, one value per half second
    title: str
    artist: str
    genres: list[str]
    licence: str = ""
    holders: list[str] = field(default_factory=list)
    pattern: str = ""  # the part of the copyright file that states the rights


def build_free(config: FreeConfig, debs: Path, out: Path, name: str = "free") -> Corpus:
    """Build the corpus of `config` in `out`, from .deb files in (or fetched to) the folder `debs`.

    name: the corpus's name on the dataset card. A corpus that exists already is returned as it is,
    and a killed build resumes. Raises CorpusError.
    """
    if (out / "data").exists():
        return Corpus(out)
    work = out / "work"
    tracks: list[ExtractedTrack] = []
    rejects: list[Reject] = []
    records: list[dict[str, Any]] = []
    split_of = {package: s for s in SPLITS for package in config.packages.get(s, ())}
    for package in tqdm(split_of, unit="package", desc="unpacking music"):
        record = _unpack(package, config, debs, work)
        extracted = [ExtractedTrack(**entry) for entry in record["tracks"]]
        rights = debian.Copyright((work / f"{package}.copyright").read_text(encoding="utf-8"))
        for track in extracted:
            _set_rights(track, rights, config.licences.get(package, {}))
        tracks += extracted
        rejects += [Reject(**entry) for entry in record["rejects"]]
        records.append(record)
    kept, duplicates = drop_duplicates(tracks)
    items = [_item(track, split_of[track.package], work) for track in kept]
    out.mkdir(parents=True, exist_ok=True)
    write_rejects(out / "rejects.csv", rejects + duplicates)
    _write_rights(kept, list(split_of), work, out)
    short = sum(record["short"] for record in records)
    about = (
        "The music of Debian packages (most are games), each track complete and as it was "
        "published. The tracks of a package are an album. "
        f"Excluded: {short} sounds under {SHORTEST_S:.0f} s, and the files that `rejects.csv` "
        "lists with a reason. `attribution.csv` names the holders and the licence of each track, "
        "and `copyright/` holds the full copyright file of each package."
    )
    packages = [(r["package"], r["version"], r["sha256"]) for r in records]
    tables = {"Packages": (("package", "version", "sha256 of the .deb"), packages)}
    write_corpus(
        items, out, card(f"feelprint {name} corpus", about, [i.track for i in items], tables)
    )
    shutil.rmtree(work)
    return Corpus(out)


def _item(extracted: ExtractedTrack, split: str, work: Path) -> Item:
    track = Track(
        id=extracted.sha256[:16],
        title=extracted.title,
        artist=extracted.artist,
        album=extracted.package,
        genres=extracted.genres,
        source="debian",
        licence=extracted.licence,
        duration_s=extracted.duration_s,
        sha256=extracted.sha256,
        split=split,
    )
    name = PurePosixPath(extracted.path.split("!")[-1]).name
    return Item.of_file(track, work / extracted.file, f"{extracted.package}/{name}")


def _write_rights(
    tracks: Sequence[ExtractedTrack], packages: Sequence[str], work: Path, out: Path
) -> None:
    """Write who holds which rights in each track, and every package's copyright file."""
    write_csv(
        out / "attribution.csv",
        ("id", "package", "path", "title", "artist", "holders", "licence", "rests_on"),
        (
            (t.sha256[:16], t.package, t.path, t.title, t.artist, "; ".join(t.holders), t.licence,
             t.pattern)
            for t in tracks
        ),
    )  # fmt: skip
    (out / "copyright").mkdir(exist_ok=True)
    for package in packages:
        shutil.copyfile(work / f"{package}.copyright", out / "copyright" / f"{package}.txt")


def _unpack(package: str, config: FreeConfig, debs: Path, work: Path) -> dict[str, Any]:
    """Extract the music of one package into the work folder; return its record, written once."""
    record_path = work / f"{package}.json"
    not_music = list(config.not_music.get(package, ()))
    if record_path.exists():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["not_music"] == not_music:
            return record
    deb = debian.fetch(package, debs)
    folder = work / package
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tracks: list[ExtractedTrack] = []
    rejects: list[Reject] = []
    copyrights: list[bytes] = []
    short = 0
    for path, content in debian.members(deb, SUFFIXES + MODULES):
        if path.endswith("/copyright"):
            copyrights.append(content)
            continue
        try:
            track = _extract(package, path, content, not_music, folder)
        except AudioError as error:
            reason = re.sub(r"^\d+ bytes of audio: ", "", str(error))
            rejects.append(Reject(f"{package}: {path}", reason))
            continue
        if track is None:
            short += 1
        else:
            tracks.append(track)
    if not copyrights:
        raise CorpusError(f"{deb}: no copyright file in it, so nothing of it can be used")
    text = max(copyrights, key=len).decode("utf-8", errors="replace")
    (work / f"{package}.copyright").write_text(text, encoding="utf-8")
    record = {
        "package": package,
        "version": debian.version(deb),
        "sha256": file_sha256(deb),
        "not_music": not_music,
        "short": short,
        "tracks": [vars(t) for t in tracks],
        "rejects": [r._asdict() for r in rejects],
    }
    write_text(record_path, json.dumps(record, ensure_ascii=False))
    return record


def _extract(
    package: str, path: str, content: bytes, not_music: Sequence[str], folder: Path
) -> ExtractedTrack | None:
    """Check one file of a package and write it to `folder`; None for a short sound.

    Raises AudioError for a file that is not music or cannot be decoded.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in MODULES:
        raise AudioError("a score or tracker module, not audio")
    if duration(content) < SHORTEST_S:
        return None
    if any(fnmatch(path, "*" + pattern) for pattern in not_music):
        raise AudioError("a sound effect, ambience or speech, not music")
    levels = measure(content)
    tags = read_tags(content, path.split("!")[-1])
    digest = hashlib.sha256(content).hexdigest()
    (folder / f"{digest}{suffix}").write_bytes(content)
    envelope = np.round(20 * np.log10(np.maximum(levels.envelope, 1e-5))).astype(int)
    return ExtractedTrack(
        package=package,
        path=path,
        file=f"{package}/{digest}{suffix}",
        sha256=digest,
        duration_s=round(levels.duration_s, 3),
        envelope=envelope.tolist(),
        title=tags.title,
        artist=tags.artist,
        genres=tags.genres,
    )


def _set_rights(
    track: ExtractedTrack, copyright: debian.Copyright, read_by_person: dict[str, str]
) -> None:
    """Licence and holders from the copyright file; the artist too, where no tag names one."""
    rights = copyright.rights(track.path)
    for pattern, licence in read_by_person.items():
        if fnmatch(track.path, "*" + pattern) and (rights is None or rights.pattern == "*"):
            track.licence = licence
            track.pattern = "the package's copyright notes, read by a person"
            return
    if rights is None:
        raise CorpusError(
            f"the copyright file of {track.package} is not machine-readable: read it, and name "
            "the licence under `licences` in the configuration"
        )
    track.licence, track.holders = rights.licence, rights.holders
    track.pattern = f"Files: {rights.pattern}"
    about_music = re.search(r"music|sound|audio|\.(ogg|opus|mp3|wav)", rights.pattern, re.I)
    if not track.artist and about_music and len(rights.holders) <= 2:
        track.artist = ", ".join(rights.holders)


def drop_duplicates(
    tracks: Sequence[ExtractedTrack],
) -> tuple[list[ExtractedTrack], list[Reject]]:
    """The first copy of each track, and the other copies: equal bytes, or see `is_duplicate`."""
    kept: list[ExtractedTrack] = []
    rejects: list[Reject] = []
    by_sha: dict[str, ExtractedTrack] = {}
    by_length: dict[int, list[ExtractedTrack]] = {}
    for t in tracks:
        original = by_sha.get(t.sha256)
        if original is None:
            lengths = range(len(t.envelope) - 2, len(t.envelope) + 3)  # within a second
            original = next(
                (o for n in lengths for o in by_length.get(n, []) if is_duplicate(o, t)), None
            )
        if original is not None:
            reason = f"a duplicate of {original.package}: {original.path}"
            rejects.append(Reject(f"{t.package}: {t.path}", reason))
            continue
        kept.append(t)
        by_sha[t.sha256] = t
        by_length.setdefault(len(t.envelope), []).append(t)
    return kept, rejects


def is_duplicate(a: ExtractedTrack, b: ExtractedTrack) -> bool:
    """Whether two files hold the same audio in different codings.

    True where the changes of their levels from half second to half second have a correlation of
    more than DUPLICATE_CORRELATION.
    """
    n = min(len(a.envelope), len(b.envelope)) - 1
    changes = np.stack([np.diff(t.envelope)[:n] for t in (a, b)]).astype(float)  # (2, steps)
    if (changes.std(axis=1) == 0).any():
        return False
    return bool(np.corrcoef(changes)[0, 1] > DUPLICATE_CORRELATION)
