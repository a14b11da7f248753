"""Write the reference vectors that the crate's tests assert: rust/tests/reference/vectors.json.

Run it again whenever rust/models/feelprint.onnx has changed:

    .venv/bin/python rust/tests/make_reference.py

PyTorch computes the windows and the log-mel, with the student in rust/models and with front ends of
other settings; onnxruntime computes the tokens, the attention and the embedding, with the ONNX file
there. Samples are integers over powers of two, so that rust/tests/common/signals.rs makes exactly
the same ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from distill.export import FRONT_END
from student import Feelprint, FeelprintConfig
from student.frontend import LogMel

RUST = Path(__file__).resolve().parent.parent
MODEL = RUST / "models" / "feelprint.onnx"
VECTORS = RUST / "tests" / "reference" / "vectors.json"

# settings that differ from the released model's
FRONT_ENDS = (
    {"n_fft": 512, "hop_length": 256, "n_mels": 48, "f_min": 0.0, "f_max": 4_000.0, "floor": 1e-4},
    {"n_fft": 2_048, "hop_length": 1_024, "n_mels": 16, "f_min": 90.0, "f_max": 11_025.0},
)


def noise(samples: int) -> np.ndarray:
    """Noise from -1/4 to 1/4 in steps of 2^-25 (samples,), by Marsaglia's xorshift64."""
    state, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    values = np.empty(samples)
    for i in range(samples):
        state ^= (state << 13) & mask
        state ^= state >> 7
        state ^= (state << 17) & mask
        values[i] = (state >> 40) - (1 << 23)
    return (values / (1 << 25)).astype(np.float32)


def chirp_saw(samples: int) -> np.ndarray:
    """A sawtooth from -1/8 to 1/8 whose pitch rises from 86 Hz by 21 Hz a second (samples,)."""
    i = np.arange(samples, dtype=np.int64)
    phase = (i * 256 + (i * i >> 11) * 3) % (1 << 16)
    return ((phase - (1 << 15)) / (1 << 18)).astype(np.float32)


def signals(window: int) -> dict[str, np.ndarray]:
    """The signals by name, each (samples,) float32; ``window`` is in samples."""
    return {
        "one_sample": noise(1),
        "short": chirp_saw(2_047),
        "one_window": noise(window),
        "one_window_and_a_sample": chirp_saw(window + 1),
        "three_and_a_half_windows": noise(7 * window // 2) + chirp_saw(7 * window // 2),
        "sound_then_silence": np.concatenate([chirp_saw(window), np.zeros(2 * window, "f4")]),
        "silence_then_sound": np.concatenate([np.zeros(window, "f4"), noise(2 * window)]),
        "silence": np.zeros(2 * window, np.float32),
        "twenty_windows": chirp_saw(20 * window),
        "every_window_and_some": chirp_saw(41 * window) + noise(41 * window),
    }


def position_sums(windows: np.ndarray) -> list[float]:
    """For each window the sum of its samples times their positions, from 1: exact in float64."""
    return [float(w.astype(np.float64) @ np.arange(1, len(w) + 1)) for w in windows]


def front_ends() -> list[dict]:
    """The log-mel of one window of noise with each of ``FRONT_ENDS``."""
    made = []
    for settings in FRONT_ENDS:
        filters = ((1, 1, 1, 1),)  # unused here, but they must fit into the mels
        config = FeelprintConfig(window_frames=16, filters=filters, **settings)
        log_mel = LogMel(config)
        window = torch.from_numpy(noise(config.window_length)[None])
        case = {name: getattr(config, name) for name in FRONT_END}
        case["mean_power"] = float(log_mel.mel_power(window).mean())
        # (n_mels, window_frames), row-major
        case["log_mel"] = rounded(log_mel(window)[0].numpy().reshape(-1), 4)
        made.append(case)
    return made


def main() -> None:
    """Write the vectors."""
    proto = onnx.load(MODEL)
    tensors = {name for node in proto.graph.node for name in node.output}
    # the name in models up to 0.10.1, and up to 0.10
    weight_name = next(n for n in ("window_weight", "nonsilent_ratio", "audible") if n in tensors)
    for name in ("tokens", weight_name, "attention"):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    student = Feelprint.from_pretrained(str(MODEL.parent)).eval()
    cases = []
    for name, audio in signals(student.config.window_length).items():
        names = ["tokens", weight_name, "attention", "embedding"]
        values = session.run(names, {"audio": audio[None]})
        # the graph's audio ends with windows of zeros that the track does not have
        used = used_windows(student.config, len(audio))
        tokens, window_weight = (value[0, :used] for value in values[:2])
        attention, embedding = values[2][0, :, :used], values[3][0]
        attention = attention / attention.sum(axis=1, keepdims=True)  # of a silent track, not 1
        assert not values[1][0, used:].any(), name
        with torch.inference_mode():
            windows = student.windows(torch.from_numpy(audio[None]))[0][0, :used]
            log_mel = student.log_mel_windows(torch.from_numpy(audio[None]))[0][0, :used].numpy()
        case = {
            "name": name,
            "samples": len(audio),
            "position_sums": position_sums(windows.numpy()),
            "window_weight": window_weight.tolist(),
            "embedding": rounded(embedding),
            "attention": rounded(attention),
            "last_token": rounded(tokens[-1]),
            # of the last window: (n_mels, window_frames), row-major
            "last_log_mel": rounded(log_mel[-1].reshape(-1), 4) if len(log_mel) < 4 else None,
        }
        cases.append(case)
    part = VECTORS.with_suffix(".part")
    part.write_text(
        f'{{"model":"{fnv1a(MODEL.read_bytes())}","cases":[\n{lines(cases)}\n],'
        f'"front_ends":[\n{lines(front_ends())}\n]}}\n'
    )
    os.replace(part, VECTORS)


def used_windows(config: FeelprintConfig, samples: int) -> int:
    """The number of windows of a track that the model uses, without those that are only padding."""
    windows = -(-samples // config.window_length)
    dense = min(windows, config.dense_windows)
    # of the later windows, the middle one of each group
    later = (windows - dense + config.window_stride - 1 - config.window_stride // 2) // (
        config.window_stride
    )
    return dense + later


def lines(cases: list[dict]) -> str:
    """The cases as JSON, one per line."""
    return ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)


def fnv1a(content: bytes) -> str:
    """The 64-bit FNV-1a hash, in hexadecimal; simple enough to repeat in the Rust tests."""
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{value:016x}"


def rounded(values: np.ndarray, digits: int = 7) -> list:
    """The values as nested lists, rounded to at most a tenth of the tests' tolerance."""
    return np.round(values.astype(np.float64), digits).tolist()


if __name__ == "__main__":
    main()
