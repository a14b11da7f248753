"""VibeNet: its front end against librosa, its errors, and, where the wheel is, its embeddings."""

import zipfile
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from distill.config import TeacherConfig
from distill.teachers import vibenet
from distill.teachers.base import TeacherError
from distill.teachers.vibenet import VibeNet, log_mel
from tests.tones import melody


def test_the_log_mel_is_librosas() -> None:
    audio = melody(0, 0, 3.0)[: 2 * vibenet.SAMPLE_RATE]
    power = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=1_024, hop_length=320, win_length=640, center=False, n_mels=128
    )
    ours = log_mel(audio)
    # librosa centres the window of 640 in the frame of 1,024: ours starts 192 samples later
    shifted = log_mel(audio[192:])[:, : power.shape[1]]
    theirs = librosa.power_to_db(power, ref=1.0, top_db=80.0)
    assert ours.shape == (128, (len(audio) - 640) // 320 + 1)
    assert np.abs(shifted - theirs).max() < 0.05


def test_a_file_that_is_not_the_wheel_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / vibenet.WHEEL.filename, "w") as archive:
        archive.writestr(vibenet.MODEL, b"")
    with pytest.raises(TeacherError, match=r"SHA-256 .* expected 3474fd65"):
        VibeNet(TeacherConfig("vibenet", str(tmp_path)), torch.device("cpu"))


def test_it_takes_no_layers(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"takes no layers, got \[3\]"):
        VibeNet(TeacherConfig("vibenet", str(tmp_path), layers=(3,)), torch.device("cpu"))


@pytest.mark.slow
def test_the_embedding_is_of_each_window_alone(vibenet_wheel: Path) -> None:
    teacher = VibeNet(TeacherConfig("vibenet", str(vibenet_wheel)), torch.device("cpu"))
    windows = torch.from_numpy(np.stack([melody(n, 0, 4.0)[:64_000] for n in range(2)]))
    both = teacher(windows)
    assert both.shape == (2, 256) and both.dtype == torch.float32
    assert torch.equal(teacher(windows[1:]), both[1:])
    assert not torch.allclose(both[0], both[1], atol=0.1)
