"""External baselines on the same excerpts: MECOMP's model and bliss.

Neither is part of this repository. MECOMP's model is the ONNX file that MECOMP 0.7.2 ships (MIT);
bliss's features come from a small program that links `bliss-audio` (GPL-3.0-only). A baseline that
is absent is an error that says how to get it.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path("data/baselines")
MECOMP = FOLDER / "mecomp.onnx"
BLISS = FOLDER / "bliss" / "release" / "bliss-features"
BUILD_BLISS = (
    "cargo build --release --manifest-path distill/evaluation/bliss/Cargo.toml "
    f"--target-dir {FOLDER / 'bliss'}"
)
MECOMP_MIN_SAMPLES = 2_048  # onnxruntime aborts the process on fewer


class BaselineError(RuntimeError):
    """A baseline that is absent or fails; the message says what to do."""


class Mecomp:
    """MECOMP's CNN-GRU on the waveform: (samples,) at 22,050 Hz -> (32,), unit length.

    Raises BaselineError where ``path`` is not a file.
    """

    def __init__(self, path: Path = MECOMP):
        if not path.is_file():
            raise BaselineError(
                f"no MECOMP model at {path}; copy the embedding model of MECOMP 0.7.2 there, or "
                "name another file with --mecomp"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # the arena would keep the 1 GB that four minutes of audio take
        options.enable_cpu_mem_arena = False
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) -> (32,)."""
        audio = np.pad(audio, (0, max(0, MECOMP_MIN_SAMPLES - len(audio)))).astype(np.float32)
        return np.asarray(self.session.run(None, {self.input: audio[None]})[0])[0]


class Bliss:
    """bliss 0.13's hand-made features: (samples,) at 22,050 Hz -> (23,).

    They are scaled by the square roots of bliss's default weights, so that Euclidean distances
    between them are bliss's distances. Raises BaselineError where ``program`` is not executable.
    """

    def __init__(self, program: Path = BLISS):
        if not os.access(program, os.X_OK):
            raise BaselineError(f"no bliss program at {program}; build it with: {BUILD_BLISS}")
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) -> (23,). Raises BaselineError for audio that bliss cannot analyse."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(struct.pack("<I", len(audio)) + audio.astype("<f4").tobytes())
            stdin.flush()
        except BrokenPipeError:
            raise BaselineError("the bliss program ended; its error is printed above") from None
        header = stdout.read(4)
        if len(header) < 4:
            raise BaselineError("bliss cannot analyse an excerpt; its error is printed above")
        return np.frombuffer(stdout.read(4 * struct.unpack("<I", header)[0]), "<f4")

    def close(self) -> None:
        """End the program."""
        self.process.communicate()
