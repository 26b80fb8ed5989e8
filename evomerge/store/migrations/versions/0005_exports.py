"""Model folders that a service writes for those who ask."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table; nothing that was recorded changes."""
    op.create_table(
        "em_export",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer()),
        sa.Column("is_scored", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("why", sa.Text()),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.Text()),
        sa.Column("claim_by", sa.Text()),
        sa.Column("claim_until", sa.Double()),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["em_job.id"], name=op.f("fk_em_export_job_id")
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_em_export")),
    )
    op.create_index(op.f("ix_em_export_state"), "em_export", ["state"], unique=False)
