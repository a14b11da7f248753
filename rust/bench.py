"""Compare the model's cost with MECOMP's, and a file's with bliss-audio's, in one run.

    .venv/bin/python rust/bench.py --incumbent mecomp.onnx --files a.mp3 b.ogg c.flac

Every round runs each contender once, one after the other, on one thread, so that whatever else
the machine does falls on all of them. What counts is the ratios; they are taken within a round,
and their median is printed. Build first: ``cargo build --release`` in ``rust/`` and in
``rust/benches/bliss``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import tract

RUST = Path(__file__).resolve().parent
FEELPRINT = RUST / "target" / "release" / "feelprint"
BLISS = RUST / "benches" / "bliss" / "target" / "release" / "feelprint-bench-bliss"
RATE = 22_050


def clock(run: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_onnxruntime(model: Path, audio: np.ndarray) -> Callable[[], object]:
    """A call that embeds ``audio`` (1, samples) in onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    return lambda: session.run(["embedding"], {"audio": audio})


def in_tract(model: Path, audio: np.ndarray) -> Callable[[], object]:
    """A call that embeds ``audio`` (1, samples) in tract's own binding, as one whole graph."""
    runnable = tract.onnx().load(str(model)).into_model().into_runnable()
    return lambda: runnable.run([audio])


def lines(*arguments: object) -> list[dict]:
    """What ``feelprint bench`` measures."""
    command = [FEELPRINT, "bench", "--json", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare_models(incumbent: Path, model: Path, seconds: int, rounds: int, file: Path) -> None:
    """Print the cost of both models in both engines, for audio of a length."""
    rng = np.random.default_rng(0)
    audio = (rng.standard_normal((1, seconds * RATE)) * 0.1).astype(np.float32)
    ort_incumbent, ort_model = in_onnxruntime(incumbent, audio), in_onnxruntime(model, audio)
    tract_incumbent = in_tract(incumbent, audio)

    def crate() -> float:
        measured = lines("--model", model, "--seconds", seconds, "--repeat", 3, file)
        what = f"model, {seconds} s"
        return next(line["least_ms"] / 1e3 for line in measured if line["what"] == what)

    contenders: dict[str, Callable[[], float]] = {
        "incumbent, onnxruntime": lambda: clock(ort_incumbent),
        "feelprint, onnxruntime": lambda: min(clock(ort_model) for _ in range(3)),
        "incumbent, tract": lambda: clock(tract_incumbent),
        "feelprint, crate": crate,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for each in (ort_incumbent, ort_model, tract_incumbent):
        each()  # the first run allocates
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(run())
    print(f"\nmodel alone, {seconds} s of audio, {rounds} rounds")
    for name, values in times.items():
        share = 100 * statistics.median(values) / seconds
        print(f"  {name:<24} {statistics.median(values):8.4f} s  {share:7.4f} % of the duration")
    for over, under in (
        ("feelprint, onnxruntime", "incumbent, onnxruntime"),
        ("feelprint, crate", "incumbent, tract"),
        ("feelprint, crate", "incumbent, onnxruntime"),
    ):
        ratio = statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
        print(f"  {over} / {under}: {ratio:.3f}")


def compare_files(files: list[Path], model: Path, rounds: int) -> None:
    """Print what the parts of a file's way cost, and what bliss-audio takes for the whole."""
    stages = ("decode", "resample", "embed", "all")
    print(f"\nfile to embedding, one thread, % of the duration, {rounds} rounds")
    print(f"  {'file':<28}" + "".join(f"{name:>10}" for name in (*stages, "share", "bliss")))
    for file in files:
        shares: dict[str, list[float]] = {name: [] for name in (*stages, "bliss")}
        for _ in range(rounds):
            measured = lines("--model", model, "--seconds", 1, "--repeat", 1, file)
            by_stage = {line["what"].split(",")[0]: line for line in measured}
            for stage in stages:
                shares[stage].append(by_stage[stage]["percent_of_duration"])
            if BLISS.exists():
                done = subprocess.run([BLISS, file], check=False, capture_output=True, text=True)
                if done.returncode == 0:  # it does not decode Opus
                    duration = by_stage["all"]["duration_s"]
                    shares["bliss"].append(100 * float(done.stdout.split()[0]) / duration)
        median = {name: statistics.median(values) for name, values in shares.items() if values}
        row = f"  {file.name:<28}" + "".join(f"{median[stage]:10.4f}" for stage in stages)
        row += f"{median['embed'] / median['all']:10.2f}"
        print(row + (f"{median['bliss']:10.4f}" if "bliss" in median else f"{'-':>10}"))


def main() -> None:
    """Parse the arguments and print the comparison."""
    parser = argparse.ArgumentParser(description="Compare feelprint's cost with its peers'.")
    parser.add_argument("--incumbent", type=Path, required=True, help="MECOMP's ONNX model")
    parser.add_argument("--model", type=Path, default=RUST / "models" / "feelprint.onnx")
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="songs to time")
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if not FEELPRINT.exists():
        sys.exit(f"{FEELPRINT} is not there: run `cargo build --release` in {RUST}")
    if hasattr(os, "sched_setaffinity"):  # threads that a contender starts share one core too
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tools = [f"{name} {version(name)}" for name in ("onnxruntime", "tract", "numpy")]
    rust = subprocess.run([FEELPRINT, "--version"], check=True, capture_output=True, text=True)
    print(", ".join([rust.stdout.strip(), *tools]))
    for seconds in arguments.seconds:
        compare_models(
            arguments.incumbent, arguments.model, seconds, arguments.rounds, arguments.files[0]
        )
    compare_files(arguments.files, arguments.model, arguments.rounds)
    for line in lines("--model", arguments.model, "--seconds", 1, "--repeat", 5):
        if line["what"].startswith(("load", "nearest")):
            print(f"{line['what']}: {line['median_ms']:.1f} ms")
    print(f"model file: {arguments.model.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
