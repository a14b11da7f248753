"""`python -m distill.reporting RUN`: measure a run and write its report."""

import argparse
import logging
import sys
from pathlib import Path

from datasets_scripts.audio import AudioError
from datasets_scripts.corpora.corpus import CorpusError
from distill.evaluation.baselines import MECOMP
from distill.features.shards import CacheError
from distill.reporting.report import MAX_CLIPS_MB, MAX_MAP_TRACKS, ReportError, report
from distill.teachers.base import TeacherError
from student import ConfigError


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.reporting", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--split", choices=("validation", "test"), help="default: the run's own")
    parser.add_argument(
        "--mecomp", type=Path, default=MECOMP, help=f"MECOMP's ONNX file (default: {MECOMP})"
    )
    parser.add_argument(
        "--songs", type=int, default=MAX_MAP_TRACKS, help="songs on the map, at most"
    )
    parser.add_argument(
        "--clips-mb", type=float, default=MAX_CLIPS_MB, help="audio in the page, at most; 0: none"
    )
    parser.add_argument(
        "--people",
        type=Path,
        metavar="CORPUS",
        help="compare with people's ratings: the corpus of `python -m datasets_scripts musifeast`",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        measured = report(
            options.run,
            options.split,
            options.mecomp,
            options.songs,
            options.clips_mb,
            options.people,
        )
    except (AudioError, CacheError, ConfigError, CorpusError, ReportError, TeacherError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, row in measured["figures"].items():
        print(name, *(f"{metric} {score['value']:.3f}" for metric, score in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
