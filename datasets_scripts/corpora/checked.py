"""A check of each audio file by decoding it, recorded so that a killed build need not repeat it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets_scripts.audio import AudioError, duration, measure
from datasets_scripts.corpora.corpus import SHARD_BYTES
from datasets_scripts.files import write_text

SHORTEST_S = 3.0  # about the length of one input of MSD_musicnn, the default teacher


class FileCheck(NamedTuple):
    """The result for one file. reason: why it cannot be used; if "", the other fields are set."""

    key: str
    reason: str
    sha256: str = ""
    duration_s: float = 0.0
    size: int = 0
    extra: Mapping[str, Any] = MappingProxyType({})  # what a builder adds, such as tags


def check(
    key: str,
    source: bytes | Path,
    shortest_s: float = SHORTEST_S,
    extra: Callable[[], dict[str, Any]] = dict,
) -> FileCheck:
    """Decode a file from end to end. A bad file raises nothing: its `reason` says what is wrong."""
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > SHARD_BYTES:
            raise AudioError(f"{size} bytes are more than a shard of a corpus holds")
        length = duration(source)
        if length >= shortest_s:
            length = measure(source).duration_s
        if length < shortest_s:
            raise AudioError(f"{length:.2f} s, shorter than {shortest_s:.0f} s")
        data = source if isinstance(source, bytes) else source.read_bytes()
        digest = sha256(data).hexdigest()
        return FileCheck(key, "", digest, round(length, 3), size, extra())
    except (AudioError, OSError) as error:
        named = f"{size} bytes of audio" if isinstance(source, bytes) else str(source)
        return FileCheck(key, str(error).removeprefix(f"{named}: "))


def check_all(
    keys: Iterable[str], work: Callable[[str], FileCheck], record: Path, jobs: int = 1
) -> Iterator[FileCheck]:
    """Yield work(key) for every key, in order; keys that are in `record` are not checked again."""
    known = _read(record)
    keys = list(keys)
    with ThreadPoolExecutor(jobs) as pool, record.open("a", encoding="utf-8") as out:
        for start in range(0, len(keys), 64 * jobs):  # a killed build loses at most one such part
            part = keys[start : start + 64 * jobs]
            done = pool.map(lambda key: known.get(key) or work(key), part)
            for result in tqdm(done, total=len(part), desc=f"checking from {start}", leave=False):
                if result.key not in known:
                    out.write(_line(result))
                    out.flush()
                yield result


def _read(record: Path) -> dict[str, FileCheck]:
    """Read the record of an earlier run. A last line that is incomplete is dropped."""
    known: dict[str, FileCheck] = {}
    if record.exists():
        for line in record.read_text(encoding="utf-8").splitlines():
            try:
                result = FileCheck(**json.loads(line))
            except (ValueError, TypeError):
                continue
            known[result.key] = result
        write_text(record, "".join(_line(result) for result in known.values()))
    return known


def _line(result: FileCheck) -> str:
    return json.dumps(result._asdict() | {"extra": dict(result.extra)}) + "\n"
