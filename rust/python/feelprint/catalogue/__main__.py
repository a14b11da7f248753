"""The command `python -m feelprint.catalogue`."""

from __future__ import annotations

import argparse
import os
import sys

import ray

import feelprint
from feelprint.catalogue.embed import embed
from feelprint.catalogue.neighbours import EXACT_UP_TO, find_neighbours


def arguments_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m feelprint.catalogue",
        description="Embed the audio files of a folder or an object store on a Ray cluster. A run "
        "that was stopped is continued; new files are added.",
    )
    parser.add_argument("source", help="a folder, or a URL such as s3://bucket/folder")
    parser.add_argument("--out", required=True, metavar="TARGET", help="as SOURCE: where to write")
    parser.add_argument(
        "--neighbours", type=int, metavar="N", help="find so many of each track too"
    )
    parser.add_argument(
        "--exact-up-to",
        type=int,
        default=EXACT_UP_TO,
        metavar="TRACKS",
        help="with more tracks, find neighbours by a Lance dataset with an index [%(default)s]",
    )
    parser.add_argument("--workers", type=int, help="how many processes [one per CPU]")
    parser.add_argument("--address", help="of a Ray cluster [RAY_ADDRESS, or this machine alone]")
    parser.add_argument("--model", help="another model: an ONNX file that all machines see")
    parser.add_argument("--whole", action="store_true", help="use every window of a track")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit status: 2 after an error, 130 after Ctrl-C."""
    parser = arguments_parser()
    options = parser.parse_args(arguments)
    for name in ("neighbours", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}, expected at least 1")
    # Ray would send statistics of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        path = options.model and os.path.abspath(options.model)
        model = feelprint.Model(path, options.whole)
        address = options.address or os.environ.get("RAY_ADDRESS") or "local"
        dashboard = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="warning", **dashboard)
        summary = embed(options.source, options.out, model=model, workers=options.workers)
        for problem in summary.problems:
            print(problem, file=sys.stderr)
        print(summary)
        if options.neighbours:
            count, recall = find_neighbours(
                options.out,
                options.neighbours,
                exact_up_to=options.exact_up_to,
                workers=options.workers,
            )
            how = "exact" if recall is None else f"by an IVF index, recall@10 {recall:.3f}"
            print(f"the {options.neighbours} nearest of {count} tracks: {how}")
    except KeyboardInterrupt:
        print("stopped: the next run goes on from here", file=sys.stderr)
        return 130
    except (feelprint.Error, ImportError, OSError, ValueError) as error:
        print(f"feelprint.catalogue: {error}", file=sys.stderr)
        return 2
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
