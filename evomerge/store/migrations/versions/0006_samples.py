"""Generations that answer some of the items, and finals that answer all."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns; what was recorded answered all items."""
    n_finals = sa.Column("n_finals", sa.Integer(), nullable=False, server_default="0")
    op.add_column("em_study", n_finals)
    op.add_column("em_generation", sa.Column("sample", sa.Text()))
    op.add_column("em_trial", sa.Column("final_of", sa.Integer()))
    op.add_column("em_trial", sa.Column("errors", sa.Text()))
    op.add_column("em_trial", sa.Column("n_items", sa.Integer()))
    op.add_column("em_trial", sa.Column("of_items", sa.Integer()))
