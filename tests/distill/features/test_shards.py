"""Shards: whole or absent, and a damaged one is found wherever the damage is."""

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


def test_what_is_written_is_read_by_slices(path: Path) -> None:
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


def test_any_flipped_bit_is_found(path: Path) -> None:
    """Of every byte of the file, header and arrays, but for the words of a reject's reason."""
    whole = path.read_bytes()
    reason = whole.index(b"silent")
    passed = []
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        if is_valid(path):
            names = set(Shard(path).arrays)
            # another name for an array: `Job.is_made` knows which there must be
            if names == set(ARRAYS) and set(Shard(path).rejects) == {"c"}:
                passed.append(at)
                for name, want in ARRAYS.items():
                    assert np.array_equal(np.array(Shard(path).arrays[name]), want)
    assert set(passed) <= set(range(reason, reason + 6)), [whole[at - 9 : at + 9] for at in passed]


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1])
def test_a_cut_shard_is_found(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert not is_valid(path)
    with pytest.raises(CacheError, match="is damaged"):
        Shard(path)


def test_a_file_cut_while_it_is_read_is_an_error(path: Path) -> None:
    stored = Shard(path).arrays["b/mel"]
    os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(CacheError, match="cut short"):
        np.array(stored)


def test_a_missing_shard_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is missing; run the cache stage first"):
        Shard(tmp_path / "none")
    assert not is_valid(tmp_path / "none")


def test_a_shard_of_rejects_alone_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y"
    write_shard(path, {}, {"a": "not audio"})
    assert is_valid(path)
    assert Shard(path).rejects == {"a": "not audio"}


def test_a_disk_that_is_full_leaves_no_half(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=r"cannot write .*: No space left on device"):
        write_shard(path, {"a/mel": np.zeros(9, np.float16)}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_array_of_any_strides_is_written_as_it_reads(tmp_path: Path) -> None:
    turned = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    write_shard(tmp_path / "turned", {"a/mel": turned}, {})
    read = Shard(tmp_path / "turned").arrays["a/mel"]
    assert np.array_equal(read[:], turned)
