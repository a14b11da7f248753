"""The embeddings of the files of a catalogue, by processes of a Ray cluster."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
from fsspec.implementations.local import LocalFileSystem

import feelprint
from feelprint.catalogue.progress import progress
from feelprint.catalogue.target import PLAN, TRACKS, Shard, Target, make_plan

READ_AHEAD = 4
"""Files of an object store that a process reads while it embeds another."""

IN_MEMORY = 100_000_000
"""Bytes of the largest file of an object store that is held in memory; others are first copied to a
local file."""

PAUSES_S = (1.0, 10.0)
"""The pauses before an object is read again after an error, in seconds."""

MAX_DEATHS = 4
"""How often the process of one shard may die. From the second time on, files are embedded in a
process of their own, so that the one that is at fault is found."""


@dataclasses.dataclass
class Summary:
    """What a run did: numbers of files."""

    planned: int = 0
    """All files of the catalogue."""
    before: int = 0
    """Those that earlier runs have embedded."""
    embedded: int = 0
    """Files that have an embedding now, by this run."""
    damaged: int = 0
    """Files of these that are damaged: the embedding is that of the audio that could be decoded."""
    failed: int = 0
    """Files without an embedding; the reason is in the column `error`."""
    duration_s: float = 0.0
    """Audio that was embedded, in seconds."""
    cpu_s: float = 0.0
    """CPU time of the processes that embed, in seconds, without their start."""
    peak_bytes: int = 0
    """The most memory of one of these processes."""
    wall_s: float = 0.0
    """From the first process that was ready to the last shard, in seconds."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """What could not be listed."""
    deaths: int = 0
    """Processes that died, or whose machine did, and were replaced."""

    def add(self, other: Summary) -> None:
        """Add the counts of a shard."""
        for name in ("embedded", "damaged", "failed", "duration_s", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)

    def __str__(self) -> str:
        files = self.embedded + self.failed
        speed = f", {files / self.wall_s:.1f} a second" if self.wall_s else ""
        return (
            f"{self.planned} files: {self.before} were embedded before, {self.embedded} are now"
            f"{speed}; {self.damaged} of these are damaged, {self.failed} more have an error "
            f"instead of an embedding; {self.duration_s / 3600:.1f} hours of audio in "
            f"{self.wall_s:.1f} s, {self.cpu_s:.1f} s of CPU time; "
            f"{self.peak_bytes / 1e6:.0f} MB in the largest process; {self.deaths} processes died "
            "and were replaced"
        )


class Embedder:
    """A process of the cluster that holds one model and embeds one shard after another."""

    def __init__(self, target: str, model: str | None, whole: bool, version: str) -> None:
        self.target, self.path, self.whole, self.version = target, model, whole, version

    def load(self) -> None:
        """Load the model.

        Raises:
            Error: It is of another version than that of the process that started this one.
        """
        self.model = feelprint.Model(self.path, self.whole)
        if self.model.version != self.version:
            raise feelprint.Error(
                f"a machine of the cluster has the model {self.model.version}, expected "
                f"{self.version}: install the same version of feelprint on all machines"
            )

    def embed(self, shard: str, paths: list[str], sizes: list[int | None], alone: bool) -> Summary:
        """Embed the files of a shard, and write it.

        Args:
            shard: The name of the shard.
            paths: Its files.
            sizes: Their bytes, if they are objects of a store.
            alone: Whether another process decodes the files: if it dies, that is the error of the
                file, and the shard goes on.
        """
        start = time.process_time()
        rows = _rows_alone if alone else _rows
        version = {"model_version": self.model.version}
        content = [{**row, **version} for row in rows(self.model, paths, sizes)]
        table = pa.Table.from_pylist(content, TRACKS)
        Target(self.target).write("tracks", shard, table)
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        return Summary(
            embedded=len(table) - table["embedding"].null_count,
            damaged=len(table) - table["damage"].null_count,
            failed=table["embedding"].null_count,
            duration_s=pc.sum(table["duration_s"]).as_py() or 0.0,
            cpu_s=time.process_time() - start,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        )


def _rows(
    model: feelprint.Model, paths: list[str], sizes: list[int | None]
) -> Iterator[dict[str, Any]]:
    """A row of `TRACKS` for each file, in order, without the version of the model.

    Local files are decoded where they are. Up to `READ_AHEAD` objects of a store are read while one
    before them is embedded.
    """
    with ThreadPoolExecutor(READ_AHEAD) as pool, tempfile.TemporaryDirectory() as folder:
        jobs = ((path, size, folder) for path, size in zip(paths, sizes, strict=True))
        read = deque(pool.submit(_content, *job) for job in itertools.islice(jobs, READ_AHEAD))
        for path in paths:
            try:
                content = read.popleft().result()
                if isinstance(content, bytes):
                    track = model.analyse_bytes(content)
                else:
                    track = model.analyse(content)
                    if content != path:
                        os.unlink(content)
            except (feelprint.Error, OSError) as error:
                reason = str(error) or type(error).__name__
                yield {"path": path, "error": reason if path in reason else f"{path}: {reason}"}
            else:
                yield {
                    "path": path,
                    "duration_s": track.duration_s,
                    "damage": track.damage,
                    "embedding": track.embedding,
                }
            read.extend(pool.submit(_content, *job) for job in itertools.islice(jobs, 1))


def _rows_alone(
    model: feelprint.Model, paths: list[str], sizes: list[int | None]
) -> Iterator[dict[str, Any]]:
    """As `_rows`, each made in a process that may die."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context)
    for path, size in zip(paths, sizes, strict=True):
        try:
            yield pool.submit(_row, model, path, size).result()
        except BrokenProcessPool:
            yield {"path": path, "error": f"{path}: the process that decodes it dies"}
            pool = ProcessPoolExecutor(1, context)
    pool.shutdown()


