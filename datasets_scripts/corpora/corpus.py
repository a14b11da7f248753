"""The layout of every corpus: Parquet shards with the audio's own bytes inside.

    <corpus>/data/{train,validation,test}-NNNNN-of-NNNNN.parquet
    <corpus>/README.md, rejects.csv

A builder passes `Item`s (a track's metadata, and the file that holds its audio) to `write_corpus`.
`data/` appears only when every shard is complete; until then the shards are in `data.partial/`, and
a build that was killed continues after the last complete one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from datasets_scripts.files import atomic_path, write_csv, write_text

SPLITS = ("train", "validation", "test")
SHARD_BYTES = 450_000_000  # of audio; a file with its metadata has at most 500 MB
GROUP = 8  # tracks per row group: reading one track reads its group, not its whole shard


class CorpusError(RuntimeError):
    """A corpus that cannot be built or read: the message says what was expected and what to do."""


@dataclass(frozen=True)
class Track:
    """The metadata of one track: the columns of the table, without the audio.

    id: first 16 hexadecimal digits of `sha256`. duration_s: seconds. sha256: of the audio bytes.
    Unknown strings are "", unknown genres [].
    """

    id: str
    title: str
    artist: str
    album: str
    genres: list[str]
    source: str
    licence: str
    duration_s: float
    sha256: str
    split: str


class Item(NamedTuple):
    """A track and where its bytes are; `name` goes into the `path` field of the audio column."""

    track: Track
    read: Callable[[], bytes]
    size: int  # bytes
    name: str

    @classmethod
    def of_file(cls, track: Track, file: Path, name: str) -> Item:
        """An item whose audio is a file of its own."""
        return cls(track, file.read_bytes, file.stat().st_size, name)


class Reject(NamedTuple):
    """A file excluded from a corpus, and why."""

    path: str
    reason: str


def _schema() -> pa.Schema:
    """The Arrow schema, with the metadata by which `datasets` finds the audio column."""
    types: dict[str, Any] = {"genres": pa.list_(pa.string()), "duration_s": pa.float64()}
    names = ["id", "audio", *(f.name for f in fields(Track) if f.name != "id")]
    types["audio"] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, Any] = {n: {"dtype": "string", "_type": "Value"} for n in names}
    features["audio"] = {"_type": "Audio"}
    features["genres"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    features["duration_s"] = {"dtype": "float64", "_type": "Value"}
    metadata = json.dumps({"info": {"features": features}})
    return pa.schema([(n, types.get(n, pa.string())) for n in names]).with_metadata(
        {"huggingface": metadata}
    )


SCHEMA = _schema()
METADATA = [name for name in SCHEMA.names if name != "audio"]


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write the skipped files as CSV, one per line: path, reason."""
    write_csv(path, Reject._fields, rejects)


def write_corpus(items: Sequence[Item], folder: Path, card: str) -> None:
    """Write `items` as the corpus in `folder`, with `card` as its README.md.

    Shards of a killed run of the same items are kept. Raises CorpusError for no items, a repeated
    id, an unknown split, a file that changed, or a folder that holds a corpus already.
    """
    _check_items(items, folder)
    partial = folder / "data.partial"
    shards = _plan(items)
    plan = json.dumps({name: [i.track.id for i in shard] for name, shard in shards.items()})
    if partial.exists() and (
        not (partial / "plan.json").is_file() or (partial / "plan.json").read_text() != plan
    ):
        shutil.rmtree(partial)  # shards of another plan
    partial.mkdir(parents=True, exist_ok=True)
    for part in partial.glob("*.part"):  # of a killed run
        part.unlink()
    write_text(partial / "plan.json", plan)
    with tqdm(total=len(items), unit="track", desc="writing shards") as bar:
        for name, shard in shards.items():
            if not (partial / name).exists():
                _write_shard(shard, partial / name)
            bar.update(len(shard))
    write_text(folder / "README.md", card)
    (partial / "plan.json").unlink()
    os.replace(partial, folder / "data")


def _check_items(items: Sequence[Item], folder: Path) -> None:
    if not items:
        raise CorpusError(f"nothing to write to {folder}: no track was left after the checks")
    if (folder / "data").exists():
        raise CorpusError(f"{folder} holds a corpus already: remove {folder / 'data'} to rebuild")
    ids: set[str] = set()
    for item in items:
        if item.track.split not in SPLITS:
            raise CorpusError(f"{item.name}: split {item.track.split!r} is none of {SPLITS}")
        if item.track.id in ids:
            raise CorpusError(f"{item.name}: id {item.track.id} is in this corpus twice")
        ids.add(item.track.id)


