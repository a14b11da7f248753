"""Audio to log-mel, as plain convolutions that every runtime executes fast.

A DFT of ``n_fft`` samples is factorised in two (Cooley and Tukey, 1965). With the samples of a
frame written as R rows of C = 32, ``n = C r + c`` and ``n_fft = C R``::

    X[k] = sum_c exp(-2 pi i c k / n_fft) Y_c[k mod R]
    Y_c[q] = sum_r x[C r + c] w[C r + c] exp(-2 pi i r q / R)

The first stage is a convolution along the rows for each column c, whose stride is the hop: no
framing operation is needed. The second is a 1 x 1 convolution with R / 2 groups (one per residue q;
the residues above R / 2 are complex conjugates of those below).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from student.config import DFT_RADIX, FeelprintConfig

POWER_EPS = 1e-20  # keeps the division finite for a silent window; far below any real power
SILENCE_RATIO = 0.01  # of the floor: a frame whose loudest mel is below this is silent
# weight of a silent frame in a mean: vanishes in float32 beside any other frame, and makes a
# fully silent window a plain mean
MASK_EPS = 1e-30
# louder samples count as zero, as NaN and infinity do: their power would not fit float32
MAX_SAMPLE = 1e15


def slaney_mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> np.ndarray:
    """Triangular mel filters, Slaney's scale and area norm: (n_mels, n_fft // 2 + 1), float32.

    The scale is linear (200/3 Hz per mel) below 1 kHz and logarithmic (27 mels for a factor of
    6.4) above it; each triangle is divided by half its width in Hz. Source: M. Slaney,
    "Auditory Toolbox", 1998; the same as librosa's default. Computed in float64:
    torchaudio.functional.melscale_fbanks works in float32 and differs by 4e-6 of the maximum.
    """
    linear_hz, knee_hz, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27
    knee_mel = knee_hz / linear_hz

    def to_mel(hz: float) -> float:
        if hz < knee_hz:
            return hz / linear_hz
        return float(knee_mel + np.log(hz / knee_hz) / log_step)

    f_max = sample_rate / 2 if f_max is None else f_max
    mels = np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)
    edges_hz = np.where(
        mels < knee_mel, mels * linear_hz, knee_hz * np.exp(log_step * (mels - knee_mel))
    )
    bins_hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    norm = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (triangles * norm[:, None]).astype(np.float32)


def hann_window(n_fft: int) -> np.ndarray:
    """Periodic Hann window whose values sum to one, float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window / window.sum()


