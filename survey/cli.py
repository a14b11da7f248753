"""The command `feelprint-survey`: serve (the default), export, pause, merge, backup and others."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey.config import SurveyConfig, SurveyError, as_yaml, load_config

if TYPE_CHECKING:  # each command imports what it needs, so that `export` loads no web server
    from survey.database.store import Store

Run = Callable[[argparse.Namespace], None]
DATABASE = "FEELPRINT_SURVEY_DATABASE"
MIN_OWNER_TOKEN = 16  # characters
OWNER = "FEELPRINT_SURVEY_OWNER"
READ_WITHIN_S = 40.0  # of the music, so that the survey starts within a minute on a slow disk
SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "--corpus": {
        "type": Path,
        "metavar": "DIR",
        "help": "a corpus (DIR/data/*.parquet) or a folder of music",
    },
    "--data": {
        "type": Path,
        "default": Path("data/survey"),
        "metavar": "DIR",
        "help": "folder of the clips and, without --database, the answers (default: data/survey)",
    },
    "--database": {
        "metavar": "URL",
        "help": "sqlite:///FILE or postgresql://USER@HOST/NAME; the environment variable "
        f"{DATABASE} does the same and keeps a password off the command line",
    },
    "--config": {"type": Path, "metavar": "FILE", "help": "a YAML file (see: config)"},
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand; returns 0, or 2 after an error that the owner can correct."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    names = {
        "serve",
        "prepare",
        "export",
        "pause",
        "resume",
        "merge",
        "backup",
        "simulate",
        "config",
    }
    if not given or (given[0] not in names and given[0] not in ("-h", "--help")):
        given = ["serve", *given]
    options = parser.parse_args(given)
    try:
        options.run(options)
    except (SurveyError, OSError) as error:
        print(f"feelprint-survey: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="feelprint-survey", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, text: str, run: Run, *shared: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        for option in shared:
            sub.add_argument(option, **SHARED_OPTIONS[option])
        return sub

    _add_serving(add)
    _add_export(add)
    _add_upkeep(add)
    return parser


def _add_serving(add: Callable[..., argparse.ArgumentParser]) -> None:
    serve = add(
        "serve", "serve the survey (the default command)", _serve,
        "--corpus", "--data", "--database", "--config",
    )  # fmt: skip
    serve.add_argument(
        "--embeddings", type=Path, nargs="+", default=[], metavar="FILE",
        help="Parquet tables (id, embedding) of the current model; several form an ensemble",
    )  # fmt: skip
    serve.add_argument(
        "--limit", type=int, default=500, metavar="N",
        help="of a folder of music, take at most N files (default: 500)",
    )  # fmt: skip
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")

    prepare = add(
        "prepare", "cut the clips of a corpus, without serving it", _prepare, "--data", "--config"
    )
    prepare.add_argument("--corpus", required=True, **SHARED_OPTIONS["--corpus"])


def _add_export(add: Callable[..., argparse.ArgumentParser]) -> None:
    export = add(
        "export", "write the answers as a table of triplets", _export, "--data", "--database"
    )
    export.add_argument("out", type=Path, help="FILE.parquet, or FILE.csv for MECOMP's layout")
    export.add_argument(
        "--min-gold-accuracy", type=float, default=0.0, metavar="SHARE",
        help="leave out raters with a lower accuracy in gold rounds (default: 0)",
    )  # fmt: skip
    export.add_argument(
        "--min-consistency", type=float, default=0.0, metavar="SHARE",
        help="leave out raters with a lower consistency in repeated rounds (default: 0)",
    )  # fmt: skip
    export.add_argument(
        "--corpus", type=Path, metavar="DIR",
        help="for a CSV: name tracks from FMA by their FMA numbers, which this corpus states",
    )  # fmt: skip
    export.add_argument(
        "--min-attentive", type=float, default=0.0, metavar="P",
        help="leave out raters who listen with a lower probability, by their gold rounds and "
        "repeats (default: 0; 0.9 lets fewer than 2 %% of random clickers pass)",
    )  # fmt: skip
    export.add_argument(
        "--exclude-rater", action="append", default=[], metavar="NAME",
        help="leave out this rater, by the name on the owner's page; may be repeated",
    )  # fmt: skip
    export.add_argument(
        "--since", type=_date, metavar="DATE",
        help="only answers from this day or time on (ISO 8601, UTC), such as 2026-01-31",
    )  # fmt: skip


def _add_upkeep(add: Callable[..., argparse.ArgumentParser]) -> None:
    for name, text, paused in (
        ("pause", "pause the survey: raters are given no rounds, also while it is served", True),
        ("resume", "resume a paused survey", False),
    ):
        add(name, text, _pause, "--data", "--database").set_defaults(paused=paused)
    merge = add(
        "merge", "take over the raters and answers of another survey", _merge,
        "--data", "--database",
    )  # fmt: skip
    merge.add_argument("other", help="its database: a file, or a URL as for --database")
    backup = add(
        "backup", "copy the database (SQLite), also while it is served", _backup,
        "--data", "--database",
    )  # fmt: skip
    backup.add_argument("out", type=Path, help="the copy, a file that does not exist yet")

    simulate = add(
        "simulate", "measure on simulated raters how many answers active selection saves", _simulate
    )
    simulate.add_argument("out", type=Path, help="folder for simulation.json and simulation.svg")
    simulate.add_argument("--seeds", type=int, default=8, help="simulated surveys (default: 8)")
    simulate.add_argument("--answers", type=int, default=800, help="answers in each (default: 800)")

    add("config", "print the default configuration as YAML", _config)


def _config(_: argparse.Namespace) -> None:
    print(as_yaml(SurveyConfig()), end="")


def _open(options: argparse.Namespace, config: SurveyConfig, must_exist: bool) -> Store:
    """The store that the options name, with the newest schema."""
    from survey.database.schema import migrate, open_database
    from survey.database.store import Store

    file = options.data / "survey.db"
    url = options.database or os.environ.get(DATABASE)
    if url is None:
        if must_exist and not file.is_file():
            raise SurveyError(f"there are no answers in {options.data}: no {file}; see --data")
        file.parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{file}"
    engine = open_database(url)
    migrate(engine)
    return Store(engine, config.min_listened_s)


def _prepare(options: argparse.Namespace) -> None:
    from survey.clips import folder_name, open_corpus, prepare

    config = load_config(options.config)
    library = prepare(
        open_corpus(options.corpus, options.data), options.data / folder_name(config), config
    )
    gold = len(library.two_excerpt_tracks)
    print(f"{len(library.tracks)} songs have clips, {gold} of them for gold rounds")


def _serve(options: argparse.Namespace) -> None:
    import uvicorn

    from survey.clips import ClipLibrary, folder_name, open_corpus, plan
    from survey.rounds.active import read_embeddings
    from survey.rounds.assign import Assigner, check_gold
    from survey.web.app import Survey, create_app

    config = load_config(options.config)
    clips = options.data / folder_name(config)
    music = None
    if options.corpus is not None:
        music = open_corpus(options.corpus, options.data, options.limit, READ_WITHIN_S)
    elif not (clips / "library.json").is_file():
        raise SurveyError(f"there are no clips in {clips}: name the music with --corpus DIR")
    store = _open(options, config, must_exist=False)
    if music is not None:
        library = plan(music, clips, config, store.streams_asked())
    else:
        library = ClipLibrary(clips)
    check_gold(library, config)
    embeddings = None
    if options.embeddings:
        embeddings = read_embeddings(options.embeddings, list(library.tracks))
        print(f"active rounds use the {len(embeddings[0])} songs with an embedding")
    elif config.shares.active > 0:
        print("no --embeddings: training rounds are drawn at random (survey-random_train)")
    assigner = Assigner(store, library, config, embeddings)
    for note in assigner.notes:
        print(note)
    owner_token = os.environ.get(OWNER) or None
    if owner_token is not None and len(owner_token) < MIN_OWNER_TOKEN:
        raise SurveyError(
            f"{OWNER} has {len(owner_token)} characters, and needs {MIN_OWNER_TOKEN} or more: "
            'make one with python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    app = create_app(Survey(config, store, library, assigner, owner_token))
    listener = socket.create_server((options.host, options.port))
    port = listener.getsockname()[1]
    print(f"survey of {len(library.tracks)} tracks on http://{options.host}:{port}", flush=True)
    if owner_token is not None:
        print(f"figures on http://{options.host}:{port}/owner", flush=True)
    # No access log, because it would hold the addresses of raters.
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(config.trusted_proxy),
            forwarded_allow_ips=config.trusted_proxy or None,
        )
    )
    if options.corpus is not None:  # first the practice round, with which every rater begins
        practice = [track for track, _ in app.state.site.practice]
        threading.Thread(target=library.cut_all, args=(practice,), daemon=True).start()
    if embeddings is not None:
        threading.Thread(target=assigner.keep_refitting, daemon=True).start()
    server.run(sockets=[listener])
    store.engine.dispose()


def _export(options: argparse.Namespace) -> None:
    from survey.results.export import export

    store = _open(options, SurveyConfig(), must_exist=True)
    filters = options.min_gold_accuracy, options.min_consistency
    lines = export(
        store, options.out, *filters, options.corpus,
        min_attentive=options.min_attentive, exclude=options.exclude_rater, since=options.since,
    )  # fmt: skip
    for line in lines:
        print(line)


def _date(text: str) -> datetime:
    """A date or time in ISO 8601; UTC where it names no zone."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-01-31") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _pause(options: argparse.Namespace) -> None:
    _open(options, SurveyConfig(), must_exist=True).pause(options.paused)
    print("paused: raters are given no rounds" if options.paused else "resumed")


