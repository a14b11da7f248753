"""MSD_musicnn in float64 numpy, from the checkpoint: the reference of the port's tests.

Written from the paper (arXiv:1909.06654) and the published layers, with every filter of each
convolution, in the order in which the network was trained: convolve, rectify, normalise, pool.
`python -m tests.distill.teachers.musicnn_reference data/teacher` writes `musicnn_reference.npz`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from distill.teachers.musicnn import checkpoint, read_checkpoint

REFERENCE = Path(__file__).with_suffix(".npz")
SAMPLES = 187 * 256 - 1  # at 16 kHz: 187 centred frames


def known_audio() -> np.ndarray:
    """A chord that slides up, a pulse and noise, by arithmetic alone: (samples,) float32."""
    t = np.arange(SAMPLES) / 16_000
    chord = sum(np.sin(2 * np.pi * f * (t + 0.05 * t**2)) / k for k, f in ((1, 220.0), (2, 554.4)))
    pulse = np.sin(2 * np.pi * 60 * t) * np.exp(-((t * 4) % 1) * 12)
    states = np.empty(SAMPLES, dtype=np.uint64)
    state = 1
    for at in range(SAMPLES):  # Lehmer's generator, as Park and Miller set it
        state = state * 48_271 % 2_147_483_647
        states[at] = state
    noise = states / 2_147_483_647 - 0.5
    return (0.2 * chord + 0.3 * pulse + 0.02 * noise).astype(np.float32)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """(samples,) -> (frames, 96): log10(10000 mel + 1), Slaney's mels, centred frames."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = np.pad(audio.astype(np.float64), 256)
    frames = np.stack([padded[at : at + 512] for at in range(0, len(padded) - 511, 256)])
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    top = 15 + 27 * np.log(8_000 / 1000) / np.log(6.4)
    edges = to_hz(np.linspace(0, top, 98))
    bins = np.arange(257) * 16_000 / 512
    filters = np.zeros((96, 257))
    for band in range(96):
        low, centre, high = edges[band : band + 3]
        up, down = (bins - low) / (centre - low), (high - bins) / (high - centre)
        filters[band] = np.clip(np.minimum(up, down), 0, None) * 2 / (high - low)
    return np.log10(10_000 * power @ filters.T + 1)


class Network:
    """The layers by their TensorFlow names; an image is (frames, bands, channels)."""

    def __init__(self, variables: dict[str, np.ndarray]):
        self.variables = {name: value.astype(np.float64) for name, value in variables.items()}

    def norm(self, number: int, x: np.ndarray) -> np.ndarray:
        """Batch norm over the last axis, with TensorFlow's epsilon."""
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        gamma, beta, mean, variance = (
            self.variables[f"{name}/{what}"]
            for what in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    def convolution(self, number: int, x: np.ndarray) -> np.ndarray:
        """Valid convolution, bias, ReLU, batch norm: (frames, bands, in) -> (.., .., out)."""
        name = f"conv2d_{number}" if number else "conv2d"
        kernel, bias = self.variables[f"{name}/kernel"], self.variables[f"{name}/bias"]
        height, width, _, filters = kernel.shape
        frames, bands = x.shape[0] - height + 1, x.shape[1] - width + 1
        y = np.tile(bias, (frames, bands, 1))
        for band in range(bands):
            patches = np.stack([x[at : at + height, band : band + width] for at in range(frames)])
            y[:, band] += patches.reshape(frames, -1) @ kernel.reshape(-1, filters)
        return self.norm(number + 1, np.maximum(y, 0))

    def frames(self, mel: np.ndarray) -> np.ndarray:
        """(frames, 96) -> (frames, 753)."""
        x = self.norm(0, mel[:, :, None])
        high = np.pad(x, ((3, 3), (0, 0), (0, 0)))
        front = [self.convolution(number, high).max(axis=1) for number in (0, 1)]
        for number, height in ((2, 128), (3, 64), (4, 32)):
            # TensorFlow's "same" for an even height: one row less before than after
            same = np.pad(x, (((height - 1) // 2, height // 2), (0, 0), (0, 0)))
            front.append(self.convolution(number, same).max(axis=1))
        features = np.concatenate(front, axis=1)
        layers = [features]
        x = features
        for number in (5, 6, 7):
            padded = np.pad(x, ((3, 3), (0, 0)))[:, :, None]
            made = self.convolution(number, padded)[:, 0]  # (frames, 64)
            x = made if number == 5 else made + x  # residual from the second on
            layers.append(x)
        return np.concatenate(layers, axis=1)

    def tags(self, pooled: np.ndarray) -> np.ndarray:
        """(1506,) -> (50,) probabilities."""
        v = self.variables
        x = np.maximum(self.norm(9, pooled) @ v["dense/kernel"] + v["dense/bias"], 0)
        y = self.norm(10, x) @ v["dense_1/kernel"] + v["dense_1/bias"]
        return 1 / (1 + np.exp(-y))


def main(folder: Path) -> None:
    """Compute the reference from the wheel in ``folder``."""
    variables = read_checkpoint(*checkpoint(folder))
    network = Network(variables)
    mel = log_mel(known_audio())
    frames = network.frames(mel)
    pooled = np.stack([frames.max(axis=0), frames.mean(axis=0)], axis=1).reshape(-1)
    np.savez(
        REFERENCE,
        log_mel=mel[::17].astype(np.float32),
        pooled=pooled.astype(np.float32),
        tags=network.tags(pooled).astype(np.float32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