class MelPower(nn.Module):
    """Windows of audio (batch, window_length) -> mel power (batch, n_mels, window_frames).

    Frame f is centred on the f-th hop of its own window and zero-padded at the window's edges, so
    that windows are independent.
    """

    rows_dft: Tensor
    columns_dft: Tensor
    mel: Tensor

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.config = config
        n_fft, rows = config.n_fft, config.n_fft // DFT_RADIX
        top_bin = config.f_max * n_fft / config.sample_rate
        # bands of `rows` bins each, as many as reach f_max, at most up to Nyquist
        self.bands = min(int(np.ceil((top_bin + 1) / rows)), DFT_RADIX // 2)
        self.register_buffer("rows_dft", self._rows_dft(rows), persistent=False)
        columns, bins = self._columns_dft(rows)
        self.register_buffer("columns_dft", columns, persistent=False)
        filters = slaney_mel_filters(
            config.sample_rate, n_fft, config.n_mels, config.f_min, config.f_max
        )
        mel = torch.from_numpy(filters[:, bins])[:, :, None, None].contiguous()
        self.register_buffer("mel", mel, persistent=False)

    def _rows_dft(self, rows: int) -> Tensor:
        """Weights of the first stage, (columns * rows, 1, 1, rows): column, residue, part.

        Residues 0 and R / 2 are real: the two share one complex slot.
        """
        window = hann_window(self.config.n_fft).reshape(rows, DFT_RADIX)  # (row, column)
        half, r = rows // 2, np.arange(rows)
        weights = np.zeros((DFT_RADIX, half, 2, rows))
        for q in range(1, half):
            angle = 2 * np.pi * r * q / rows
            weights[:, q, 0] = np.cos(angle) * window.T
            weights[:, q, 1] = -np.sin(angle) * window.T
        weights[:, 0, 0] = window.T
        weights[:, 0, 1] = np.cos(np.pi * r) * window.T
        return torch.from_numpy(weights.reshape(DFT_RADIX * rows, 1, 1, rows)).float()

    def _columns_dft(self, rows: int) -> tuple[Tensor, np.ndarray]:
        """Weights of the second stage, and the bin that each of its outputs belongs to.

        Group q computes the bins q + R m and R (m + 1) - q; group 0 the bins R m and R / 2 + R m.
        In each group all real parts come first, then all imaginary parts.
        """
        half, n_fft, c = rows // 2, self.config.n_fft, np.arange(DFT_RADIX)
        weights = np.zeros((half, 2, 2 * self.bands, DFT_RADIX, 2))
        real, imaginary = weights[:, 0], weights[:, 1]
        bins = np.zeros((half, 2 * self.bands), dtype=np.int64)
        for q in range(half):
            for m in range(self.bands):
                below, above = (
                    (rows * m, half + rows * m)
                    if q == 0
                    else (
                        q + rows * m,
                        rows * (m + 1) - q,
                    )
                )
                for slot, (k, mirrored) in enumerate(((below, False), (above, True))):
                    at = 2 * m + slot
                    bins[q, at] = k
                    cos, sin = np.cos(2 * np.pi * c * k / n_fft), np.sin(2 * np.pi * c * k / n_fft)
                    if q == 0:  # the two real residues: 0 gives `below`, R / 2 gives `above`
                        real[q, at, :, slot], imaginary[q, at, :, slot] = cos, -sin
                        continue
                    sign = -1.0 if mirrored else 1.0  # conjugate
                    real[q, at, :, 0], real[q, at, :, 1] = cos, sign * sin
                    imaginary[q, at, :, 0], imaginary[q, at, :, 1] = -sin, sign * cos
        shape = (half * 4 * self.bands, 2 * DFT_RADIX, 1, 1)
        return torch.from_numpy(weights.reshape(shape)).float(), bins.reshape(-1)

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (batch, window_length) -> mel power (batch, n_mels, window_frames)."""
        cfg = self.config
        rows = cfg.n_fft // DFT_RADIX
        pad = (cfg.n_fft - cfg.hop_length) // 2 // DFT_RADIX
        # all windows form one image, one window per line: few large products, not many small ones
        x = (
            windows.reshape(-1, DFT_RADIX)
            .t()
            .reshape(1, DFT_RADIX, -1, cfg.window_length // DFT_RADIX)
        )
        # a convolution for each column, not one of 32 groups: onnxruntime has a faster kernel
        columns = [
            nn.functional.conv2d(
                column, weight, stride=(1, cfg.hop_length // DFT_RADIX), padding=(0, pad)
            ).view(rows // 2, 1, 2, -1, cfg.window_frames)
            for column, weight in zip(x.split(1, dim=1), self.rows_dft.split(rows), strict=True)
        ]  # (residue, 1, part, window, frame)
        y = torch.cat(columns, dim=1).reshape(1, DFT_RADIX * rows, -1, cfg.window_frames)
        parts = nn.functional.conv2d(y, self.columns_dft, groups=rows // 2)
        squares = (parts * parts).view(rows // 2, 2, 2 * self.bands, -1)  # residue, part, bin
        power = squares.sum(dim=1).view(1, -1, *parts.shape[2:])  # (1, bin, window, frame)
        return nn.functional.conv2d(power, self.mel).squeeze(0).transpose(0, 1)


class LogMel(nn.Module):
    """Windows (batch, window_length) -> log-mel (batch, n_mels, frames), non-silent ratio (batch,).

    The mel power is divided by its mean over the non-silent frames, so that neither a gain nor
    zeros at the end of a track change the other frames. The log-mel is log(power + ``floor``), so
    that power far below the floor, such as codec noise and dither, hardly changes it.
    ``nonsilent_ratio`` is the share of a window's frames that are not silent.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.mel_power = MelPower(config)
        self.floor = config.floor

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (batch, window_length) -> log-mel, nonsilent_ratio (batch,)."""
        power = self.mel_power(windows)
        mean = power.mean(dim=(1, 2), keepdim=True).clamp(min=POWER_EPS)
        nonsilent = loudest(power) > SILENCE_RATIO * self.floor * mean.unsqueeze(1)
        nonsilent_ratio = nonsilent.to(power.dtype).mean(dim=(1, 2, 3))
        scale = nonsilent_ratio.view(-1, 1, 1) / mean
        return torch.log(power * scale + self.floor), nonsilent_ratio


def loudest(mels: Tensor) -> Tensor:
    """Maximum over the mels of each frame: (batch, n_mels, frames) -> (batch, 1, 1, frames)."""
    # a pooling operator instead of a reduction: tract runs it in a tenth of the time
    return nn.functional.max_pool2d(mels.unsqueeze(1), (mels.shape[1], 1))


def activity_mask(log_mel: Tensor, floor: float) -> Tensor:
    """1 for each non-silent frame: (batch, n_mels, frames) -> (batch, 1, 1, frames)."""
    return (loudest(log_mel) > math.log((1 + SILENCE_RATIO) * floor)).to(log_mel.dtype)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames where ``mask`` is not zero; over all frames where it is zero throughout.

    (batch, channels, frames) and (batch, 1, 1, frames) -> (batch, channels).
    """
    weights = mask.clamp(min=MASK_EPS)
    shares = weights / weights.sum(dim=3, keepdim=True)
    return (values @ shares.squeeze(1).transpose(1, 2)).squeeze(2)
