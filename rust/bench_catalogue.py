"""Throughput of the catalogue on Ray against the command `feelprint index`, on the same files.

    python rust/bench_catalogue.py FOLDER --copies 8 --cores 2
    python rust/bench_catalogue.py --search 1000000

The second line measures the search among made-up embeddings instead: exact, and by the IVF index.

Run it with the Python that has `feelprint[ray]` and mutagen, and the command built in `rust/`. The
tracks of FOLDER are copied with other tags, so that the command does not know them again by their
content. The runs are interleaved. The catalogue's times begin when its first process has loaded the
model; those of the command include its start, which takes 20 ms.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="tracks in formats that mutagen can tag"
    )
    parser.add_argument("--copies", type=int, default=8, help="of each track [%(default)s]")
    parser.add_argument("--cores", type=int, default=2, help="threads, processes [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--command", type=Path, default=Path("rust/target/release/feelprint"))
    parser.add_argument("--search", type=int, metavar="ROWS", help="measure the search alone")
    options = parser.parse_args()
    if (options.folder is None) == (options.search is None):
        parser.error("expected FOLDER or --search")
    if options.search:
        search(options.search)
    else:
        throughput(options)


def throughput(options: argparse.Namespace) -> None:
    """Run the command and the catalogue, interleaved."""
    import ray

    from feelprint import catalogue

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copy_tracks(options.folder, folder / "music", options.copies)
        ray.init("local", num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
        ratios: dict[str, list[float]] = {"CPU": [], "CPU with Ray": []}
        least_s = [float("inf")] * 2
        for number in range(options.rounds):
            command_s = index(options.command, folder, options.cores)
            target, before, start = folder / f"catalogue {number}", ray_cpu_s(), time.process_time()
            done = catalogue.embed(str(folder / "music"), str(target), workers=options.cores)
            overhead_s = time.process_time() - start + sum_of_growth(before, ray_cpu_s())
            assert (done.embedded, done.failed, done.deaths) == (files, 0, 0), done
            print(
                f"command: {command_s[0]:.2f} s, CPU {command_s[1]:.2f} s; catalogue: "
                f"{done.wall_s:.2f} s, CPU {done.cpu_s:.2f} s and Ray {overhead_s:.2f} s, "
                f"{done.peak_bytes / 1e6:.0f} MB; {files} files, {done.duration_s:.0f} s of audio",
                flush=True,
            )
            least_s = [min(least_s[0], command_s[0]), min(least_s[1], done.wall_s)]
            ratios["CPU"].append(command_s[1] / done.cpu_s)
            ratios["CPU with Ray"].append(command_s[1] / (done.cpu_s + overhead_s))
        ray.shutdown()
    for what, values in ratios.items():
        print(f"throughput, catalogue / command, by {what}: {statistics.median(values):.2f}")
    # Other programs lengthen the others.
    print(f"by the least wall time of each: {least_s[0] / least_s[1]:.2f}")


def copy_tracks(source: Path, target: Path, copies: int) -> int:
    """Copy each file, with a title that no other copy has. Returns the number of copies."""
    import mutagen

    target.mkdir()
    files = [it for it in sorted(source.iterdir()) if it.is_file()]
    for number in range(copies):
        for file in files:
            copy = Path(shutil.copy(file, target / f"{number} {file.name}"))
            tags = mutagen.File(copy, easy=True)
            if tags is None:
                sys.exit(f"{file}: no tags can be written, expected mp3, Ogg, FLAC or M4A")
            tags["title"] = [f"copy {number}"]
            tags.save()
    return len(files) * copies


def index(command: Path, folder: Path, threads: int) -> tuple[float, float]:
    """Index the tracks anew. Returns wall and CPU time in seconds."""
    path = folder / "index.sqlite"
    path.unlink(missing_ok=True)
    words = [command, "index", folder / "music", "--index", path, "--threads", str(threads)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # A session of its own, as the processes of Ray have: on a busy machine, the scheduler shares
    # cores among sessions.
    subprocess.run(
        words,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ray_cpu_s() -> dict[str, float]:
    """The CPU time of each process of Ray that now runs on this machine, in seconds."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"/ray/" in words or words.startswith(b"ray::"):
            found[folder.name] = (int(fields[11]) + int(fields[12])) / 100
    return found


