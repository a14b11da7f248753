"""Compare the model's run time with MECOMP's, and a file's with ffmpeg's and bliss-audio's.

    .venv/bin/python rust/bench.py --baseline mecomp.onnx --files a.mp3 b.ogg c.flac

Each round runs every program once, one after the other, on one thread. CPU time is measured, not
wall time: other load on the machine then matters only through shared caches and cores. Ratios are
taken within a round, and their median is printed. Build first: ``cargo build --release`` in
``rust/``, and bliss's program as described in ``docs/report.md``. ffmpeg's time is that of decoding
alone, ``ffmpeg -i FILE -f null -`` on one thread, less that of a file of half a second.

``--picture FILE`` draws the stages of every file, as the command ``feelprint bench`` measures them.
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
STAGES = ("read", "decode", "resample", "front end", "CNN", "head")
COLOURS = ("#9ca3af", "#c2410c", "#d97706", "#0f766e", "#1d4ed8", "#7c3aed")
RATE = 22_050
REPEAT = 20  # runs per process, so that making the samples takes a negligible share


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

    def decode(self, path: Path) -> float:
        """The CPU time that ffmpeg takes to decode a file on one thread, in seconds."""

        def seconds(file: Path) -> float:
            options = ("-nostdin", "-v", "error", "-threads", 1)
            return command("ffmpeg", *options, "-i", file, "-f", "null", "-")[1]

        return seconds(path) - seconds(self.blip)

    def bench(self, path: Path, repeat: int) -> dict[str, dict[str, float]]:
        """What the command measures of a file: each line by its name."""
        arguments = ("bench", path, "--json", "--seconds", 1, "--repeat", repeat)
        lines = map(json.loads, self.run(*arguments)[0].splitlines())
        return {line["what"].removesuffix(f", {path}"): line for line in lines}

    def duration(self, path: Path) -> float:
        """The duration of a file, in seconds."""
        return float(json.loads(self.run("embed", path)[0])["duration_s"])

    def library(self, folder: Path, rounds: int) -> tuple[int, float, float, float]:
        """Tracks in a folder, their total duration, the CPU time of indexing them, and of a start.

        The last is that of an index of one file of half a second; medians of rounds, in seconds.
        """
        index = self.folder / "index.sqlite"
        times = []
        for _ in range(rounds):
            start = self.run("index", self.folder, "--index", index)[1]
            index.unlink()
            times.append((self.run("index", folder, "--index", index)[1], start))
            with sqlite3.connect(index) as rows:
                count, duration_s = rows.execute(
                    "SELECT count(*), sum(duration_s) FROM songs WHERE error IS NULL"
                ).fetchone()
            index.unlink()
        seconds, start = map(statistics.median, zip(*times, strict=True))
        return count, duration_s, seconds, start


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
    """Print the CPU time from a file to its embedding, and those of ffmpeg and bliss-audio."""
    print(f"\nfile to embedding, one thread, % of the duration, {rounds} rounds")
    names = ("all", "embed", "ffmpeg", "bliss", "all/ffmpeg", "all/bliss", "MiB")
    print(f"  {'file':<20}" + "".join(f"{name:>11}" for name in names))
    for file in files:
        duration = crate.duration(file)
        rows: dict[str, list[float]] = {name: [] for name in names}
        rows["MiB"].append(crate.bench(file, 1)["peak memory"]["mib"])
        for _ in range(rounds):
            whole = crate.file(file)
            times = {"all": whole, "embed": crate.embed(duration), "ffmpeg": crate.decode(file)}
            if BLISS.exists() and file.suffix != ".opus":  # bliss does not decode Opus
                times["bliss"] = command(BLISS, file)[1]
            for name, seconds in times.items():
                rows[name].append(100 * seconds / duration)
                if name in ("ffmpeg", "bliss"):
                    rows[f"all/{name}"].append(whole / seconds)
        digits = {"MiB": 0, "all/ffmpeg": 3, "all/bliss": 3}
        cells = (
            f"{statistics.median(rows[n]):11.{digits.get(n, 4)}f}" if rows[n] else f"{'-':>11}"
            for n in names
        )
        print(f"  {file.name:<20}" + "".join(cells), flush=True)


def draw_stages(files: list[Path], crate: Crate, path: Path) -> None:
    """Draw the least time of each stage from a file to its embedding, stacked, as an SVG image."""
    benches = [crate.bench(file, REPEAT) for file in files]
    shares = [
        [b[stage]["least_ms"] / 10 / b[stage]["duration_s"] for stage in STAGES] for b in benches
    ]
    most = max(map(sum, shares))
    left, bar, gap = 60, 22, 10  # in pixels
    scale = 560 / most
    height = 40 + (bar + gap) * len(files) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" '
        f'font-family="sans-serif" font-size="12"><rect width="720" height="{height}" fill="#fff"/>'
    ]
    for at, (stage, colour) in enumerate(zip(STAGES, COLOURS, strict=True)):
        x = left + 105 * at
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17}" y="22">{stage}</text>')
    for row, (file, values) in enumerate(zip(files, shares, strict=True)):
        y, x = 40 + (bar + gap) * row, float(left)
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{file.suffix[1:]}</text>'
        )
        for value, colour in zip(values, COLOURS, strict=True):
            width = value * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{bar}" fill="{colour}"/>'
            )
            x += width
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{sum(values):.3f}</text>')
    label = "from a file to its embedding, one thread: % of the track's duration"
    parts.append(f'<text x="{left}" y="{height - 12}">{label}</text></svg>\n')
    path.write_text("".join(parts))


def main() -> None:
    """Parse the arguments and print the comparison."""
    parser = argparse.ArgumentParser(
        description="Compare feelprint's CPU time with MECOMP's, ffmpeg's and bliss's."
    )
    parser.add_argument("--baseline", type=Path, required=True, help="MECOMP's ONNX model")
    parser.add_argument("--model", type=Path, default=RUST / "models" / "feelprint.onnx")
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="tracks to time")
    parser.add_argument("--library", type=Path, help="a folder of tracks, to time its index")
    parser.add_argument("--picture", type=Path, help="where to draw the stages: an SVG image")
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
            tracks, duration_s, seconds, start = crate.library(arguments.library, arguments.rounds)
            minutes = (start + 1000 * (seconds - start) / tracks) / 60
            print(
                f"\nindex of {tracks} tracks, {duration_s / 60:.0f} min: "
                f"{duration_s / (seconds - start):.0f} s of audio per second and core, after "
                f"{start * 1e3:.0f} ms; 1,000 such tracks of {duration_s / tracks:.0f} s: "
                f"{minutes:.2f} min on one core, {minutes / 8:.2f} min on 8"
            )
        if arguments.picture:
            draw_stages(arguments.files, crate, arguments.picture)
        lines = crate.run("bench", "--json", "--seconds", 1, "--repeat", 9)[0].splitlines()
    for line in map(json.loads, lines):
        if line["what"].startswith(("load", "nearest")):
            print(f"{line['what']}: at least {line['least_ms']:.1f} ms")
    print(f"model file: {arguments.model.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
