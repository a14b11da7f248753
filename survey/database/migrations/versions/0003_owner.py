"""Groups and exclusion of raters, clips that were sent, late answers, and ended sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """To this schema."""
    group = sa.Column("group", sa.String(40), nullable=False, server_default="")
    excluded = sa.Column("excluded", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("raters", group)
    op.add_column("raters", excluded)
    op.add_column("rounds", sa.Column("fetched", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rounds", sa.Column("expired", sa.DateTime(timezone=True)))
    op.create_table(
        "ended_sessions",
        sa.Column("nonce", sa.String(32), primary_key=True),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=False),
    )
