"""The neighbours of the tracks of a catalogue: exact, or by a Lance dataset with an IVF index."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray

import feelprint
from feelprint.catalogue.progress import progress
from feelprint.catalogue.target import HAS_EMBEDDING, NEIGHBOURS, TRACKS, Target

EXACT_UP_TO = 10_000_000
"""The number of tracks up to which the search for neighbours is exact."""

SAMPLE = 1_000
"""Tracks for which the recall of the Lance dataset is measured."""

PROBES = 32
"""Partitions of the Lance dataset that a search reads."""


def find_neighbours(
    target: str, n: int, *, exact_up_to: int = EXACT_UP_TO, workers: int | None = None
) -> tuple[int, float | None]:
    """Write the nearest tracks of each track of a catalogue to its folder `neighbours`.

    Up to `exact_up_to` tracks, every machine holds all embeddings and the search is exact. Beyond,
    a Lance dataset with an IVF index is made and searched, and the result is approximate. A run
    that was stopped is continued.

    Args:
        target: The catalogue.
        n: How many tracks.
        exact_up_to: The most tracks that are searched exactly.
        workers: How many shards are searched for at the same time; without it, one per CPU.

    Returns:
        The number of tracks, and the recall@10 of the approximate search against the exact one, for
        `SAMPLE` tracks; `None` if the search is exact.

    Raises:
        Error: The catalogue has no embedding.
        OSError: It cannot be read or written.
    """
    out = Target(target)
    ids = out.ids("tracks")
    tracks = out.dataset("tracks", ids)
    count = tracks.count_rows(filter=HAS_EMBEDDING)
    if not count:
        raise feelprint.Error(f"{target}: no track has an embedding")
    is_exact = count <= exact_up_to
    state = hashlib.sha256("\0".join([*ids, str(n), str(is_exact)]).encode()).hexdigest()[:16]
    if is_exact:
        table = pa.concat_tables(_blocks(tracks))
        paths = ray.put(table["path"].cast(pa.large_string()).combine_chunks())
        where = [paths, ray.put(_matrix(table))]
        del table
        recall = None
    else:
        _build_index(out.url, tracks, count, state)
        recall = _recall(out.url, tracks, count)
        where = [None, None]
    there = out.ids("neighbours")
    todo = deque(it for it in ids if f"{state}-{it}" not in set(there))
    task = ray.remote(num_cpus=1, max_retries=10)(_neighbours_of_shard)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[ray.ObjectRef] = []
    with progress("shards", len(ids), len(ids) - len(todo)) as advance:
        while todo or waiting:
            while todo and len(waiting) < 2 * limit:
                waiting.append(task.remote(out.url, todo.popleft(), state, n, *where))
            done, waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            advance(len(done))
    for name in there:
        if not name.startswith(state):  # of the catalogue as it was
            out.fs.rm_file(out.path("neighbours", f"{name}.parquet"))
    return count, recall


def _neighbours_of_shard(
    target: str,
    shard: str,
    state: str,
    n: int,
    paths: pa.Array | None,
    embeddings: npt.NDArray[np.float32] | None,
) -> None:
    """Write the neighbours of the tracks of a shard.

    Args:
        target: The catalogue.
        shard: The name of the shard.
        state: What the name of the file begins with.
        n: How many neighbours.
        paths: Of all tracks, or `None` to search the Lance dataset.
        embeddings: Of all tracks, (tracks, 32) float32.
    """
    out = Target(target)
    own = out.read("tracks", shard)
    own = own.filter(pc.is_valid(own["embedding"]))
    queries = _matrix(own)
    if not len(own):
        found: list[list[tuple[str, float]]] = []
    elif paths is None or embeddings is None:
        found = _search_index(target, queries, n + 1)
    else:
        indices, distances = feelprint.nearest(embeddings, queries, n + 1, threads=1)
        near = paths.take(pa.array(indices.ravel())).to_pylist()
        near = [near[i : i + indices.shape[1]] for i in range(0, len(near), indices.shape[1])]
        found = [list(zip(*row, strict=True)) for row in zip(near, distances.tolist(), strict=True)]
    rows = []
    for path, row in zip(own["path"].to_pylist(), found, strict=True):
        others = [it for it in row if it[0] != path][:n]
        rows.append(
            {
                "path": path,
                "neighbours": [other for other, _ in others],
                "distances": [distance for _, distance in others],
            }
        )
    out.write("neighbours", f"{state}-{shard}", pa.Table.from_pylist(rows, NEIGHBOURS))


def _matrix(tracks: pa.Table) -> npt.NDArray[np.float32]:
    """The embeddings of a table, none of which is null, (tracks, 32) float32."""
    values: npt.NDArray[np.float32] = tracks["embedding"].combine_chunks().flatten().to_numpy()
    return values.reshape(-1, feelprint.DIM_EMBEDDING)


def _blocks(tracks: pyarrow.dataset.Dataset, rows: int = 100_000) -> Iterator[pa.Table]:
    """The paths and embeddings of the tracks that have one, some `rows` at a time."""
    block: list[pa.RecordBatch] = []
    for batch in tracks.to_batches(columns=["path", "embedding"], filter=HAS_EMBEDDING):
        block.append(batch)
        if sum(len(it) for it in block) >= rows:
            yield pa.Table.from_batches(block)
            block = []
    if block:
        yield pa.Table.from_batches(block)


def _lance() -> Any:
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise feelprint.Error(
            f"{error}: the search among so many tracks needs it: pip install 'feelprint[ray,lance]'"
        ) from error
    return lancedb


def _build_index(url: str, tracks: pyarrow.dataset.Dataset, count: int, state: str) -> None:
    """Make the Lance dataset `tracks` with an IVF index of the square root of `count` partitions,
    if it is not there for this `state` of the catalogue."""
    lancedb = _lance()
    database = lancedb.connect(url)
    schema = pa.schema([TRACKS.field("path"), TRACKS.field("embedding")], {"state": state})
    if "tracks" in database.list_tables().tables:
        table = database.open_table("tracks")
        is_of_state = (table.schema.metadata or {}).get(b"state") == state.encode()
        if is_of_state and table.list_indices():
            return
    batches = itertools.chain.from_iterable(it.to_batches() for it in _blocks(tracks))
    table = database.create_table("tracks", batches, schema, mode="overwrite")
    config = lancedb.index.IvfFlat(distance_type="l2", num_partitions=round(count**0.5))
    table.create_index("embedding", config=config)


def _search_index(
    url: str, queries: npt.NDArray[np.float32], n: int
) -> list[list[tuple[str, float]]]:
    """The paths and Euclidean distances of some near tracks of each query, nearest first."""
    table = _lance().connect(url).open_table("tracks")
    search = table.search(queries).limit(n).nprobes(PROBES).select(["path", "_distance"])
    rows = search.to_arrow()
    found: list[list[tuple[str, float]]] = [[] for _ in queries]
    # Without the column, there is one query.
    of = rows["query_index"].to_pylist() if "query_index" in rows.column_names else [0] * len(rows)
    distances = rows["_distance"].to_pylist()  # squared
    for query, path, square in zip(of, rows["path"].to_pylist(), distances, strict=True):
        found[query].append((path, square**0.5))
    return [sorted(row, key=lambda it: it[1]) for row in found]


def _recall(url: str, tracks: pyarrow.dataset.Dataset, count: int) -> float:
    """The recall@10 of the index for a sample of tracks: the part of their 10 nearest others by the
    exact search that it finds."""
    rows = np.linspace(0, tracks.count_rows() - 1, min(SAMPLE, count)).astype(np.int64)
    sample = tracks.take(np.unique(rows), columns=["embedding"])
    queries = _matrix(sample.filter(pc.is_valid(sample["embedding"])))
    n = min(11, count)  # with the track itself
    nearest = np.full((len(queries), n), np.inf, np.float32)
    for block in _blocks(tracks):
        _, distances = feelprint.nearest(_matrix(block), queries, n)
        nearest = np.sort(np.concatenate([nearest, distances], axis=1), axis=1)[:, :n]
    found = _search_index(url, queries, n)
    # By distance, so that it does not matter which of several equally near tracks is found. Lance
    # sums in another order.
    hits = [
        sum(distance <= limit + 1e-4 for _, distance in row)
        for row, limit in zip(found, nearest[:, -1].tolist(), strict=True)
    ]
    return float(np.mean([(it - 1) / (n - 1) for it in hits])) if n > 1 else 1.0
