"""What a service keeps: users and their tokens, bundles, jobs and their events."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables; nothing that was recorded changes."""
    op.create_table(
        "em_user",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("max_running", sa.Integer()),
        sa.Column("max_gpu_hours", sa.Double()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_user")),
        sa.UniqueConstraint("name", name=op.f("uq_em_user_name")),
    )
    op.create_table(
        "em_token",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double()),
        sa.Column("revoked", sa.Double()),
        sa.Column("last_used", sa.Double()),
        sa.ForeignKeyConstraint(
            ["user_id"], ["em_user.id"], name=op.f("fk_em_token_user_id")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_em_token")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_em_token_user_id_name")),
    )
    op.create_table(
        "em_bundle",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_em_bundle")),
    )
    _jobs()


def _jobs() -> None:
    op.create_table(
        "em_job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("wanted", sa.String(length=40), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("claim_by", sa.Text()),
        sa.Column("claim_epoch", sa.Integer(), nullable=False),
        sa.Column("claim_until", sa.Double()),
        sa.Column("not_before", sa.Double()),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("fruitless", sa.Integer(), nullable=False),
        sa.Column("last_progress", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["bundle_digest"],
            ["em_bundle.digest"],
            name=op.f("fk_em_job_bundle_digest"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["em_user.id"], name=op.f("fk_em_job_user_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_job")),
        sa.UniqueConstraint("study", name=op.f("uq_em_job_study")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_em_job_user_id_name")),
    )
    op.create_index(op.f("ix_em_job_state"), "em_job", ["state"], unique=False)
    op.create_table(
        "em_job_event",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["em_job.id"], name=op.f("fk_em_job_event_job_id")
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_em_job_event")),
    )
