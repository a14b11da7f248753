"""A small corpus of synthetic sounds, its clips, and both databases."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from datasets_scripts.corpora.corpus import Corpus, Item, Track, write_corpus
from survey.clips import ClipLibrary, prepare
from survey.config import Limits, Shares, SurveyConfig
from survey.database.schema import migrate, open_database
from survey.database.store import Store
from survey.rounds.assign import Assigner

RATE = 22_050
ARTISTS = 4
TRACKS = 7

# Quick to cut and without waiting times, which have tests with their own configuration.
CONFIG = SurveyConfig(
    clip_s=10.0,
    gold_tracks=2,
    min_listened_s=0.0,
    repeat_after=2,
    limits=Limits(100_000, 100_000, 1_000_000, 10_000, 10),
)


def make_item(folder: Path, number: int, seconds: float = 34.0, level: float = 0.3) -> Item:
    """A track of two tones and some noise; `level` sets its loudness."""
    rng = np.random.default_rng(number)
    t = np.arange(int(seconds * RATE)) / RATE
    tones = np.sin(2 * np.pi * (110 + 37 * number) * t) + np.sin(
        2 * np.pi * (440 + 11 * number) * t
    )
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * (0.5 + number / 8) * t)
    wave = level * (0.4 * tones * beat + 0.05 * rng.standard_normal(len(t)))
    file = folder / f"{number}.flac"
    soundfile.write(file, wave.astype(np.float32), RATE)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    track = Track(
        id=sha[:16],
        title=f"Song {number}",
        artist=f"Artist {number % ARTISTS}",
        album=f"Album {number % ARTISTS}",
        genres=["calm" if number % 2 else "loud"],
        source="made",
        licence="CC0-1.0",
        duration_s=seconds,
        sha256=sha,
        split="train",
    )
    return Item.of_file(track, file, file.name)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tracks of four artists, from quiet to loud."""
    files = tmp_path_factory.mktemp("files")
    items = [make_item(files, n, level=0.005 * 2.0**n) for n in range(TRACKS)]
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(items, folder, "# synthetic sounds\n")
    return folder


@pytest.fixture(scope="session")
def library(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipLibrary:
    """The clips of the corpus."""
    return prepare(Corpus(corpus_folder), tmp_path_factory.mktemp("clips"), CONFIG, print)


@pytest.fixture(scope="session")
def embeddings_file(library: ClipLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of random embeddings of every track."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(library.tracks), 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "embeddings.parquet"
    table = pa.table({"id": list(library.tracks), "embedding": [v.tolist() for v in vectors]})
    pq.write_table(table, path)
    return path


def as_postgres(command: list[str], **options: object) -> None:
    """Runs a command of PostgreSQL, which refuses to be root, as its own user."""
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    done = subprocess.run(command, user=user, capture_output=True, text=True, cwd="/", **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty PostgreSQL cluster, which is deleted after the tests."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    on_path = shutil.which("initdb")
    assert versions or on_path, "these tests need PostgreSQL: apt-get install postgresql"
    programs = versions[-1] if versions else Path(str(on_path)).parent
    base = Path(f"/tmp/feelprint-pg-{os.getpid()}")
    base.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(base, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = str(base / "data")
    as_postgres([str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "survey", "--no-sync"])
    settings = f"-p {port} -k {base} -c listen_addresses=127.0.0.1 -c max_connections=200"
    log = ["-l", str(base / "log")]
    as_postgres([str(programs / "pg_ctl"), "-D", data, "-w", "-o", settings, *log, "start"])
    try:
        yield f"postgresql://survey@127.0.0.1:{port}/postgres"
    finally:
        as_postgres([str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop"])
        shutil.rmtree(base)


def empty_database(url: str) -> None:
    """Drops everything in a PostgreSQL database."""
    engine = open_database(url)
    with engine.begin() as db:
        db.exec_driver_sql("DROP SCHEMA public CASCADE")
        db.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'survey.db'}"
    url: str = request.getfixturevalue("postgres")
    empty_database(url)
    return url


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store on each database."""
    engine = open_database(database)
    migrate(engine)
    yield Store(engine, CONFIG.min_listened_s)
    engine.dispose()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite, for tests that do not depend on the database."""
    engine = open_database(f"sqlite:///{tmp_path / 'survey.db'}")
    migrate(engine)
    yield Store(engine, CONFIG.min_listened_s)
    engine.dispose()


@pytest.fixture
def assigner(store: Store, library: ClipLibrary) -> Assigner:
    """An assigner without embeddings."""
    return Assigner(store, library, CONFIG, seed=1)


__all__ = ["CONFIG", "Shares", "empty_database", "make_item"]