def sum_of_growth(before: dict[str, float], after: dict[str, float]) -> float:
    """What the processes that were there before have used since then."""
    return sum(after[it] - value for it, value in before.items() if it in after)


def search(count: int) -> None:
    """Measure the plan, the files, the index and both searches for so many made-up tracks."""
    import numpy as np
    import pyarrow as pa

    import feelprint
    from feelprint.catalogue import neighbours
    from feelprint.catalogue.target import PLAN, TRACKS, Target, shards_of

    random = np.random.default_rng(0)
    size = feelprint.DIM_EMBEDDING
    # Albums of twelve tracks: tracks scatter around their album, albums around all, less and less
    # along the axes.
    scale = 0.9 ** np.arange(size)
    albums = random.normal(size=(count // 12 + 1, size)) * scale
    rows = np.repeat(albums, 12, axis=0)[:count] + 0.4 * random.normal(size=(count, size)) * scale
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        out = Target(folder)
        for start in range(0, count, 1000):
            part = rows[start : start + 1000]
            names = [f"s3://music/artist {i // 120:06}/album {i // 12:07}/{i % 12 + 1:02} track.mp3"
                     for i in range(start, start + len(part))]  # fmt: skip
            table = pa.table(
                [
                    names,
                    random.uniform(120, 360, len(part)),
                    pa.nulls(len(part), pa.string()),
                    pa.nulls(len(part), pa.string()),
                    pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), size),
                    [feelprint.model_version] * len(part),
                ],
                schema=TRACKS,
            )
            out.write("tracks", f"{start:09}", table)
        ids = out.ids("tracks")
        allocated = pa.total_allocated_bytes()
        paths = out.dataset("tracks", ids).to_table(columns=["path"])["path"]
        plan = pa.table([paths.cast(pa.large_string()), pa.nulls(count, pa.int64())], PLAN)
        plan = plan.sort_by("path").replace_schema_metadata(
            {"model_version": feelprint.model_version, "files_per_shard": "1000"}
        )
        del paths
        out.write("plan", "00000", plan)
        in_file = folder_bytes(Path(folder, "plan")) / count
        in_memory = (pa.total_allocated_bytes() - allocated) / count
        print(f"plan: {in_file:.0f} bytes a file in Parquet, {in_memory:.0f} in memory", end=", ")
        clock = time.process_time()
        assert sum(len(it.files) for it in shards_of(plan)) == count
        print(f"{time.process_time() - clock:.1f} s to make its shards")
        shutil.rmtree(Path(folder, "plan"))
        print(f"Parquet: {folder_bytes(Path(folder)) / count:.0f} bytes a track")
        clock = time.process_time()
        feelprint.nearest(rows, rows[:256], 11, threads=1)
        exact_s = (time.process_time() - clock) / 256
        print(f"exact search: {1e3 * exact_s:.2f} ms of CPU time a query, {count} tracks")
        clock = time.process_time()
        neighbours._build_index(out.url, out.dataset("tracks", ids), count, "state")
        print(f"index: {time.process_time() - clock:.0f} s of CPU time", end=", ")
        print(f"{folder_bytes(Path(folder, 'tracks.lance')) / count:.0f} bytes a track")
        clock = time.process_time()
        neighbours._search_index(out.url, rows[:: count // 1000], 11)
        print(f"search by the index: {time.process_time() - clock:.2f} ms of CPU time a query")
        recall = neighbours._recall(out.url, out.dataset("tracks", ids), count)
        print(f"recall@10: {recall:.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory: {peak / 1e9:.1f} GB")


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(it.stat().st_size for it in folder.rglob("*") if it.is_file())


if __name__ == "__main__":
    main()
