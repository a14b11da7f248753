"""Build corpora, import and derive triplets, publish them: `python -m datasets_scripts COMMAND`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from datasets_scripts.audio import AudioError
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from student.config import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CORPORA = Path("data/corpora")
DEBS = Path("data/debs")
DEBS_HELP = "where the .deb files are, or are fetched to"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command; an expected error is one line and exit code 1."""
    args = parser().parse_args(arguments)
    try:
        print(args.run(args))
    except (AudioError, ConfigError, CorpusError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to resume")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m datasets_scripts", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _add_corpora(commands)
    sub = _add(commands, "extract", extract, "a corpus's tracks as plain files, for a player")
    sub.add_argument("corpus", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    _add_triplets(commands)
    sub = _add(commands, "publish", publish, "a corpus or triplets to the Hugging Face Hub")
    sub.add_argument("folder", type=Path)
    sub.add_argument("repo", help="NAME/DATASET")
    sub.add_argument("--private", action=argparse.BooleanOptionalAction, default=True)
    sub.add_argument("--dry-run", type=Path, metavar="DIR", help="write the files there instead")
    return top


def _add(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(run=run)
    return sub


def _add_corpora(commands) -> None:
    """The commands that build corpora."""
    for name, text in (
        ("free", "the free corpus: music of 62 Debian packages (32 hours, 5.8 GB to fetch)"),
        ("demo", "the demo corpus: music of five small Debian packages (98 MB to fetch)"),
    ):
        sub = _add(commands, name, free, text)
        sub.add_argument("--out", type=Path, default=CORPORA / name)
        sub.add_argument("--config", type=Path, default=CONFIGS / f"{name}_splits.yaml")
        sub.add_argument("--debs", type=Path, default=DEBS, help=DEBS_HELP)

    text = "a corpus of one's own music; nothing leaves the machine"
    sub = _add(commands, "folder", folder, text)
    sub.add_argument("--audio-dir", type=Path, required=True, help="any folder of music")
    sub.add_argument("--out", type=Path, default=CORPORA / "folder")
    sub.add_argument("--jobs", type=int, default=1, help="files decoded at a time")

    text = "the styles corpus: rendered music, labelled with its style"
    sub = _add(commands, "styles", styles, text)
    sub.add_argument("--hours", type=float, default=20.0)
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same corpus")
    sub.add_argument("--out", type=Path, default=CORPORA / "styles")
    sub.add_argument("--debs", type=Path, default=DEBS, help=DEBS_HELP)
    sub.add_argument("--jobs", type=int, default=1, help="tracks rendered at a time")

    sub = _add(commands, "fma", fma, "the Free Music Archive dataset")
    sub.add_argument("--size", default="small", choices=("small", "medium", "large", "full"))
    sub.add_argument("--out", type=Path, help="default: data/corpora/fma-SIZE")
    sub.add_argument("--archives", type=Path, default=Path("data/fma"), help="where the zips go")
    sub.add_argument("--licence", default="", help="keep tracks whose licence this regex matches")
    sub.add_argument("--jobs", type=int, default=1, help="files decoded at a time")

    text = "MUSIFEAST-17: clips with people's ratings, for evaluation"
    sub = _add(commands, "musifeast", musifeast, text)
    sub.add_argument("folder", type=Path, help="a clone of HazelvdW/MUSIFEAST-17")
    sub.add_argument("--out", type=Path, default=CORPORA / "musifeast17")
    sub.add_argument("--jobs", type=int, default=1, help="clips decoded at a time")


def _add_triplets(commands) -> None:
    """The commands that import and derive triplets."""
    text = "tables of which of three tracks is the odd one out"
    kinds = _add(commands, "triplets", None, text).add_subparsers(dest="kind", required=True)
    text = "human answers: checked, weighted and split, with the raters' agreement"
    sub = _add(kinds, "human", human, text)
    sub.add_argument("file", type=Path)
    sub.add_argument("--format", default="table", choices=("table", "mecomp", "votes"))
    sub.add_argument("--corpus", type=Path, help="check ids against it, and split")
    sub.add_argument("--split", default="corpus", choices=("corpus", "groups"))
    sub.add_argument("--out", type=Path, required=True)
    text = "triplets derived from a corpus's metadata or a teacher's embeddings"
    sub = _add(kinds, "made", made, text)
    labels = ("album", "artist", "family", "excerpt", "genre", "teacher")
    sub.add_argument("--by", required=True, choices=labels)
    sub.add_argument("--corpus", type=Path, required=True)
    sub.add_argument("--count", type=int, default=1000, help="triplets of each split")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--embeddings", type=Path, help="for teacher: .npz with ids and embeddings")
    sub.add_argument("--out", type=Path, required=True)


def extract(args: argparse.Namespace) -> str:
    """Write a corpus's tracks as plain files."""
    return f"{Corpus(args.corpus).extract(args.out)} tracks in {args.out}"


def free(args: argparse.Namespace) -> str:
    """Build the free or the demo corpus."""
    from datasets_scripts.config import read_config
    from datasets_scripts.corpora.free import FreeConfig, build_free

    config = read_config(FreeConfig, args.config)
    return report(build_free(config, args.debs, args.out, args.command))


def folder(args: argparse.Namespace) -> str:
    """Build a corpus from a folder."""
    from datasets_scripts.corpora.folder import build_folder

    return report(build_folder(args.audio_dir, args.out, args.jobs))


def styles(args: argparse.Namespace) -> str:
    """Render the styles corpus."""
    from datasets_scripts.corpora.rendered.styles import build_styles

    return report(build_styles(args.hours, args.seed, args.out, args.debs, args.jobs))


def fma(args: argparse.Namespace) -> str:
    """Fetch and build the FMA corpus."""
    from datasets_scripts.corpora.fma import build_fma

    out = args.out or CORPORA / f"fma-{args.size}"
    return report(build_fma(args.size, out, args.archives, args.licence, jobs=args.jobs))


def musifeast(args: argparse.Namespace) -> str:
    """Build the MUSIFEAST-17 corpus, its ratings and its triplets."""
    from datasets_scripts.musifeast import build_musifeast

    return report(build_musifeast(args.folder, args.out, args.jobs))


def human(args: argparse.Namespace) -> str:
    """Import human answers."""
    from datasets_scripts.triplets.human import import_human

    corpus = Corpus(args.corpus) if args.corpus else None
    return import_human(args.file, args.format, args.out, corpus, args.split)


def made(args: argparse.Namespace) -> str:
    """Derive triplets."""
    from datasets_scripts.triplets.made import make

    corpus = Corpus(args.corpus)
    return make(corpus, args.by, args.out, args.count, args.seed, args.embeddings)


def publish(args: argparse.Namespace) -> str:
    """Publish data on the Hub, or write the files that would be sent."""
    from datasets_scripts import publish as hub

    if args.dry_run:
        return hub.prepare(args.folder, args.dry_run)
    return hub.publish(args.folder, args.repo, args.private)


def report(corpus: Corpus) -> str:
    """The counts and licences of a corpus, from its card."""
    text = (corpus.folder / "README.md").read_text(encoding="utf-8")
    counts = text.split("## Counts\n")[1].split("\n## ")[0].strip()
    licences = text.split("## Licences\n")[1].split("\n## ")[0].strip()
    rejects = corpus.folder / "rejects.csv"
    excluded = len(rejects.read_text(encoding="utf-8").splitlines()) - 1
    return f"{corpus.folder}\n{counts}\n\n{licences}\n\n{excluded} files left out: {rejects}"


if __name__ == "__main__":
    main()
