"""`python -m distill.reporting.publish RUN --to OWNER/NAME`: publish a run's model on the Hub.

The repository is private by default. With --dry-run the folder is written and nothing is uploaded.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from datasets_scripts.files import atomic_folder
from datasets_scripts.hub import HubError, push
from distill.reporting.card import CardError, eval_results_file, model_card, read_report
from distill.reporting.templating import TEMPLATES

METRIC = Path(__file__).parents[2] / "metrics" / "triplet_accuracy"
FILES = ("model.safetensors", "config.json", "feelprint.onnx", "metrics.json")
MARKER = "feelprint.onnx"


def prepare(run: Path, name: str, dataset: str, folder: Path) -> list[str]:
    """Write into ``folder`` exactly what is uploaded to the Hub; returns the files' names.

    The folder is complete or absent.

    Raises:
        CardError: the run lacks a file or its report, its sources forbid its licence, or
            ``folder`` exists and holds anything else.
    """
    missing = [file for file in FILES if not (run / file).is_file()]
    if missing:
        raise CardError(f"{run} has no {', '.join(missing)}; run the stages that are missing")
    card = model_card(run, name, dataset)
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise CardError(f"{folder} holds something else; name another folder")
    with atomic_folder(folder, ".publish-") as part:
        for file in FILES:
            shutil.copyfile(run / file, part / file)
        (part / "README.md").write_text(card, encoding="utf-8")
        shutil.copyfile(TEMPLATES / "example.py", part / "example.py")
        results = part / ".eval_results" / "feelprint.yaml"
        results.parent.mkdir()
        report = read_report(run) | {"dataset": dataset}
        results.write_text(eval_results_file(report), encoding="utf-8")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.reporting.publish", description=__doc__
    )
    parser.add_argument("run", type=Path, help="a run folder, or metrics/triplet_accuracy")
    parser.add_argument("--to", required=True, metavar="OWNER/NAME")
    parser.add_argument("--dataset", help="the corpus's name on the Hub (OWNER/feelprint-CORPUS)")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    parser.add_argument("--folder", type=Path, help="of the dry run (default: RUN/publish)")
    options = parser.parse_args(arguments)
    try:
        if options.run.resolve() == METRIC:
            if options.dry_run:
                print(f"{METRIC} is uploaded as it is:", *sorted(p.name for p in METRIC.iterdir()))
                return 0
            marker, message = "triplet_accuracy.py", "The metric triplet_accuracy"
            url = push(METRIC, options.to, "space", marker, message, not options.public)
        else:
            owner = options.to.split("/")[0]
            audio = read_report(options.run)["audio"]
            dataset = options.dataset or f"{owner}/feelprint-{audio[0]['corpus']}"
            folder = options.folder or options.run / "publish"
            files = prepare(options.run, options.to, dataset, folder)
            if options.dry_run:
                print(f"{folder} would be uploaded to {options.to}:", *files, sep="\n")
                return 0
            message = f"feelprint, run {options.run.name}"
            url = push(folder, options.to, "model", MARKER, message, not options.public)
    except (CardError, HubError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(url)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
