"""The tables and their migrations, on SQLite (WAL, synchronous FULL) or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite stores no zone, so UTC is added to what it returns."""

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
    sa.Column("name", sa.String(32), nullable=False, unique=True),  # random; used in exports
    sa.Column("consented", UtcDateTime, nullable=False),
    sa.Column("headphones", sa.String(16), nullable=False),
    sa.Column("age", sa.String(16), nullable=False),
    sa.Column("training", sa.String(16), nullable=False),
    sa.Column("group", sa.String(40), nullable=False, server_default=""),  # of the invite code
    sa.Column("excluded", sa.Boolean, nullable=False, server_default=sa.false()),  # by the owner
)

# Sessions that a rater ended by "Forget me here"; their cookies stay valid otherwise.
ended_sessions = sa.Table(
    "ended_sessions",
    metadata,
    sa.Column("nonce", sa.String(32), primary_key=True),
    sa.Column("ended", UtcDateTime, nullable=False),
)

# A triplet never changes its stream, so that no triplet of the test stream becomes a training
# round. Gold triplets hold one track twice (a = b) and a distractor as c; all others are sorted,
# a < b < c, so that the unique constraint recognises the same three tracks.
triplets = sa.Table(
    "triplets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("stream", sa.String(16), nullable=False),  # active, random_train, random or gold
    sa.Column("a", sa.String(64), nullable=False),
    sa.Column("b", sa.String(64), nullable=False),
    sa.Column("c", sa.String(64), nullable=False),
    sa.Column("quota", sa.Integer, nullable=False),  # how many raters shall answer it
    sa.Column("taken", sa.Integer, nullable=False),  # how many raters have been given it
    sa.Column("created", UtcDateTime, nullable=False),
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
    sa.Column("kind", sa.String(16), nullable=False),  # one of the streams, or repeat
    sa.Column("places", sa.String(3), nullable=False),  # "201": place 0 shows c, then a, then b
    sa.Column("repeats", sa.Integer, sa.ForeignKey("rounds.id", ondelete="CASCADE")),
    sa.Column("assigned", UtcDateTime, nullable=False),
    sa.Column("shown", UtcDateTime),  # when it became the rater's current round
    # Bit p is set once the clip at place p was sent.
    sa.Column("fetched", sa.Integer, nullable=False, server_default="0"),
    # Its place is given to another rater; an answer that comes late is still stored.
    sa.Column("expired", UtcDateTime),
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
    sa.Column("place", sa.Integer),  # its position on the page, 0 to 2
    sa.Column("listened_0_s", sa.Float, nullable=False),  # seconds, by place
    sa.Column("listened_1_s", sa.Float, nullable=False),
    sa.Column("listened_2_s", sa.Float, nullable=False),
    sa.Column("response_time_s", sa.Float, nullable=False),  # from shown to answered
    sa.Column("answered", UtcDateTime, nullable=False),
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
    except sa.exc.DatabaseError as error:  # out of reach, or a file that is no database
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


def alembic_config(connection: sa.Connection) -> Config:
    """Alembic's configuration for the survey's migrations, run in `connection`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(engine: sa.Engine) -> None:
    """Brings the database to the newest schema, in one transaction; a current one is unchanged.

    Raises SurveyError when the database was written by a newer version of the survey.
    """
    with (
        engine.execution_options(write=True).connect() as connection,
        _unchecked_foreign_keys(connection),
        connection.begin(),
    ):
        config = alembic_config(connection)
        scripts = ScriptDirectory.from_config(config).walk_revisions()
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and found not in {script.revision for script in scripts}:
            raise SurveyError(
                f"the database has schema {found}, which this version does not know: "
                "it was made by a newer one, so update the survey"
            )
        command.upgrade(config, "head")
        if engine.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            if broken:
                raise SurveyError(
                    f"after the migration, rows would refer to rows that do not exist: "
                    f"{broken[:5]}; the database stays as it was"
                )


@contextmanager
def _unchecked_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """Foreign keys off in SQLite: a rebuilt table is dropped first, which would delete by cascade.

    SQLite changes this setting only outside a transaction (https://sqlite.org/lang_altertable.html,
    section 7); PostgreSQL alters its tables in place and needs none of this.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
