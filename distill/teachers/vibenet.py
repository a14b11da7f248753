"""VibeNet: an EfficientNet distilled on the Free Music Archive towards perceptual attributes.

PyPI `vibenet` 0.1.0: code and weights are GPL-3.0-or-later. They are fetched with a checksum and
never shipped; a student learns from the outputs alone.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import onnx
import onnxruntime
import scipy.fft
import torch
from torch import Tensor

from distill.config import TeacherConfig
from distill.teachers.base import TeacherError
from distill.teachers.wheel import Wheel

WHEEL = Wheel(
    "vibenet", "0.1.0", "3474fd65a9723f0f58f511e77d1641ea937f11b8d75e906bcda2da9cad3094f5"
)
MODEL = "vibenet/artifacts/efficientnet_model.onnx"  # inside the wheel
TRUNK = "gelu"  # (batch, 256), the tensor before the seven heads
SAMPLE_RATE = 16_000  # Hz
N_FFT, FRAME, HOP = 1_024, 640, 320  # samples
N_MELS = 128  # of 0 to 8 kHz
RANGE_DB = 80.0  # below the loudest bin; what is quieter is clipped


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Audio (samples,) at 16 kHz, a frame or more -> dB-scaled mel power (128, frames) float32."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float32), FRAME)[::HOP]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)
    power = np.square(np.abs(scipy.fft.rfft(frames * hann, n=N_FFT, axis=1)))
    filters = librosa.filters.mel(
        sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=0.0, fmax=SAMPLE_RATE / 2
    )
    decibel = 10 * np.log10(np.maximum(filters @ power.T, 1e-10))
    return np.maximum(decibel, decibel.max() - RANGE_DB).astype(np.float32)


class VibeNet:
    """The 256 values of the trunk, over windows of 18.4 s (six segments of three windows)."""

    name = "vibenet"
    revision = WHEEL.sha256[:16]
    licence = "GPL-3.0-or-later"
    sample_rate = SAMPLE_RATE
    window = round(18.4 * SAMPLE_RATE)  # samples: it agrees more with ratings the longer they are
    dim = 256
    level_db = -20.0  # valence agrees more with ratings than at -13 dB

    def __init__(self, config: TeacherConfig, device: torch.device):
        if config.layers:
            raise TeacherError(f"vibenet takes no layers, got {list(config.layers)}")
        wheel = WHEEL.fetch(Path(config.path or "data/teacher"))
        try:
            with zipfile.ZipFile(wheel) as archive:
                model = onnx.load_from_string(archive.read(MODEL))
        except (KeyError, zipfile.BadZipFile) as error:
            raise TeacherError(f"{wheel} holds no {MODEL}: {error}") from error
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(TRUNK, onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on."""
        return {"name": self.name, "revision": self.revision, "window": self.window}

    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, 256) float32, on the CPU."""
        # the graph reshapes to a batch of one, so that clips are passed one by one
        made = [
            self.session.run([TRUNK], {"x": log_mel(window.numpy())[None]})[0][0]
            for window in windows.cpu()
        ]
        return torch.from_numpy(np.stack(made))
