"""Plain names: columns of listening and response times, and the kind `random_train`."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

RENAMED = {
    "heard_0_s": "listened_0_s",
    "heard_1_s": "listened_1_s",
    "heard_2_s": "listened_2_s",
    "taken_s": "response_time_s",
}
WIDENED = {"triplets": "stream", "rounds": "kind"}


def upgrade() -> None:
    """To this schema."""
    for old, new in RENAMED.items():
        op.alter_column("answers", old, new_column_name=new)
    for table, column in WIDENED.items():
        # SQLite cannot alter a type; there, Alembic rebuilds the table from this description.
        with op.batch_alter_table(table, copy_from=TABLES[table]) as batch:
            batch.alter_column(
                column, existing_type=sa.String(8), type_=sa.String(16), existing_nullable=False
            )
        values = sa.table(table, sa.column(column))
        cold = values.c[column] == "cold"
        op.execute(sa.update(values).where(cold).values({column: "random_train"}))


_before = sa.MetaData()
_datetime = sa.DateTime(timezone=True)
TABLES = {
    "triplets": sa.Table(
        "triplets",
        _before,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("stream", sa.String(8), nullable=False),
        sa.Column("a", sa.String(64), nullable=False),
        sa.Column("b", sa.String(64), nullable=False),
        sa.Column("c", sa.String(64), nullable=False),
        sa.Column("quota", sa.Integer, nullable=False),
        sa.Column("taken", sa.Integer, nullable=False),
        sa.Column("created", _datetime, nullable=False),
        sa.UniqueConstraint("a", "b", "c", name="one_stream_per_triplet"),
        sa.CheckConstraint("taken >= 0", name="taken_not_negative"),
        sa.Index("triplets_open", "stream", "quota", "taken"),
    ),
    "rounds": sa.Table(
        "rounds",
        _before,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.String(32), nullable=False, unique=True),
        sa.Column("clips_token", sa.String(32), nullable=False, unique=True),
        sa.Column(
            "rater", sa.Integer, sa.ForeignKey("raters.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("triplet", sa.Integer, sa.ForeignKey("triplets.id"), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("places", sa.String(3), nullable=False),
        sa.Column("repeats", sa.Integer, sa.ForeignKey("rounds.id", ondelete="CASCADE")),
        sa.Column("assigned", _datetime, nullable=False),
        sa.Column("shown", _datetime),
        sa.Index("rounds_rater", "rater", "id"),
        sa.Index("rounds_triplet", "triplet"),
        sa.Index("rounds_repeats", "repeats", unique=True),
    ),
}
