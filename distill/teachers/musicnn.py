"""The default teacher: the MSD_musicnn network of Pons and Serra, run in PyTorch.

Its weights are inside the PyPI wheel ``musicnn`` 0.1.0 (ISC licence), as a TensorFlow checkpoint.
The package itself requires TensorFlow 1; this module needs only the wheel: it checks the file's
hash, reads the checkpoint, and runs the network on log-mel patches.

Architecture: J. Pons and X. Serra, "musicnn: Pre-trained convolutional neural networks for
music audio tagging", arXiv:1909.06654.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config import TeacherConfig
from distill.teachers.base import LEVEL_DB, TeacherError
from distill.teachers.wheel import Wheel
from student.frontend import slaney_mel_filters

WHEEL = Wheel(
    "musicnn", "0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
)
NOTICE = (
    "Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019. Code developed by "
    "Jordi Pons (www.jordipons.me). "
    "Permission to use, copy, modify, and/or distribute this software for any purpose with or "
    "without fee is hereby granted, provided that the above copyright notice and this "
    "permission notice appear in all copies. "
    'THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO '
    "THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT "
    "SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR "
    "ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION "
    "OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE "
    "USE OR PERFORMANCE OF THIS SOFTWARE. "
)  # to be distributed with weights that were initialised from these
MODELS = ("MSD_musicnn", "MTT_musicnn")  # trained on the Million Song Dataset, on MagnaTagATune

SAMPLE_RATE = 16_000  # Hz
N_FFT = 512  # samples
HOP_LENGTH = 256  # samples
N_MELS = 96
PATCH_FRAMES = 187  # about 3 s, the length that the network was trained on
PATCH_SAMPLES = PATCH_FRAMES * HOP_LENGTH
FRAME_DIM = 753  # 561 front-end channels and three mid-end layers of 64
MEANS = slice(1, 2 * FRAME_DIM, 2)  # the pooled features alternate: maximum, mean
BATCH_NORM_EPS = 1e-3  # TensorFlow's default, not PyTorch's
CPU = torch.device("cpu")
ACTIVE_THRESHOLD = 1e-6  # a filter without a larger weight is inactive; active ones reach 0.07


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _table_block(data: bytes) -> list[tuple[bytes, bytes]]:
    """Entries of one LevelDB block: keys share prefixes with the key before."""
    n_restarts = struct.unpack("<I", data[-4:])[0]
    end = len(data) - 4 - 4 * n_restarts
    at, key, entries = 0, b"", []
    while at < end:
        shared, at = _varint(data, at)
        unshared, at = _varint(data, at)
        length, at = _varint(data, at)
        key = key[:shared] + data[at : at + unshared]
        at += unshared
        entries.append((key, data[at : at + length]))
        at += length
    return entries


def _proto(data: bytes) -> dict[int, list[int | bytes]]:
    """Fields of a protocol buffer message, by number."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif tag & 7 == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise TeacherError(f"unexpected wire type {tag & 7} in the checkpoint's index")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def read_checkpoint(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Float32 variables of a TensorFlow checkpoint of one shard, by name.

    ``index`` is an uncompressed LevelDB table whose values are BundleEntryProto messages
    (1 dtype, 2 shape, 4 offset, 5 size); ``data`` holds the raw little-endian values.
    """
    footer = index[-48:]
    at = 0
    _, at = _varint(footer, at)  # metaindex block: offset
    _, at = _varint(footer, at)  # and size, not needed
    offset, at = _varint(footer, at)
    size, at = _varint(footer, at)
    variables: dict[str, np.ndarray] = {}
    for _, handle in _table_block(index[offset : offset + size]):
        block_offset, at = _varint(handle, 0)
        block_size, at = _varint(handle, at)
        for key, value in _table_block(index[block_offset : block_offset + block_size]):
            entry = _proto(value)
            if not key or entry.get(1) != [1]:  # the header, or not float32
                continue
            dims = _proto(entry[2][0]).get(2, []) if entry.get(2) else []  # type: ignore[arg-type]
            shape = [int(_proto(dim).get(1, [0])[0]) for dim in dims]  # type: ignore[arg-type]
            start = int(entry.get(4, [0])[0])
            stop = start + int(entry[5][0])
            variables[key.decode()] = np.frombuffer(data[start:stop], "<f4").reshape(shape)
    return variables


class MusicnnNetwork(nn.Module):
    """Log-mel patches (batch, frames, 96) to frame features, pooled features and tags."""

    def __init__(self, variables: dict[str, np.ndarray], device: torch.device):
        super().__init__()
        tensors = {name: torch.from_numpy(v.copy()) for name, v in variables.items()}
        self.variables = {name: tensor.to(device) for name, tensor in tensors.items()}

    def affine(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch norm ``number`` with its trained statistics, as a scale and a shift (channels,)."""
        name = "batch_normalization" + (f"_{number}" if number else "")
        v = self.variables
        scale = v[f"{name}/gamma"] / torch.sqrt(v[f"{name}/moving_variance"] + BATCH_NORM_EPS)
        return scale, v[f"{name}/beta"] - v[f"{name}/moving_mean"] * scale

    def _norm(self, number: int, x: Tensor) -> Tensor:
        """Batch norm ``number`` over the channels, axis 1."""
        scale, shift = self.affine(number)
        shape = [1, -1] + [1] * (x.dim() - 2)
        return x * scale.view(shape) + shift.view(shape)

    def filters(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Convolution ``number``: weight of its active filters, bias and mask of all filters.

        Most filters have weights of about 1e-30, so that their output is their bias whatever the
        input. Only the active ones are convolved: the same result in a tenth of the time.
        """
        name = "conv2d" + (f"_{number}" if number else "")
        kernel, bias = self.variables[f"{name}/kernel"], self.variables[f"{name}/bias"]
        weight = kernel.squeeze(2).permute(2, 1, 0)  # (filters, mels or channels, frames)
        active = weight.abs().amax(dim=(1, 2)) > ACTIVE_THRESHOLD
        return weight[active].contiguous(), bias, active

    def _activate(self, y: Tensor, number: int, bias: Tensor, active: Tensor) -> Tensor:
        """Active filters' output (..., active, frames) -> all filters, after ReLU and norm."""
        shape = (*y.shape[:-2], len(bias), y.shape[-1])
        all_filters = bias.unsqueeze(1).expand(shape).clone()
        all_filters[..., active, :] = y
        return self._norm(number + 1, F.relu_(all_filters))

    def _timbral(self, x: Tensor, number: int) -> Tensor:
        """Vertical filters (7 frames, k mels), max over frequency: (batch, 204, frames)."""
        weight, bias, active = self.filters(number)  # (active, k, 7)
        bands = x.unfold(1, weight.shape[1], 1)  # (batch, positions, frames, k)
        batch, positions, frames, k = bands.shape
        # each position along frequency is one more item of the batch: a plain 1-D convolution
        bands = bands.permute(0, 1, 3, 2).reshape(batch * positions, k, frames)
        y = F.conv1d(bands, weight, bias[active], padding=3).view(batch, positions, -1, frames)
        return self._pool_frequency(y, number, bias, active)

    def _temporal(self, x: Tensor, number: int) -> Tensor:
        """Horizontal filters (k frames, 1 mel), max over frequency: (batch, 51, frames)."""
        weight, bias, active = self.filters(number)  # (active, 1, k)
        batch, n_mels, frames = x.shape
        k = weight.shape[2]
        rows = F.pad(x.reshape(batch * n_mels, 1, frames), ((k - 1) // 2, k // 2))
        y = F.conv1d(rows, weight, bias[active]).view(batch, n_mels, -1, frames)
        return self._pool_frequency(y, number, bias, active)

    def _pool_frequency(self, y: Tensor, number: int, bias: Tensor, active: Tensor) -> Tensor:
        """(batch, positions, active, frames) -> (batch, filters, frames).

        The network rectifies, normalises, then takes the maximum over frequency. Both steps
        before the maximum are monotonic in each filter, so the maximum comes first here (the
        minimum, where the normalisation's scale is negative).
        """
        falls = self.variables[f"batch_normalization_{number + 1}/gamma"][active] < 0
        pooled = y.amax(dim=1)
        pooled[:, falls] = y[:, :, falls].amin(dim=1)
        return self._activate(pooled, number, bias, active)

    def _midend(self, x: Tensor, number: int) -> Tensor:
        weight, bias, active = self.filters(number)
        return self._activate(F.conv1d(x, weight, bias[active], padding=3), number, bias, active)

    def frames(self, log_mel: Tensor) -> Tensor:
        """(batch, frames, 96) -> the features of every frame, (batch, 753, frames)."""
        x = self._norm(0, log_mel.unsqueeze(1)).squeeze(1).transpose(1, 2)  # (batch, 96, frames)
        front = [self._timbral(x, 0), self._timbral(x, 1)]
        front += [self._temporal(x, number) for number in (2, 3, 4)]
        features = torch.cat(front, dim=1)  # (batch, 561, frames)
        mid1 = self._midend(features, 5)
        mid2 = self._midend(mid1, 6) + mid1
        mid3 = self._midend(mid2, 7) + mid2
        return torch.cat([features, mid1, mid2, mid3], dim=1)

    @staticmethod
    def pool(frames: Tensor) -> Tensor:
        """(batch, 753, frames) -> max and mean over time, in pairs: (batch, 1506)."""
        return torch.stack([frames.amax(dim=2), frames.mean(dim=2)], dim=2).flatten(1)

    def tags(self, pooled: Tensor) -> Tensor:
        """(batch, 1506) -> probabilities of the 50 MSD tags."""
        v = self.variables
        # TensorFlow flattens (max ‖ mean) on the last axis: the same pairs
        x = self._norm(9, pooled)
        x = self._norm(10, F.relu(x @ v["dense/kernel"] + v["dense/bias"]))
        return torch.sigmoid(x @ v["dense_1/kernel"] + v["dense_1/bias"])


def log_mel(audio: Tensor) -> Tensor:
    """16 kHz audio (batch, samples) -> (batch, frames, 96), frames centred on every 256th sample.

    librosa's power mel spectrogram (Slaney scale and norm), then ``log10(10000 x + 1)``.
    """
    window = torch.hann_window(N_FFT, device=audio.device)
    padded = F.pad(audio, (N_FFT // 2, N_FFT // 2))
    spectrum = torch.stft(
        padded, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()  # (batch, bins, frames)
    filters = torch.from_numpy(slaney_mel_filters(SAMPLE_RATE, N_FFT, N_MELS)).to(audio.device)
    return torch.log10(10_000 * (filters @ power) + 1).transpose(1, 2)


def checkpoint(folder: Path, model: str = MODELS[0]) -> tuple[bytes, bytes]:
    """Index and data of a model's checkpoint; the wheel is fetched into ``folder`` if needed."""
    with zipfile.ZipFile(WHEEL.fetch(folder)) as wheel:
        names = (f"musicnn/{model}/{end}" for end in (".index", ".data-00000-of-00001"))
        index, data = (wheel.read(name) for name in names)
    return index, data


def load_network(
    folder: Path, device: torch.device = CPU, model: str = MODELS[0]
) -> MusicnnNetwork:
    """The network with the weights of ``model``, one of MODELS, from the wheel in ``folder``."""
    variables = read_checkpoint(*checkpoint(folder, model))
    wanted = {n: v for n, v in variables.items() if "Adam" not in n and "_power" not in n}
    return MusicnnNetwork(wanted, device).eval()


class Musicnn:
    """musicnn: the 753 features of its frames, their maximum and mean over a 3 s patch."""

    model = MODELS[0]
    revision = WHEEL.sha256[:16]
    licence = "ISC"
    sample_rate = SAMPLE_RATE
    window = PATCH_SAMPLES - 1  # frames are centred: 187 of them
    dim = 2 * FRAME_DIM
    level_db = LEVEL_DB

    def __init__(self, config: TeacherConfig, device: torch.device = CPU):
        if config.layers:
            raise TeacherError(f"musicnn takes no layers, got {list(config.layers)}")
        self.device, self.name = device, self.model
        folder = Path(config.path or "data/teacher")
        self.network = load_network(folder, device, self.model)

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on."""
        return {"name": self.name, "revision": self.revision, "window": self.window}

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, 1506) float32, on the CPU."""
        mel = log_mel(windows.to(self.device))
        return self.network.pool(self.network.frames(mel)).cpu()


class MusicnnMtt(Musicnn):
    """musicnn as trained on MagnaTagATune; the same shape and licence."""

    model = MODELS[1]


class MusicnnTags(Musicnn):
    """The logits of MSD_musicnn's 50 tags: a small space in which genres and moods are apart."""

    dim = 50

    def __init__(self, config: TeacherConfig, device: torch.device = CPU):
        super().__init__(config, device)
        self.name = f"{self.model}_tags"

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, 50) float32, on the CPU."""
        pooled = super().__call__(windows).to(self.device)
        return self.network.tags(pooled).logit(eps=1e-6).cpu()
