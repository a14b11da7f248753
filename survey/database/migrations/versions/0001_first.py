"""The first schema: settings, raters, triplets, rounds, answers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """To this schema."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "settings",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("value", sa.String(200), nullable=False),
    )
    op.create_table(
        "raters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(32), nullable=False, unique=True),
        sa.Column("consented", moment, nullable=False),
        sa.Column("headphones", sa.String(16), nullable=False),
        sa.Column("age", sa.String(16), nullable=False),
        sa.Column("training", sa.String(16), nullable=False),
    )
    op.create_table(
        "triplets",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("stream", sa.String(8), nullable=False),
        sa.Column("a", sa.String(64), nullable=False),
        sa.Column("b", sa.String(64), nullable=False),
        sa.Column("c", sa.String(64), nullable=False),
        sa.Column("quota", sa.Integer, nullable=False),
        sa.Column("taken", sa.Integer, nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.UniqueConstraint("a", "b", "c", name="one_stream_per_triplet"),
        sa.CheckConstraint("taken >= 0", name="taken_not_negative"),
    )
    op.create_index("triplets_open", "triplets", ["stream", "quota", "taken"])
    op.create_table(
        "rounds",
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
        sa.Column("assigned", moment, nullable=False),
        sa.Column("shown", moment),
    )
    op.create_index("rounds_rater", "rounds", ["rater", "id"])
    op.create_index("rounds_triplet", "rounds", ["triplet"])
    op.create_index("rounds_repeats", "rounds", ["repeats"], unique=True)
    op.create_table(
        "answers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "round",
            sa.Integer,
            sa.ForeignKey("rounds.id", ondelete="CASCADE"),
            nullable=False,
            unique=True,
        ),
        sa.Column("odd", sa.Integer),
        sa.Column("place", sa.Integer),
        sa.Column("heard_0_s", sa.Float, nullable=False),
        sa.Column("heard_1_s", sa.Float, nullable=False),
        sa.Column("heard_2_s", sa.Float, nullable=False),
        sa.Column("taken_s", sa.Float, nullable=False),
        sa.Column("answered", moment, nullable=False),
    )
    op.create_index("answers_answered", "answers", ["answered"])
