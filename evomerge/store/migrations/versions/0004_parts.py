"""The parts that attempts are scored in, and the workers that a service has."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables; nothing that was recorded changes."""
    op.create_table(
        "em_part",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("blocks", sa.Text(), nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double()),
        sa.Column("end", sa.String(length=40)),
        sa.Column("cause", sa.String(length=40)),
        sa.ForeignKeyConstraint(
            ["study_id", "trial", "attempt"],
            ["em_attempt.study_id", "em_attempt.trial", "em_attempt.attempt"],
            name=op.f("fk_em_part_study_id_trial_attempt"),
        ),
        sa.PrimaryKeyConstraint(
            "study_id", "trial", "attempt", "part", name=op.f("pk_em_part")
        ),
    )
    op.create_table(
        "em_worker",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=False),
        sa.Column("versions", sa.Text(), nullable=False),
        sa.Column("resources", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("study_id", sa.Integer()),
        sa.Column("setup_digest", sa.String(length=64)),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_worker_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_worker")),
    )
