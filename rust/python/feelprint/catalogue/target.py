"""The folder of a catalogue, and the plan in it: which files are in which shard."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

import feelprint
from feelprint import _feelprint

SHARD = 1_000
"""The most files of a shard: about two minutes of work, which is what a process that dies loses."""

SHARDS_PER_WORKER = 8
"""In a small collection: so that all processes end at about the same time."""

TRACKS = pa.schema(
    [
        ("path", pa.string()),
        ("duration_s", pa.float64()),
        ("damage", pa.string()),
        ("error", pa.string()),
        ("embedding", pa.list_(pa.float32(), feelprint.DIM_EMBEDDING)),
        ("model_version", pa.string()),
    ]
)
"""The columns of `tracks/`. A file has an embedding and a duration, or an error."""

NEIGHBOURS = pa.schema(
    [
        ("path", pa.string()),
        ("neighbours", pa.list_(pa.string())),
        ("distances", pa.list_(pa.float32())),
    ]
)
"""The columns of `neighbours/`: the paths of the nearest other tracks, nearest first, and their
Euclidean distances."""

HAS_EMBEDDING = pc.field("embedding").is_valid()

PLAN = pa.schema([("path", pa.large_string()), ("bytes", pa.int64())])


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of the plan."""

    id: str
    files: pa.Table


class Target:
    """The folder of a catalogue: a local one, or one of an object store.

    Args:
        url: A path, or an fsspec URL such as `s3://bucket/folder`.

    Raises:
        ValueError: The file system cannot write a file in one step.
    """

    def __init__(self, url: str) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        # Absolute: the processes of the cluster have other working directories.
        self.url = self.root if self.is_local else url
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else {*self.fs.protocol}
        if not self.is_local and not protocols & {"s3", "gs"}:
            raise ValueError(
                f"{url}: a target of the kind {sorted(protocols)[0]}, expected a folder, or an "
                "object store (s3, gs), which writes a file in one step"
            )

    def path(self, *names: str) -> str:
        """The path of a file in the target, for `fs`."""
        return "/".join([self.root.rstrip("/"), *names])

    def ids(self, folder: str) -> list[str]:
        """The names of the Parquet files in a folder, sorted, without their endings."""
        self.fs.invalidate_cache()
        try:
            names = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (Path(name) for name in names)
        return sorted(it.stem for it in names if it.suffix == ".parquet" and it.name[0] != ".")

    def read(self, folder: str, name: str) -> pa.Table:
        """A Parquet file."""
        content = self.fs.cat_file(self.path(folder, f"{name}.parquet"))
        return pq.read_table(io.BytesIO(content))

    def write(self, folder: str, name: str, table: pa.Table, *, create: bool = False) -> None:
        """Write a Parquet file that is complete or absent, whatever happens meanwhile.

        Raises:
            FileExistsError: With `create`, it is there.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path = self.path(folder, f"{name}.parquet")
        if not self.is_local:
            mode = "create" if create else "overwrite"
            self.fs.pipe_file(path, buffer.getvalue(), mode=mode)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = self.path(folder, f".{name}.{uuid.uuid4().hex}")
        try:
            with open(partial, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if create:
                os.link(partial, path)  # unlike `replace`, fails if it is there
                os.unlink(partial)
            else:
                os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise

    def dataset(self, folder: str, ids: Iterable[str]) -> pyarrow.dataset.Dataset:
        """The Parquet files as one table that is read piece by piece."""
        paths = [self.path(folder, f"{it}.parquet") for it in ids]
        return pyarrow.dataset.dataset(paths, TRACKS, format="parquet", filesystem=self.fs)


def list_files(source: str) -> tuple[pa.Table, list[str]]:
    """The audio files under a folder, a table as `PLAN`, and what could not be listed, in words.

    A local folder is listed as by the command `feelprint index`. In an object store, the name says
    what is audio; names with a part that begins with a dot are left out.

    Raises:
        FileNotFoundError: There is no such folder.
        Error: It has no audio file.
    """
    fs, root = fsspec.core.url_to_fs(source)
    problems: list[str] = []
    if isinstance(fs, LocalFileSystem):
        found, problems = _feelprint.audio_files(str(Path(root).resolve(strict=True)))
        # A name that is not text becomes the path of no file, whose row has that error.
        names = [os.fsencode(it).decode(errors="backslashreplace") for it in found]
        files = pa.table([names, pa.nulls(len(names), pa.int64())], PLAN)
    else:
        parts = []
        # Folder by folder: the details of all files would take much more memory than their names.
        for entry in fs.ls(root, detail=True):
            is_folder = entry["type"] == "directory"
            below = fs.find(entry["name"], detail=True).values() if is_folder else [entry]
            rows = [
                {"path": fs.unstrip_protocol(it["name"]), "bytes": it["size"]}
                for it in below
                if _feelprint.is_audio_name(it["name"])
                and "/." not in it["name"].removeprefix(root.rstrip("/"))
            ]
            parts.append(pa.Table.from_pylist(rows, PLAN))
            fs.invalidate_cache()
        files = pa.concat_tables(parts) if parts else PLAN.empty_table()
    if not len(files):
        raise feelprint.Error("; ".join([f"{source}: no audio file there", *problems]))
    return files.sort_by("path"), problems


def make_plan(
    target: Target, source: str, version: str, workers: int
) -> tuple[list[Shard], list[str]]:
    """Add the files of the source to the plan that are not in it.

    Returns:
        All shards of the plan, and what could not be listed.

    Raises:
        Error: The catalogue is of another model, or the source has no audio file.
    """
    files, problems = list_files(source)
    while True:
        plans = [target.read("plan", it) for it in target.ids("plan")]
        for plan in plans:
            other = plan.schema.metadata[b"model_version"].decode()
            if other != version:
                raise feelprint.Error(
                    f"{target.url}: embeddings of the model {other}, the model is {version}; "
                    "embeddings of two versions cannot be compared: name another target"
                )
        known = pa.concat_tables([it.select(["path"]) for it in plans]) if plans else None
        new = files
        if known is not None:
            new = files.filter(pc.invert(pc.is_in(files["path"], known["path"].combine_chunks())))
        if not len(new):
            return [shard for plan in plans for shard in shards_of(plan)], problems
        size = min(SHARD, -(-len(new) // (SHARDS_PER_WORKER * workers)))
        new = new.replace_schema_metadata({"model_version": version, "files_per_shard": str(size)})
        # If another run has added its files meanwhile, look again for what is new.
        with contextlib.suppress(FileExistsError):
            target.write("plan", f"{len(plans):05}", new, create=True)


def shards_of(plan: pa.Table) -> Iterator[Shard]:
    """The shards of a file of the plan. The name of a shard is a hash of its model and files."""
    size = int(plan.schema.metadata[b"files_per_shard"])
    for start in range(0, len(plan), size):
        files = plan.slice(start, size)
        text = "\0".join(
            [plan.schema.metadata[b"model_version"].decode(), *files["path"].to_pylist()]
        )
        yield Shard(hashlib.sha256(text.encode()).hexdigest()[:24], files)