def _row(model: feelprint.Model, path: str, size: int | None) -> dict[str, Any]:
    (row,) = _rows(model, [path], [size])
    return row


def _content(path: str, size: int | None, folder: str) -> bytes | str:
    """The bytes of a file, or the name of a local file that has them.

    Raises:
        OSError: It cannot be read: at once if it is not there or may not be read, else after some
            trials.
    """
    fs, name = fsspec.core.url_to_fs(path)
    if isinstance(fs, LocalFileSystem):
        return path
    for pause_s in (*PAUSES_S, None):
        try:
            if size is not None and size <= IN_MEMORY:
                return bytes(fs.cat_file(name))
            copy = os.path.join(folder, uuid.uuid4().hex)
            fs.get_file(name, copy)
            return copy
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if pause_s is None:
                raise
            time.sleep(pause_s)
    raise AssertionError("the loop returns or raises")


def embed(
    source: str,
    target: str,
    *,
    model: feelprint.Model | None = None,
    workers: int | None = None,
) -> Summary:
    """Embed the audio files of `source` that the catalogue `target` does not have.

    `ray.init` has been called. A run that was stopped, or died, is continued by the next; each file
    is embedded once. Processes that die are replaced as soon as the cluster has a CPU for them.

    Args:
        source: A folder, or an fsspec URL such as `s3://bucket/folder`.
        target: A local folder that all machines see, or an fsspec URL of an object store.
        model: The model, whose file all machines see; without it, the released one.
        workers: How many processes embed, each on one CPU; without it, one per CPU of the cluster.

    Raises:
        Error: The catalogue is of another model; there is no audio file; processes keep dying.
        ImportError: The object store needs another package, such as s3fs.
        OSError: The source cannot be listed, or the target not be written.
        ValueError: The target is of a kind that cannot be written in one step.
    """
    model = model or feelprint.Model()
    workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    out = Target(target)
    shards, problems = make_plan(out, source, model.version, workers)
    there = set(out.ids("tracks"))
    todo = deque(shard for shard in shards if shard.id not in there)
    summary = Summary(sum(len(it.files) for it in shards), problems=problems)
    summary.before = summary.planned - sum(len(it.files) for it in todo)
    with progress("files", summary.planned, summary.before) as advance:
        if todo:
            _embed_all(out.url, model, todo, min(workers, len(todo)), summary, advance)
    return summary


def _embed_all(
    target: str,
    model: feelprint.Model,
    todo: deque[Shard],
    workers: int,
    summary: Summary,
    advance: Callable[[int], object],
) -> None:
    """Embed the shards, one at a time in each process, and add them to the summary."""
    actor_class = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Embedder)
    waiting: dict[ray.ObjectRef, tuple[Any, Shard | None]] = {}
    deaths: dict[str, int] = {}
    deaths_in_a_row, start_s = 0, None

    def start_worker() -> None:
        # It is given a shard when it runs, which may be never on a cluster that has lost a machine.
        actor = actor_class.remote(target, model._path, model._whole, model.version)
        waiting[actor.load.remote()] = actor, None

    try:
        for _ in range(workers):
            start_worker()
        while todo or any(shard for _, shard in waiting.values()):
            (ref,), _ = ray.wait(list(waiting), num_returns=1)
            actor, shard = waiting.pop(ref)
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                # The process or its machine died, or is out of reach.
                ray.kill(actor)
                summary.deaths += 1
                deaths_in_a_row += 1
                if shard:
                    deaths[shard.id] = deaths.get(shard.id, 0) + 1
                    todo.appendleft(shard)
                if deaths_in_a_row > 10 * workers or (shard and deaths[shard.id] > MAX_DEATHS):
                    raise feelprint.Error(
                        f"the processes that embed die ({summary.deaths} so far); is there enough "
                        "memory? What is written stays, and the next run goes on from there. The "
                        f"last: {error}"
                    ) from None
                start_worker()
                continue
            if shard:
                deaths_in_a_row = 0
                summary.add(result)
                advance(len(shard.files))
            start_s = start_s or time.perf_counter()
            summary.wall_s = time.perf_counter() - start_s
            if todo:
                shard = todo.popleft()
                alone = deaths.get(shard.id, 0) > 1
                files = [shard.files[name].to_pylist() for name in PLAN.names]
                waiting[actor.embed.remote(shard.id, *files, alone)] = actor, shard
            else:
                ray.kill(actor)  # its CPU may be needed for one that replaces a dead one
    finally:
        for actor, _ in waiting.values():
            ray.kill(actor)
