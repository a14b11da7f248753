"""A corpus of one's own music: any folder, tags read by mutagen; nothing leaves the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets_scripts.audio import SUFFIXES
from datasets_scripts.corpora.card import card
from datasets_scripts.corpora.checked import FileCheck, check, check_all
from datasets_scripts.corpora.corpus import (
    Corpus,
    CorpusError,
    Item,
    Reject,
    Track,
    write_corpus,
    write_rejects,
)
from datasets_scripts.corpora.splits import split_by_groups, track_keys
from datasets_scripts.corpora.tags import read_tags

SOURCE = "folder"


def build_folder(audio_dir: Path, out: Path, jobs: int = 1) -> Corpus:
    """Build a corpus of every music file under `audio_dir`; a killed build resumes.

    A file that cannot be used is listed in `out`/rejects.csv with its reason. Without an album
    tag, the folder of a file is its album. Raises CorpusError for a folder that does not exist or
    holds no music.
    """
    if not audio_dir.is_dir():
        raise CorpusError(f"{audio_dir} is not a folder")
    if (out / "data").exists():
        raise CorpusError(f"{out} holds a corpus already: remove it, or give another --out")
    files = {file_key(file, audio_dir): file for file in sorted(music_files(audio_dir, out))}
    if not files:
        raise CorpusError(f"{audio_dir} holds no music ({' '.join(SUFFIXES)})")
    out.mkdir(parents=True, exist_ok=True)

    def work(key: str) -> FileCheck:
        file = files[key]
        return check(key, file, extra=lambda: read_tags(file, file.name)._asdict())

    rejects: list[Reject] = []
    kept: dict[str, FileCheck] = {}  # by sha256
    for result in check_all(files, work, out / "checked.jsonl", jobs):
        name = str(files[result.key].relative_to(audio_dir))
        if result.reason:
            rejects.append(Reject(name, result.reason))
        elif result.sha256 in kept:
            duplicate = files[kept[result.sha256].key].relative_to(audio_dir)
            rejects.append(Reject(name, f"the same bytes as {duplicate}"))
        else:
            kept[result.sha256] = result
    write_rejects(out / "rejects.csv", rejects)
    items = _items(list(kept.values()), files, audio_dir)
    about = (
        "The music of one folder of this machine. The rights in it are held by others, so it must "
        f"not be published. {len(rejects)} of {len(files)} files were excluded: `rejects.csv`."
    )
    write_corpus(items, out, card("A folder of music", about, [i.track for i in items]))
    (out / "checked.jsonl").unlink()
    return Corpus(out)


def _items(kept: list[FileCheck], files: dict[str, Path], audio_dir: Path) -> list[Item]:
    """The tracks of the checked files, with their albums and splits."""
    albums = [folder_album(r.extra["album"], files[r.key], audio_dir) for r in kept]
    splits = split_by_groups(
        [track_keys(r.extra["artist"], a) for r, a in zip(kept, albums, strict=True)]
    )
    return [
        Item.of_file(
            Track(
                id=result.sha256[:16],
                title=result.extra["title"],
                artist=result.extra["artist"],
                album=album,
                genres=result.extra["genres"],
                source=SOURCE,
                licence="",
                duration_s=result.duration_s,
                sha256=result.sha256,
                split=split,
            ),
            files[result.key],
            str(files[result.key].relative_to(audio_dir)),
        )
        for result, album, split in zip(kept, albums, splits, strict=True)
    ]


def file_key(file: Path, audio_dir: Path) -> str:
    """Path, size and modification time: a file that was changed is checked again."""
    try:
        stat = file.stat()
    except OSError as error:  # a broken link; the check reports it too
        return f"{file.relative_to(audio_dir)}|{error.strerror}"
    return f"{file.relative_to(audio_dir)}|{stat.st_size}|{stat.st_mtime_ns}"


def folder_album(album: str, file: Path, audio_dir: Path) -> str:
    """The album tag, or without one the folder of the file; "" in `audio_dir` itself."""
    parent = str(file.parent.relative_to(audio_dir))
    return album or ("" if parent == "." else parent)


def music_files(audio_dir: Path, out: Path) -> Iterator[Path]:
    """Every music file under `audio_dir`, except under `out` and in hidden folders.

    Raises CorpusError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise CorpusError(f"{error.filename} cannot be read: {error.strerror}")

    for folder, inner, names in os.walk(audio_dir, onerror=fail):
        inner[:] = [d for d in inner if not d.startswith(".") and Path(folder, d) != out]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)
