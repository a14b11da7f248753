"""Compare the model's run time with MECOMP's, and a file's with bliss-audio's, in one run.

    .venv/bin/python rust/bench.py --baseline mecomp.onnx --files a.mp3 b.ogg c.flac

Each round runs every program once, one after the other, on one thread. CPU time is measured, not
wall time: other load on the machine then matters only through shared caches and cores. Ratios are
taken within a round, and their median is printed. Build first: ``cargo build --release`` in
``rust/``, and bliss's program as described in ``docs/report.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import tract

RUST = Path(__file__).resolve().parent
FEELPRINT = RUST / "target" / "release" / "feelprint"
BLISS = RUST.parent / "data" / "baselines" / "bliss" / "release" / "bliss-features"
RATE = 22_050
REPEAT = 20  # runs per process, so that making the samples takes a negligible share
TRACK_S = 210  # three and a half minutes


def clock(run: Callable[[], object]) -> float:
    """The CPU time of a call in this process, in seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def command(*arguments: object) -> tuple[str, float]:
    """What a command prints, and its CPU time in seconds, summed over threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, arguments)), check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


class Crate:
    """The crate's CPU time: differences of two runs of the command, which cancel its startup."""

    def __init__(self, model: Path, folder: Path):
        self.model, self.folder = model, folder
        self.blip = folder / "blip.wav"  # with a file, the command does not time the search
        with wave.open(str(self.blip), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(bytes(RATE))

    def run(self, *arguments: object) -> tuple[str, float]:
        """What the command prints, and its CPU time in seconds."""
        return command(FEELPRINT, *arguments, "--model", self.model)

    def embed(self, seconds: float) -> float:
        """The CPU time of embedding audio of a duration, in seconds."""
        bench = ("bench", self.blip, "--repeat", REPEAT, "--seconds")
        short, long = self.run(*bench, 1)[1], self.run(*bench, round(seconds) + 1)[1]
        return (long - short) / REPEAT * seconds / round(seconds)

    def file(self, path: Path) -> float:
        """The CPU time from a file to its embedding, in seconds."""
        once, more = self.run("embed", path)[1], self.run("embed", *[path] * (1 + REPEAT))[1]
        return (more - once) / REPEAT

    def duration(self, path: Path) -> float:
        """The duration of a file, in seconds."""
        return float(json.loads(self.run("embed", path)[0])["duration_s"])

    def library(self, folder: Path) -> tuple[int, float, float]:
        """Tracks in a folder, their total duration and the CPU time of indexing, in seconds."""
        index = self.folder / "index.sqlite"
        _, seconds = self.run("index", folder, "--index", index)
        with sqlite3.connect(index) as rows:
            count, duration_s = rows.execute(
                "SELECT count(*), sum(duration_s) FROM songs WHERE error IS NULL"
            ).fetchone()
        index.unlink()
        return count, duration_s, seconds


def compare_models(baseline: Path, crate: Crate, seconds: int, rounds: int) -> None:
    """Print the CPU time of both models in both engines, for audio of a duration."""
    rng = np.random.default_rng(0)
    audio = (rng.standard_normal((1, seconds * RATE)) * 0.1).astype(np.float32)
    ort_baseline, ort_model = in_onnxruntime(baseline, audio), in_onnxruntime(crate.model, audio)
    tract_baseline = in_tract(baseline, audio)
    programs: dict[str, Callable[[], float]] = {
        "baseline, onnxruntime": lambda: clock(ort_baseline),
        "feelprint, onnxruntime": lambda: clock(ort_model),
        "baseline, tract": lambda: clock(tract_baseline),
        "feelprint, crate": lambda: crate.embed(seconds),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for each in (ort_baseline, ort_model, tract_baseline):
        each()  # warm-up: the first run allocates
    for _ in range(rounds):
        for name, run in programs.items():
            times[name].append(run())
    print(f"\nmodel alone, {seconds} s of audio, {rounds} rounds")
    for name, values in times.items():
        share = 100 * statistics.median(values) / seconds
        print(f"  {name:<24} {statistics.median(values):8.4f} s  {share:7.4f} % of the duration")
    for over, under in (
        ("feelprint, onnxruntime", "baseline, onnxruntime"),
        ("feelprint, crate", "baseline, tract"),
        ("feelprint, crate", "baseline, onnxruntime"),
    ):
        ratio = statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
        print(f"  {over} / {under}: {ratio:.3f}", flush=True)


def compare_files(files: list[Path], crate: Crate, rounds: int) -> None:
    """Print the CPU time from a file to its embedding, and that of bliss-audio for the file."""
    print(f"\nfile to embedding, one thread, % of the duration, {rounds} rounds")
    names = ("all", "embed", "share", "bliss")
    print(f"  {'file':<28}" + "".join(f"{name:>10}" for name in names))
    for file in files:
        duration = crate.duration(file)
        rows: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            whole, embed = crate.file(file), crate.embed(duration)
            rows["all"].append(100 * whole / duration)
            rows["embed"].append(100 * embed / duration)
            rows["share"].append(embed / whole)
            if BLISS.exists() and file.suffix != ".opus":  # bliss does not decode Opus
                rows["bliss"].append(100 * command(BLISS, file)[1] / duration)
        cells = (f"{statistics.median(rows[n]):10.4f}" if rows[n] else f"{'-':>10}" for n in names)
        print(f"  {file.name:<28}" + "".join(cells), flush=True)


def main() -> None:
    """Parse the arguments and print the comparison."""
    parser = argparse.ArgumentParser(
        description="Compare feelprint's CPU time with MECOMP's and bliss's."
    )
    parser.add_argument("--baseline", type=Path, required=True, help="MECOMP's ONNX model")
    parser.add_argument("--model", type=Path, default=RUST / "models" / "feelprint.onnx")
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="tracks to time")
    parser.add_argument("--library", type=Path, help="a folder of tracks, to time its index")
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if not FEELPRINT.exists():
        sys.exit(f"{FEELPRINT} is not there: run `cargo build --release` in {RUST}")
    tools = [f"{name} {version(name)}" for name in ("onnxruntime", "tract", "numpy")]
    print(", ".join([command(FEELPRINT, "--version")[0].strip(), *tools]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        crate = Crate(arguments.model, Path(folder))
        for seconds in arguments.seconds:
            compare_models(arguments.baseline, crate, seconds, arguments.rounds)
        compare_files(arguments.files, crate, arguments.rounds)
        if arguments.library:
            tracks, duration_s, seconds = crate.library(arguments.library)
            minutes = 1000 * TRACK_S * seconds / duration_s / 60
            print(
                f"\nindex of {tracks} tracks, {duration_s / 60:.0f} min: "
                f"{duration_s / seconds:.0f} s of audio per second and core; "
                f"1,000 tracks of {TRACK_S} s: {minutes:.1f} min on one core, "
                f"{minutes / 8:.2f} min on 8"
            )
        lines = crate.run("bench", "--json", "--seconds", 1, "--repeat", 9)[0].splitlines()
    for line in map(json.loads, lines):
        if line["what"].startswith(("load", "nearest")):
            print(f"{line['what']}: at least {line['least_ms']:.1f} ms")
    print(f"model file: {arguments.model.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
