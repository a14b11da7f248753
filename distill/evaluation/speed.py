"""The cost of embedding a minute of audio, in onnxruntime and tract, beside MECOMP's model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tract

from distill.evaluation.evaluate import STUDENT
from distill.evaluation.excerpts import SAMPLE_RATE

AUDIO_S = 60.0
N_RUNS = 7


def speed(onnx: Path, mecomp: Path | None) -> dict[str, Any]:
    """Cost as a share of the audio's duration, on one thread, in both runtimes.

    The runs of the models are interleaved, so that other load on the machine affects all of them
    equally; the processor's time is counted, and the median taken. With ``mecomp``, the ratio to
    that model in the same runtime is added.
    """
    audio = np.random.default_rng(0).standard_normal((1, round(AUDIO_S * SAMPLE_RATE)))
    audio = (0.1 * audio).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name, path in ((STUDENT, onnx), ("mecomp", mecomp)):
        if path is not None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            feed = {session.get_inputs()[0].name: audio}
            runs[f"{name}/onnxruntime"] = partial(session.run, None, feed)
            plan = tract.onnx().load(str(path)).into_model().into_runnable()
            runs[f"{name}/tract"] = partial(plan.run, [audio])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_RUNS):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) / AUDIO_S)
    shares: dict[str, Any] = {name: float(np.median(values)) for name, values in times.items()}
    if mecomp is not None:
        for runtime in ("onnxruntime", "tract"):
            shares[f"ratio/{runtime}"] = (
                shares[f"{STUDENT}/{runtime}"] / shares[f"mecomp/{runtime}"]
            )
    return shares | {"audio_s": AUDIO_S, "threads": 1, "runs": N_RUNS}
