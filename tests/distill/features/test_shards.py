"""Shards: complete or absent, and damage is detected at every byte."""

import os
from pathlib import Path

import numpy as np
import pytest

from distill.features.shards import CacheError, Shard, is_valid, write_shard

ARRAYS = {
    "a/mel": np.arange(5 * 3 * 2, dtype=np.float16).reshape(5, 3, 2),
    "a/nonsilent_ratio": np.array([1, 1, 0, 1, 1], np.uint8),
    "b/mel": np.zeros((2, 3, 2), np.float16),
    "b/nonsilent_ratio": np.array([0, 1], np.uint8),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "teacher-1" / "shard.safetensors"
    write_shard(made, ARRAYS, {"c": "silent"})
    return made


def test_arrays_are_read_by_slices(path: Path) -> None:
    shard = Shard(path)
    assert is_valid(path)
    assert shard.rejects == {"c": "silent"}
    assert set(shard.arrays) == set(ARRAYS)
    for name, want in ARRAYS.items():
        stored = shard.arrays[name]
        assert len(stored) == len(want)
        assert np.array_equal(np.array(stored), want)
        for at in (slice(1, 4), slice(0, 0), slice(4, 99), slice(-2, None)):
            assert np.array_equal(stored[at], want[at])
            assert stored[at].dtype == want.dtype
    with pytest.raises(IndexError):
        shard.arrays["a/mel"][::2]


def test_a_shard_is_a_safetensors_file(path: Path) -> None:
    from safetensors.numpy import load_file

    for name, array in load_file(path).items():
        assert np.array_equal(array, ARRAYS[name])


def test_reading_keeps_no_file_open(path: Path) -> None:
    arrays = [Shard(path).arrays["a/mel"] for _ in range(50)]
    before = len(os.listdir("/proc/self/fd"))
    kept = [array[:2] for array in arrays]
    assert len(kept) == 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_any_flipped_bit_is_detected(path: Path) -> None:
    """In every byte of the file, header and arrays, except the text of a reason."""
    original = path.read_bytes()
    reason = original.index(b"silent")
    passed = []
    for at in range(len(original)):
        damaged = bytearray(original)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        if is_valid(path):
            names = set(Shard(path).arrays)
            # another name for an array: `ShardJob.is_complete` knows the expected names
            if names == set(ARRAYS) and set(Shard(path).rejects) == {"c"}:
                passed.append(at)
                for name, want in ARRAYS.items():
                    assert np.array_equal(np.array(Shard(path).arrays[name]), want)
    assert set(passed) <= set(range(reason, reason + 6)), [
        original[at - 9 : at + 9] for at in passed
    ]


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1])
def test_a_truncated_shard_is_detected(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert not is_valid(path)
    with pytest.raises(CacheError, match="is damaged"):
        Shard(path)


def test_a_file_truncated_after_it_was_opened_is_an_error(path: Path) -> None:
    stored = Shard(path).arrays["b/mel"]
    os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(CacheError, match="truncated"):
        np.array(stored)


def test_an_array_whose_file_is_gone_is_an_error(path: Path) -> None:
    stored = Shard(path).arrays["b/mel"]
    path.unlink()
    with pytest.raises(CacheError, match="is missing or truncated"):
        stored[:1]


def test_a_missing_shard_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is missing; run the cache stage first"):
        Shard(tmp_path / "none")
    assert not is_valid(tmp_path / "none")


def test_a_shard_of_rejects_alone_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y"
    write_shard(path, {}, {"a": "not audio"})
    assert is_valid(path)
    assert Shard(path).rejects == {"a": "not audio"}


def test_a_full_disk_leaves_the_old_shard(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=r"cannot write .*: No space left on device"):
        write_shard(path, {"a/mel": np.zeros(9, np.float16)}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_array_of_any_strides_is_written_as_it_reads(tmp_path: Path) -> None:
    transposed = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    write_shard(tmp_path / "transposed", {"a/mel": transposed}, {})
    read = Shard(tmp_path / "transposed").arrays["a/mel"]
    assert np.array_equal(read[:], transposed)
