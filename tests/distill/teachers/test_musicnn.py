"""The default teacher's port: against float64 numpy, and the reading of its checkpoint."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config import TeacherConfig
from distill.teachers import musicnn
from distill.teachers.base import TeacherError
from distill.teachers.registry import load_teacher
from student import FeelprintConfig
from tests.distill.teachers.musicnn_reference import REFERENCE, known_audio


@pytest.fixture(scope="module")
def network(wheel_folder: Path) -> musicnn.MusicnnNetwork:
    return musicnn.load_network(wheel_folder)


@pytest.fixture(scope="module")
def log_mel() -> torch.Tensor:
    return musicnn.log_mel(torch.from_numpy(known_audio())[None])


@torch.inference_mode()
def test_the_port_computes_what_the_network_computes(
    network: musicnn.MusicnnNetwork, log_mel: torch.Tensor
) -> None:
    reference = np.load(REFERENCE)
    assert log_mel.shape == (1, 187, 96)
    assert np.abs(log_mel[0, ::17].numpy() - reference["log_mel"]).max() < 1e-4
    pooled = network.pool(network.frames(log_mel))
    assert np.abs(pooled[0].numpy() - reference["pooled"]).max() < 2e-3
    assert np.abs(network.tags(pooled)[0].numpy() - reference["tags"]).max() < 1e-4
    # the reference is not all zeros
    assert reference["pooled"].std() > 0.1
    assert reference["tags"].max() > 0.05


@torch.inference_mode()
def test_omitting_inactive_filters_changes_nothing(
    network: musicnn.MusicnnNetwork, log_mel: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = sum(int(network.filters(number)[2].sum()) for number in range(8))
    omitted = network.frames(log_mel)
    monkeypatch.setattr(musicnn, "ACTIVE_THRESHOLD", -1.0)  # every filter is active
    total = sum(int(network.filters(number)[2].sum()) for number in range(8))
    assert active < total / 2
    assert (network.frames(log_mel) - omitted).abs().max() < 1e-4


@torch.inference_mode()
def test_the_minimum_is_pooled_where_a_norm_reverses_the_order(
    network: musicnn.MusicnnNetwork, log_mel: torch.Tensor
) -> None:
    """Gammas made negative: pooling before the norm must still equal pooling after it."""
    v = network.variables
    turned = musicnn.MusicnnNetwork({name: t.numpy() for name, t in v.items()}, musicnn.CPU)
    turned.variables["batch_normalization_1/gamma"] *= -1
    x = turned._norm(0, log_mel.unsqueeze(1)).squeeze(1).transpose(1, 2)  # (batch, 96, frames)
    # the definition: convolve, rectify, normalise, then the maximum over frequency
    kernel = v["conv2d/kernel"].permute(3, 2, 1, 0)  # (filters, 1, mels, frames)
    y = torch.conv2d(x.unsqueeze(1), kernel, v["conv2d/bias"], padding=(0, 3))
    want = turned._norm(1, torch.relu(y)).amax(dim=2)
    assert (turned._timbral(x, 0) - want).abs().max() < 1e-4


def test_a_batch_is_its_windows(wheel_folder: Path) -> None:
    teacher = load_teacher(TeacherConfig(path=str(wheel_folder)), FeelprintConfig())
    windows = torch.from_numpy(np.stack([known_audio(), known_audio()[::-1].copy()]))
    both = teacher(windows)
    assert both.shape == (2, teacher.dim) == (2, 1506)
    assert teacher.window == windows.shape[1]
    assert (both[1:] - teacher(windows[1:])).abs().max() < 1e-4
    assert (both[0] - both[1]).abs().max() > 0.1


def test_musicnn_takes_no_layers(wheel_folder: Path) -> None:
    with pytest.raises(TeacherError, match="takes no layers"):
        load_teacher(TeacherConfig(path=str(wheel_folder), layers=(3,)), FeelprintConfig())


def test_a_wheel_of_another_hash_is_not_used(tmp_path: Path) -> None:
    wheel = tmp_path / musicnn.WHEEL.filename
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(TeacherError, match=r"expected f38a4890.*delete it and run again"):
        musicnn.load_network(tmp_path)
    assert wheel.exists()  # left for inspection


def test_a_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(TeacherError, match=f"or copy {musicnn.WHEEL.filename} into"):
        musicnn.WHEEL.fetch(tmp_path / "new")


# --- the checkpoint ------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bit by bit in a table."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def test_every_small_variable_has_the_checksum_that_tensorflow_wrote(wheel_folder: Path) -> None:
    """The index holds a CRC of each variable's bytes: offsets and sizes are read right."""
    index, data = musicnn.checkpoint(wheel_folder)
    variables = musicnn.read_checkpoint(index, data)
    assert variables["conv2d/kernel"].shape == (7, 38, 1, 204)
    assert variables["dense_1/kernel"].shape == (200, 50)
    checked = 0
    for name, value in variables.items():
        raw = value.tobytes()
        if len(raw) > 4_096 or "Adam" in name:
            continue
        crc = crc32c(raw)
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF  # as LevelDB stores a CRC
        assert struct.pack("<I", masked) in index, name
        checked += 1
    assert checked > 50


def varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB block whose keys share what they can with the one before."""
    made, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        made += varint(shared) + varint(len(key) - shared) + varint(len(value))
        made += key[shared:] + value
        before = key
    return made + struct.pack("<II", 0, 1)  # one restart


def test_a_checkpoint_is_read_by_its_format() -> None:
    values = {
        b"layer/bias": np.arange(3, dtype="<f4"),
        b"layer/kernel": np.arange(200, dtype="<f4").reshape(2, 100) / 7,
        b"layer/scalar": np.array(2.5, dtype="<f4"),
    }
    data, entries = b"", [(b"", field(1, 1))]  # the header has an empty name
    for name, value in values.items():
        shape = b"".join(field(2, field(1, size)) for size in value.shape)
        entry = field(1, 1) + field(2, shape) + field(4, len(data)) + field(5, value.nbytes)
        entries.append((name, entry + varint(6 << 3 | 5) + b"\0\0\0\0"))
        data += value.tobytes()
    step = field(1, 9) + field(2, b"") + field(4, len(data)) + field(5, 8)  # an int64: skipped
    entries.append((b"step", step))
    table = block(entries)
    root = block([(b"zzz", varint(0) + varint(len(table)))])
    footer = varint(0) + varint(0) + varint(len(table)) + varint(len(root))
    index = table + root + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    read = musicnn.read_checkpoint(index, data + bytes(8))
    assert list(read) == [name.decode() for name in values]
    for name, value in values.items():
        assert np.array_equal(read[name.decode()], value)
        assert read[name.decode()].shape == value.shape


def test_the_network_trained_on_magnatagatune_is_another_of_the_same_shape(
    wheel_folder: Path,
) -> None:
    teachers = [
        load_teacher(TeacherConfig(name, str(wheel_folder)), FeelprintConfig())
        for name in ("musicnn", "musicnn-mtt")
    ]
    noise = torch.randn(1, teachers[0].window, generator=torch.Generator().manual_seed(0)) * 0.1
    msd, mtt = (teacher(noise) for teacher in teachers)
    assert msd.shape == mtt.shape == (1, teachers[1].dim)
    assert (msd - mtt).abs().max() > 0.1
    assert [teacher.name for teacher in teachers] == ["MSD_musicnn", "MTT_musicnn"]
    assert teachers[0].key() != teachers[1].key()
