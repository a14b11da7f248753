"""The tables, and the one way to open them: SQLite (WAL, synchronous FULL) or PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from survey.config import SurveyError

metadata = sa.MetaData()
MIGRATIONS = Path(__file__).parent / "migrations"


class Moment(sa.TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite forgets the zone, so it is put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database: UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        """From the database: aware, UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


settings = sa.Table(
    "settings",
    metadata,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("value", sa.String(200), nullable=False),
)

raters = sa.Table(
    "raters",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(32), nullable=False, unique=True),  # random; all that is exported
    sa.Column("consented", Moment, nullable=False),
    sa.Column("headphones", sa.String(16), nullable=False),
    sa.Column("age", sa.String(16), nullable=False),
    sa.Column("training", sa.String(16), nullable=False),
)

# A triplet belongs to one stream for good, so that no triplet of the test stream is ever asked
# as a training round. Gold ones hold one track twice (a = b) and the stranger as c; all others
# are sorted, a < b < c, so that the unique constraint sees the same three songs as the same.
triplets = sa.Table(
    "triplets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("stream", sa.String(8), nullable=False),  # active, cold, random or gold
    sa.Column("a", sa.String(64), nullable=False),
    sa.Column("b", sa.String(64), nullable=False),
    sa.Column("c", sa.String(64), nullable=False),
    sa.Column("quota", sa.Integer, nullable=False),  # raters wanted
    sa.Column("taken", sa.Integer, nullable=False),  # raters it was given to
    sa.Column("created", Moment, nullable=False),
    sa.UniqueConstraint("a", "b", "c", name="one_stream_per_triplet"),
    sa.CheckConstraint("taken >= 0", name="taken_not_negative"),
)
sa.Index("triplets_open", triplets.c.stream, triplets.c.quota, triplets.c.taken)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("token", sa.String(32), nullable=False, unique=True),
    sa.Column("clips_token", sa.String(32), nullable=False, unique=True),
    sa.Column("rater", sa.Integer, sa.ForeignKey("raters.id", ondelete="CASCADE"), nullable=False),
    sa.Column("triplet", sa.Integer, sa.ForeignKey("triplets.id"), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),  # active, cold, random, repeat or gold
    sa.Column("places", sa.String(3), nullable=False),  # "201": place 0 shows c, then a, then b
    sa.Column("repeats", sa.Integer, sa.ForeignKey("rounds.id", ondelete="CASCADE")),
    sa.Column("assigned", Moment, nullable=False),
    sa.Column("shown", Moment),  # when it became the rater's current round
)
sa.Index("rounds_rater", rounds.c.rater, rounds.c.id)
sa.Index("rounds_triplet", rounds.c.triplet)
sa.Index("rounds_repeats", rounds.c.repeats, unique=True)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(
        "round",
        sa.Integer,
        sa.ForeignKey("rounds.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    sa.Column("odd", sa.Integer),  # 0, 1, 2 for the triplet's a, b, c; null: can't tell
    sa.Column("place", sa.Integer),  # where it stood on the page, 0 to 2
    sa.Column("heard_0_s", sa.Float, nullable=False),  # by place
    sa.Column("heard_1_s", sa.Float, nullable=False),
    sa.Column("heard_2_s", sa.Float, nullable=False),
    sa.Column("taken_s", sa.Float, nullable=False),  # from shown to answered
    sa.Column("answered", Moment, nullable=False),
)
sa.Index("answers_answered", answers.c.answered)


def open_database(url: str) -> sa.Engine:
    """An engine for `url`, for example sqlite:///survey.db or postgresql://user@host/name.

    SQLite connections run with WAL, synchronous FULL, foreign keys and secure_delete; every
    transaction of SQLAlchemy begins as SQLite's own BEGIN. Raises SurveyError for other
    databases and for one that cannot be reached.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise SurveyError(
            "cannot read the database URL; expected sqlite:///FILE or postgresql://..."
        ) from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, pool_size=20, max_overflow=20, pool_pre_ping=True)
    elif backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise SurveyError("the survey needs a database file: sqlite:///PATH, not memory")
        engine = sa.create_engine(parsed, pool_size=20, max_overflow=20)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        raise SurveyError(f"the survey runs on sqlite and postgresql, not on {backend}")
    try:
        with engine.connect():
            pass
    except sa.exc.OperationalError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise SurveyError(f"cannot open the database {shown}: {error.orig}") from error
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # pysqlite begins no transaction by itself
    for pragma in (
        "busy_timeout=10000",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the write lock at once: a transaction that reads first and writes later
    # fails with "database is locked" when another has written in between.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def migrate(engine: sa.Engine) -> None:
    """Brings the database to the newest schema; one already there stays as it is.

    Raises SurveyError when the database was written by a newer version of the survey.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.execution_options(write=True).begin() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and found not in known:
            raise SurveyError(
                f"the database has schema {found}, which this version does not know: "
                "it was made by a newer one, so update the survey"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
