"""The free corpus: the music of Debian packages, with the rights of each track.

What is taken stands in a YAML file (`configs/free_splits.yaml`): the packages by split, what in
them is no music, and the licences of packages whose copyright file no program can read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from datasets_scripts.audio import SUFFIXES, AudioError, duration, measure
from datasets_scripts.corpora import debian
from datasets_scripts.corpora.card import card, write_attribution
from datasets_scripts.corpora.corpus import (
    SPLITS,
    Corpus,
    CorpusError,
    Item,
    Reject,
    Track,
    file_sha256,
    write_atomic,
    write_corpus,
    write_rejects,
)
from datasets_scripts.corpora.tags import read_tags

SHORTEST_S = 30.0  # below it are jingles and effects
MODULES = (".it", ".mid", ".midi", ".mod", ".s3m", ".xm", ".zik")  # scores, not recordings
SAME_ENVELOPE = 0.95  # see `same_recording`


@dataclass(frozen=True)
class FreeConfig:
    """What goes into a corpus of packages.

    packages: split -> package names. not_music: package -> ends of paths left out, as globs.
    licences: package -> {end of a path, as a glob: licence}, read by a person where the package's
    copyright file is free text.
    """

    packages: dict[str, list[str]]
    not_music: dict[str, list[str]] = field(default_factory=dict)
    licences: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> FreeConfig:
        """Read the YAML file. Raises CorpusError for unknown keys and doubly named packages."""
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CorpusError(f"{path}: no such file") from None
        except yaml.YAMLError as error:
            raise CorpusError(f"{path}: not YAML: {error}") from None
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data or {}) - set(known))
        if not isinstance(data, dict) or unknown or "packages" not in data:
            raise CorpusError(f"{path}: unknown keys {unknown}; it takes {known}")
        config = cls(**{key: value or {} for key, value in data.items()})
        names = [name for split in config.packages.values() for name in split or []]
        doubled = sorted({name for name in names if names.count(name) > 1})
        wrong = sorted(set(config.packages) - set(SPLITS))
        unlisted = sorted((set(config.not_music) | set(config.licences)) - set(names))
        if doubled or wrong or unlisted:
            raise CorpusError(
                f"{path}: packages in two splits: {doubled}; unknown splits: {wrong}; "
                f"in not_music or licences but not in packages: {unlisted}"
            )
        return config


@dataclass
class Found:
    """A sound of a package, as it lies in the work folder; one line of its record."""

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
    pattern: str = ""  # what in the copyright file the rights rest on


def build_free(config: FreeConfig, debs: Path, out: Path, name: str = "free") -> Corpus:
    """Build the corpus of `config` in `out`, from .deb files that lie in (or go to) `debs`.

    name: what the dataset card calls it. A corpus that is there already is returned as it is, and
    a killed build goes on. Raises CorpusError.
    """
    if (out / "data").exists():
        return Corpus(out)
    work = out / "work"
    found: list[Found] = []
    rejects: list[Reject] = []
    notes: list[dict[str, Any]] = []
    order = [(split, name) for split in SPLITS for name in config.packages.get(split) or []]
    for _, package in tqdm(order, unit="package", desc="unpacking music"):
        record = _unpack(package, config, debs, work)
        found += [Found(**entry) for entry in record["found"]]
        rejects += [Reject(**entry) for entry in record["rejects"]]
        rights = debian.Copyright((work / f"{package}.copyright").read_text(encoding="utf-8"))
        for entry in found:
            if entry.package == package:
                _set_rights(entry, rights, config.licences.get(package, {}))
        notes.append({k: record[k] for k in ("package", "version", "sha256", "short")})
    kept, duplicates = leave_out_doubles(found)
    split_of = {package: split for split, package in order}
    items = [
        Item.of_file(
            Track(
                id=f.sha256[:16],
                title=f.title,
                artist=f.artist,
                album=f.package,
                genres=f.genres,
                source="debian",
                licence=f.licence,
                duration_s=f.duration_s,
                sha256=f.sha256,
                split=split_of[f.package],
            ),
            work / f.file,
            f"{f.package}/{_file_name(f)}",
        )
        for f in kept
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_rejects(out / "rejects.csv", rejects + duplicates)
    write_attribution(
        out / "attribution.csv",
        ("id", "package", "path", "title", "artist", "holders", "licence", "rests_on"),
        (
            (f.sha256[:16], f.package, f.path, f.title, f.artist, "; ".join(f.holders), f.licence,
             f.pattern)
            for f in kept
        ),
    )  # fmt: skip
    (out / "copyright").mkdir(exist_ok=True)
    for _, package in order:
        shutil.copyfile(work / f"{package}.copyright", out / "copyright" / f"{package}.txt")
    short = sum(note["short"] for note in notes)
    about = (
        "The music of Debian packages (most are games), each track whole and as it was published. "
        "An album is a soundtrack, that is a package. "
        f"Left out: {short} sounds under {SHORTEST_S:.0f} s, and what `rejects.csv` lists with its "
        "reason. Who holds which rights in which track stands in `attribution.csv`, and the full "
        "copyright file of each package in `copyright/`."
    )
    packages = [(n["package"], n["version"], n["sha256"]) for n in notes]
    tables = {"Packages": (("package", "version", "sha256 of the .deb"), packages)}
    write_corpus(
        items, out, card(f"feelprint {name} corpus", about, [i.track for i in items], tables)
    )
    shutil.rmtree(work)
    return Corpus(out)


def _unpack(package: str, config: FreeConfig, debs: Path, work: Path) -> dict[str, Any]:
    """Lay the music of one package into the work folder; return its record, made once."""
    record_path = work / f"{package}.json"
    not_music = config.not_music.get(package, [])
    if record_path.exists():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["not_music"] == not_music:
            return record
    deb = debian.fetch(package, debs)
    folder = work / package
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record = {"package": package, "version": debian.version(deb), "sha256": file_sha256(deb)}
    found: list[Found] = []
    rejects: list[Reject] = []
    texts: list[bytes] = []
    short = 0
    for path, content in debian.members(deb, SUFFIXES + MODULES):
        suffix = PurePosixPath(path).suffix.lower()
        if path.endswith("/copyright"):
            texts.append(content)
            continue
        where = f"{package}: {path}"
        if suffix in MODULES:
            rejects.append(Reject(where, "a score or tracker module, not a recording"))
            continue
        try:
            if duration(content) < SHORTEST_S:
                short += 1
                continue
            if any(fnmatch(path, "*" + pattern) for pattern in not_music):
                rejects.append(Reject(where, "a sound effect, ambience or speech, not music"))
                continue
            levels = measure(content)
        except AudioError as error:
            rejects.append(Reject(where, re.sub(r"^\d+ bytes of audio: ", "", str(error))))
            continue
        tags = read_tags(content, path.split("!")[-1])
        digest = hashlib.sha256(content).hexdigest()
        (folder / f"{digest}{suffix}").write_bytes(content)
        envelope = np.round(20 * np.log10(np.maximum(levels.envelope, 1e-5))).astype(int)
        found.append(
            Found(
                package,
                path,
                f"{package}/{digest}{suffix}",
                digest,
                round(levels.duration_s, 3),
                envelope.tolist(),
                tags.title,
                tags.artist,
                tags.genres,
            )
        )
    if not texts:
        raise CorpusError(f"{deb}: no copyright file in it, so nothing of it can be used")
    text = max(texts, key=len).decode("utf-8", errors="replace")
    (work / f"{package}.copyright").write_text(text, encoding="utf-8")
    record |= {"not_music": not_music, "short": short, "found": [vars(f) for f in found]}
    record["rejects"] = [r._asdict() for r in rejects]
    write_atomic(record_path, json.dumps(record, ensure_ascii=False))
    return record


def _set_rights(entry: Found, copyright: debian.Copyright, by_hand: dict[str, str]) -> None:
    """Licence and holders from the copyright file; the artist too, where no tag names one."""
    rights = copyright.rights(entry.path)
    for pattern, licence in by_hand.items():
        if fnmatch(entry.path, "*" + pattern) and (rights is None or rights.pattern == "*"):
            entry.licence, entry.pattern = (
                licence,
                "the package's copyright notes, read by a person",
            )
            return
    if rights is None:
        raise CorpusError(
            f"the copyright file of {entry.package} is not machine-readable: read it, and name "
            "the licence under `licences` in the configuration"
        )
    entry.licence, entry.holders = rights.licence, rights.holders
    entry.pattern = f"Files: {rights.pattern}"
    about_music = re.search(r"music|sound|audio|\.(ogg|opus|mp3|wav)", rights.pattern, re.I)
    if not entry.artist and about_music and len(rights.holders) <= 2:
        entry.artist = ", ".join(rights.holders)


def _file_name(f: Found) -> str:
    return PurePosixPath(f.path.split("!")[-1]).name


def leave_out_doubles(found: Sequence[Found]) -> tuple[list[Found], list[Reject]]:
    """Keep the first of each recording; the same bytes or the same sound in another coding."""
    kept: list[Found] = []
    rejects: list[Reject] = []
    by_sha: dict[str, Found] = {}
    by_length: dict[int, list[Found]] = {}
    for f in found:
        twin = by_sha.get(f.sha256)
        if twin is None:
            near = range(len(f.envelope) - 2, len(f.envelope) + 3)  # within a second
            twin = next(
                (o for n in near for o in by_length.get(n, []) if same_recording(o, f)), None
            )
        if twin is not None:
            rejects.append(
                Reject(f"{f.package}: {f.path}", f"a double of {twin.package}: {twin.path}")
            )
            continue
        kept.append(f)
        by_sha[f.sha256] = f
        by_length.setdefault(len(f.envelope), []).append(f)
    return kept, rejects


def same_recording(a: Found, b: Found) -> bool:
    """Whether the loudness of two tracks rises and falls together, half second by half second."""
    n = min(len(a.envelope), len(b.envelope)) - 1
    rise = np.stack([np.diff(f.envelope)[:n] for f in (a, b)]).astype(float)  # (2, steps)
    spread = rise.std(axis=1)
    if (spread == 0).any():
        return False
    return bool(np.corrcoef(rise)[0, 1] > SAME_ENVELOPE)
