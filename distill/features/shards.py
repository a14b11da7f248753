"""Shards of the cache: safetensors files with a checksum, whole or absent, read by slices."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

KINDS: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}  # of safetensors
EMPTY = "empty"  # name of the one array of a shard whose tracks were all left out


class CacheError(RuntimeError):
    """A cache that cannot be made or read."""


class LazyArray:
    """An array of a shard, (time, ...): read from the disk slice by slice, no file stays open."""

    def __init__(self, path: Path, kind: np.dtype[Any], shape: Sequence[int], offset: int):
        self.path, self.kind, self.shape, self.offset = path, kind, tuple(shape), offset
        self.row = int(np.prod(self.shape[1:]))  # values

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return len(self) * self.row * self.kind.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice) -> np.ndarray:
        start, stop, step = at.indices(len(self))
        if step != 1:
            raise IndexError(f"a shard is read in order, got the slice {at}")
        count = max(0, stop - start) * self.row
        offset = self.offset + start * self.row * self.kind.itemsize
        flat = np.fromfile(self.path, self.kind, count, offset=offset)
        if len(flat) != count:
            raise CacheError(f"{self.path} is cut short; run the cache stage again")
        return flat.reshape(-1, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


class Shard:
    """A shard: its arrays by name, and the tracks that were left out, with the reason.

    Raises CacheError where the file is missing, or its header is not one of `write_shard`.
    """

    def __init__(self, path: Path):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = os.fstat(file.fileno()).st_size
                if length > size:
                    raise ValueError(f"a header of {length} bytes in a file of {size}")
                header = json.loads(file.read(length))
            metadata = header.pop("__metadata__")
            self.crc32: str = metadata["crc32"]
            self.rejects: dict[str, str] = dict(json.loads(metadata["rejects"]))
            self.data = 8 + length  # where the arrays begin, bytes
            self.arrays: dict[str, LazyArray] = {}
            end = 0
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                start, stop = entry["data_offsets"]
                array = LazyArray(path, KINDS[entry["dtype"]], entry["shape"], self.data + start)
                if (start, stop) != (end, end + array.nbytes):
                    raise ValueError(f"{name} is not where it should be")
                self.arrays[name], end = array, stop
            if self.data + end != size:
                raise ValueError(f"{size} bytes instead of {self.data + end}")
        except FileNotFoundError:
            raise CacheError(f"{path} is missing; run the cache stage first") from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CacheError(f"{path} is damaged ({error}); run the cache stage again") from error


def is_valid(path: Path) -> bool:
    """Whether ``path`` holds a shard whose checksum is right."""
    try:
        shard = Shard(path)
    except CacheError:
        return False
    crc = 0
    with path.open("rb") as file:
        file.seek(shard.data)
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return shard.crc32 == str(crc)


def write_shard(path: Path, arrays: dict[str, np.ndarray], rejects: dict[str, str]) -> None:
    """Write a shard, whole or not at all. Raises CacheError where the disk does not take it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes an array's memory as it lies, whatever its strides
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    arrays = arrays or {EMPTY: np.zeros(1, np.uint8)}
    bare = save(arrays)
    crc = zlib.crc32(memoryview(bare)[8 + int.from_bytes(bare[:8], "little") :])
    whole = save(arrays, {"crc32": str(crc), "rejects": json.dumps(rejects)})
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise CacheError(f"cannot write {path}: {error.strerror}") from error