def _merge(options: argparse.Namespace) -> None:
    from survey.database.copies import merge
    from survey.database.schema import migrate, open_database

    if "://" not in options.other and not Path(options.other).is_file():
        raise SurveyError(f"there is no database {options.other}")
    url = options.other if "://" in options.other else f"sqlite:///{options.other}"
    other = open_database(url)
    migrate(other)
    for line in merge(_open(options, SurveyConfig(), must_exist=True), other):
        print(line)


def _backup(options: argparse.Namespace) -> None:
    from survey.database.copies import backup

    print(backup(_open(options, SurveyConfig(), must_exist=True), options.out))


def _simulate(options: argparse.Namespace) -> None:
    from datasets_scripts.files import write_text
    from survey.rounds.simulate import Simulation, plot, simulate

    curves = simulate(Simulation(answers=options.answers), range(options.seeds))
    figures = {"answers": curves.answers} | {s: a.tolist() for s, a in curves.accuracy.items()}
    write_text(options.out / "simulation.json", json.dumps(figures, indent=1) + "\n")
    write_text(options.out / "simulation.svg", plot(curves) + "\n")
    end = float(curves.accuracy["random"].mean(axis=0)[-1])
    print(
        f"random rounds reach {end:.1%} after {curves.answers[-1]} answers, "
        f"active rounds after {curves.answers_needed('active', end):.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
