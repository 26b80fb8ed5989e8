"""The tables of the first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables in an empty database."""
    op.create_table(
        "em_manifest",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_em_manifest")),
    )
    op.create_table(
        "em_meta",
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_em_meta")),
    )
    op.create_table(
        "em_outcome_block",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("recipe_digest", sa.String(length=64), nullable=False),
        sa.Column("protocol_digest", sa.String(length=64), nullable=False),
        sa.Column("items_digest", sa.String(length=64), nullable=False),
        sa.Column("n_items", sa.Integer(), nullable=False),
        sa.Column("means", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_outcome_block")),
        sa.UniqueConstraint(
            "recipe_digest",
            "protocol_digest",
            "items_digest",
            name=op.f("uq_em_outcome_block_recipe_digest_protocol_digest_items_digest"),
        ),
    )
    op.create_table(
        "em_protocol",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_em_protocol")),
    )
    op.create_table(
        "em_recipe",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_em_recipe")),
    )
    op.create_table(
        "em_study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("allowance", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("finished", sa.Text(), nullable=True),
        sa.Column("spent_s", sa.Double(), nullable=False),
        sa.Column("n_items", sa.BigInteger(), nullable=False),
        sa.Column("lease_epoch", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("lease_host", sa.Text(), nullable=True),
        sa.Column("lease_pid", sa.Integer(), nullable=True),
        sa.Column("lease_started", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_study")),
        sa.UniqueConstraint("name", name=op.f("uq_em_study_name")),
    )
    op.create_table(
        "em_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_event_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_event")),
    )
    op.create_index(
        op.f("ix_em_event_study_id_kind"),
        "em_event",
        ["study_id", "kind"],
        unique=False,
    )
    op.create_table(
        "em_generation",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_generation_study_id")
        ),
        sa.PrimaryKeyConstraint("study_id", "number", name=op.f("pk_em_generation")),
    )
    op.create_table(
        "em_task",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("protocol_digest", sa.String(length=64), nullable=False),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_digest"],
            ["em_manifest.digest"],
            name=op.f("fk_em_task_manifest_digest"),
        ),
        sa.ForeignKeyConstraint(
            ["protocol_digest"],
            ["em_protocol.digest"],
            name=op.f("fk_em_task_protocol_digest"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_task_study_id")
        ),
        sa.PrimaryKeyConstraint("study_id", "position", name=op.f("pk_em_task")),
        sa.UniqueConstraint("study_id", "task", name=op.f("uq_em_task_study_id_task")),
    )
    op.create_table(
        "em_trial",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("point", sa.Text(), nullable=True),
        sa.Column("recipe_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("scores", sa.Text(), nullable=True),
        sa.Column("cause", sa.String(length=40), nullable=True),
        sa.Column("blame", sa.String(length=40), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Text(), nullable=True),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["recipe_digest"],
            ["em_recipe.digest"],
            name=op.f("fk_em_trial_recipe_digest"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_trial_study_id")
        ),
        sa.PrimaryKeyConstraint("study_id", "number", name=op.f("pk_em_trial")),
        sa.UniqueConstraint(
            "study_id",
            "generation",
            "position",
            name=op.f("uq_em_trial_study_id_generation_position"),
        ),
    )
    op.create_index(
        op.f("ix_em_trial_recipe_digest"), "em_trial", ["recipe_digest"], unique=False
    )
    op.create_index(
        op.f("ix_em_trial_study_id_state"),
        "em_trial",
        ["study_id", "state"],
        unique=False,
    )
    op.create_table(
        "em_artifact",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "trial"],
            ["em_trial.study_id", "em_trial.number"],
            name=op.f("fk_em_artifact_study_id_trial"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["em_study.id"], name=op.f("fk_em_artifact_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_em_artifact")),
        sa.UniqueConstraint(
            "study_id",
            "trial",
            "path",
            "digest",
            name=op.f("uq_em_artifact_study_id_trial_path_digest"),
        ),
    )
    op.bulk_insert(
        sa.table("em_meta", sa.column("key"), sa.column("value")),
        [
            {"key": "application", "value": "evomerge"},
            {"key": "schema_version", "value": "1"},
        ],
    )