def _plan(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Shard name -> its items, in the given order."""
    shards: dict[str, list[Item]] = {}
    for split in SPLITS:
        parts: list[list[Item]] = []
        room = 0
        for item in (i for i in items if i.track.split == split):
            if item.size > SHARD_BYTES:
                raise CorpusError(f"{item.name}: {item.size} bytes is more than a shard holds")
            if not parts or item.size > room:
                parts.append([])
                room = SHARD_BYTES
            parts[-1].append(item)
            room -= item.size
        for n, part in enumerate(parts):
            shards[f"{split}-{n:05d}-of-{len(parts):05d}.parquet"] = part
    return shards


def _write_shard(items: Sequence[Item], path: Path) -> None:
    # The audio is compressed already, and no reader looks up a track by its bytes.
    codecs = {name: "NONE" if name.startswith("audio") else "ZSTD" for name in _leaves()}
    with (
        atomic_path(path) as part,
        pq.ParquetWriter(
            part,
            SCHEMA,
            compression=codecs,
            use_dictionary=["album", "artist", "source", "licence", "split"],
            write_statistics=["id", "album", "artist", "duration_s", "sha256", "split"],
        ) as writer,
    ):
        for start in range(0, len(items), GROUP):
            rows = []
            for item in items[start : start + GROUP]:
                data = item.read()
                if hashlib.sha256(data).hexdigest() != item.track.sha256:
                    raise CorpusError(f"{item.name} changed while the corpus was being built")
                rows.append(asdict(item.track) | {"audio": {"bytes": data, "path": item.name}})
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), row_group_size=GROUP)


def _leaves() -> list[str]:
    nested = {"audio": ["audio.bytes", "audio.path"], "genres": ["genres.list.element"]}
    return [leaf for name in SCHEMA.names for leaf in nested.get(name, [name])]


class Corpus:
    """A corpus on disk. Holds the metadata of all tracks; reads the audio of one when asked.

    tracks: list of Track, in the order of the shards. Raises CorpusError for a folder that is
    not a complete corpus. It can be pickled, and read by several processes.
    """

    def __init__(self, folder: Path | str):
        """Read the metadata of every shard in `folder`/data."""
        self.folder = Path(folder)
        if not (self.folder / "data").is_dir():
            begun = (self.folder / "data.partial").is_dir()
            raise CorpusError(
                f"{self.folder} is {'a corpus that is not finished' if begun else 'not a corpus'}: "
                "build it with `python -m datasets_scripts`"
                f"{' (run the same command again to resume)' if begun else ''}"
            )
        self.tracks: list[Track] = []
        self._location: dict[str, tuple[Path, int, int]] = {}  # id -> shard, row group, row in it
        for path in self._shards():
            try:
                with pq.ParquetFile(path) as file:
                    rows = file.read(columns=METADATA).to_pylist()
                    sizes = [
                        file.metadata.row_group(g).num_rows
                        for g in range(file.metadata.num_row_groups)
                    ]
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(
                    f"{path} cannot be read as a shard of a corpus: {error}"
                ) from None
            locations = [(path, g, r) for g, size in enumerate(sizes) for r in range(size)]
            for row, location in zip(rows, locations, strict=True):
                track = Track(**row)
                if track.id in self._location:
                    raise CorpusError(f"{path}: id {track.id} is in this corpus twice")
                self._location[track.id] = location
                self.tracks.append(track)

    def _shards(self) -> list[Path]:
        shards = []
        for split in SPLITS:
            found = sorted((self.folder / "data").glob(f"{split}-*-of-*.parquet"))
            if not found:
                continue
            of = found[0].stem.rsplit("-", 1)[1]
            expected = [f"{split}-{n:05d}-of-{of}.parquet" for n in range(int(of))]
            missing = sorted(set(expected) - {path.name for path in found})
            if missing or len(found) != len(expected):
                raise CorpusError(
                    f"{self.folder / 'data'}: the shards of {split} are not one set of {int(of)}"
                    f" (missing: {', '.join(missing) or 'none, but more than one set'})"
                )
            shards += found
        if not shards:
            raise CorpusError(f"{self.folder / 'data'} holds no shards")
        return shards

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.tracks)

    def split(self, name: str) -> list[Track]:
        """Return the tracks of one split. Raises CorpusError for an unknown name."""
        if name not in SPLITS:
            raise CorpusError(f"split {name!r} is none of {SPLITS}")
        return [track for track in self.tracks if track.split == name]

    def audio_bytes(self, id: str) -> bytes:
        """Return the bytes of a track's audio file. Raises KeyError for an unknown id."""
        path, group, row = self._location[id]
        with pq.ParquetFile(path, memory_map=True) as file:
            column = file.read_row_group(group, columns=["audio.bytes"])["audio"]
        return column[row]["bytes"].as_py()

    def extract(self, folder: Path) -> int:
        """Write every track as a plain file, `folder`/<album>/<name>; returns their number.

        A player or `feelprint index` reads such files. One that exists already is kept.
        """
        for track in self.tracks:
            path, group, row = self._location[track.id]
            with pq.ParquetFile(path, memory_map=True) as file:
                audio = file.read_row_group(group, columns=["audio"])["audio"][row]
            name = f"{track.id} {Path(audio['path'].as_py()).name}"
            target = folder / (track.album or track.artist or "unknown").replace("/", " ") / name
            if not target.exists():
                with atomic_path(target) as part:
                    part.write_bytes(audio["bytes"].as_py())
        return len(self.tracks)
