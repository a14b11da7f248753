"""Shards of the cache: safetensors files with a checksum, complete or absent, read by slices."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from datasets_scripts.files import atomic_path

EMPTY = "empty"  # name of the one array of a shard whose tracks were all skipped


class CacheError(RuntimeError):
    """A cache that cannot be made or read."""


def _open(path: Path) -> Any:
    """Open a safetensors file with `pread`: a truncated memory map would kill the process."""
    return safe_open(path, "np", backend="pread")


class LazyArray:
    """An array of a shard, (time, ...): each slice is read from the disk; no file stays open."""

    def __init__(self, path: Path, name: str, shape: Sequence[int]):
        self.path, self.name, self.shape = path, name, tuple(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice) -> np.ndarray:
        start, stop, step = at.indices(len(self))
        if step != 1:
            raise IndexError(f"an array of a shard is read by slices of step 1, got {at}")
        if stop <= start:  # safetensors refuses an empty slice at the end
            start = stop = 0
        try:
            with _open(self.path) as file:
                return file.get_slice(self.name)[start:stop]
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"{self.path} is missing or truncated ({error}); run the cache stage again"
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


class Shard:
    """A shard: its arrays by name, and the tracks that were skipped, each with the reason.

    Raises CacheError where the file is missing, or is not one that `write_shard` wrote.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise CacheError(f"{path} is missing; run the cache stage first")
        try:
            with _open(path) as file:
                metadata = file.metadata()
                self.crc32: str = metadata["crc32"]
                self.rejects: dict[str, str] = dict(json.loads(metadata["rejects"]))
                self.arrays = {
                    name: LazyArray(path, name, file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118 (not a mapping)
                }
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{path} is damaged ({error}); run the cache stage again") from error


def is_valid(path: Path) -> bool:
    """Whether ``path`` holds a shard whose checksum is right."""
    try:
        shard = Shard(path)
    except CacheError:
        return False
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), 1)  # the header, whose length leads
        crc = 0
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return shard.crc32 == str(crc)


def write_shard(path: Path, arrays: dict[str, np.ndarray], rejects: dict[str, str]) -> None:
    """Write a shard, completely or not at all. Raises CacheError where the disk is full."""
    # safetensors writes an array's memory in the order it has there, whatever its strides
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    arrays = arrays or {EMPTY: np.zeros(1, np.uint8)}
    bare = save(arrays)
    crc = zlib.crc32(memoryview(bare)[8 + int.from_bytes(bare[:8], "little") :])
    shard = save(arrays, {"crc32": str(crc), "rejects": json.dumps(rejects)})
    try:
        with atomic_path(path) as part:
            part.write_bytes(shard)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror}") from error
