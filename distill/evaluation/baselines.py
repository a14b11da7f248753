"""What else a listener could use, on the same excerpts: MECOMP's model and bliss.

Neither is part of this repository. MECOMP's model is the ONNX file that MECOMP 0.7.2 ships (MIT);
bliss's features come from a small program that `bliss-audio` (GPL-3.0-only) is built into. A peer
that is not there is an error with the way to get it, never a row of something else.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

PEERS = Path("data/peers")
MECOMP = PEERS / "mecomp_incumbent.onnx"
BLISS = PEERS / "bliss" / "release" / "bliss-features"
BUILD_BLISS = "cargo build --release --manifest-path distill/evaluation/bliss/Cargo.toml --target-dir data/peers/bliss"
MECOMP_SHORTEST = 2_048  # samples; onnxruntime aborts the process on fewer


class PeerError(RuntimeError):
    """A peer that is not there, or does not answer as it should."""


class Mecomp:
    """MECOMP's CNN-GRU on the raw wave, (samples,) at 22,050 Hz -> (32,), unit length."""

    def __init__(self, path: Path = MECOMP):
        if not path.is_file():
            raise PeerError(
                f"no MECOMP model at {path}; copy the embedding model of MECOMP 0.7.2 there, or "
                "name another file with --mecomp"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it takes 1 GB for four minutes, and would keep it
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) -> (32,)."""
        audio = np.pad(audio, (0, max(0, MECOMP_SHORTEST - len(audio)))).astype(np.float32)
        return np.asarray(self.session.run(None, {self.input: audio[None]})[0])[0]


class Bliss:
    """bliss 0.13's hand-made features, (samples,) at 22,050 Hz -> (23,).

    They are scaled by the roots of bliss's own default weights: Euclidean distances between them
    are bliss's distances.
    """

    def __init__(self, program: Path = BLISS):
        if not os.access(program, os.X_OK):
            raise PeerError(f"no bliss program at {program}; build it with: {BUILD_BLISS}")
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) -> (23,). Raises PeerError for what bliss cannot analyse."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(struct.pack("<I", len(audio)) + audio.astype("<f4").tobytes())
            stdin.flush()
        except BrokenPipeError:
            raise PeerError("the bliss program ended; its error stands above") from None
        head = stdout.read(4)
        if len(head) < 4:
            raise PeerError("bliss cannot analyse a clip; its error stands above")
        return np.frombuffer(stdout.read(4 * struct.unpack("<I", head)[0]), "<f4")

    def close(self) -> None:
        """End the program."""
        self.process.communicate()
