"""The tables, as SQLAlchemy Core sees them, and how a database gets them.

The tables are made by the steps in ``migrations``; these definitions say where those
steps must lead, and a test compares the two. Only portable types: text for canonical
JSON (floats keep every bit), doubles for seconds since 1970 by the database's clock,
blobs for compressed JSON. Everything is named, so a migration can name what it changes.

Alembic is loaded only where tables are made or changed: opening a database reads one
row.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every schema version there was, oldest first; the last is the one used here."""

VERSION_TABLE = "em_alembic_version"
"""Our own: the default name belongs to whoever else uses the database."""

APPLICATION = "evomerge"

_NAMING = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
_DIGEST = sa.String(64)
_WORD = sa.String(40)
_NAME = sa.String(64)

metadata = sa.MetaData(naming_convention=_NAMING)

meta = sa.Table(
    "em_meta",
    metadata,
    sa.Column("key", _WORD, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

study = sa.Table(
    "em_study",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("allowance", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("finished", sa.Text),
    # Counters are moved in the transaction of what they count.
    sa.Column("spent_s", sa.Double, nullable=False, default=0.0),
    sa.Column("n_items", sa.BigInteger, nullable=False, default=0),
    sa.Column("n_finals", sa.Integer, nullable=False, server_default="0"),
    # The lease: free while lease_until is null.
    sa.Column("lease_epoch", sa.Integer, nullable=False, default=0),
    sa.Column("lease_until", sa.Double),
    sa.Column("lease_ttl", sa.Double),
    sa.Column("lease_host", sa.Text),
    sa.Column("lease_pid", sa.Integer),
    sa.Column("lease_started", sa.Text),
)


def _study_key() -> sa.Column[int]:
    return sa.Column("study_id", sa.ForeignKey(study.c.id), primary_key=True)


protocol = sa.Table(
    "em_protocol",
    metadata,
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("settings", sa.Text, nullable=False),
)

manifest = sa.Table(
    "em_manifest",
    metadata,
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

task = sa.Table(
    "em_task",
    metadata,
    _study_key(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("protocol_digest", sa.ForeignKey(protocol.c.digest), nullable=False),
    sa.Column("manifest_digest", sa.ForeignKey(manifest.c.digest), nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.UniqueConstraint("study_id", "task"),
)

generation = sa.Table(
    "em_generation",
    metadata,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("memory", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("created", sa.Double, nullable=False),
    # The blocks its trials answer, as {task: [index, ...]}; null for all.
    sa.Column("sample", sa.Text),
)

recipe = sa.Table(
    "em_recipe",
    metadata,
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

trial = sa.Table(
    "em_trial",
    metadata,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("point", sa.Text),
    sa.Column("recipe_digest", sa.ForeignKey(recipe.c.digest), nullable=False),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("faults", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker", sa.Text),
    sa.Column("scores", sa.Text),
    sa.Column("cause", _WORD),
    sa.Column("blame", _WORD),
    sa.Column("message", sa.Text),
    sa.Column("seconds", sa.Text),
    sa.Column("reused", sa.Boolean, nullable=False, default=False),
    sa.Column("changed", sa.Double, nullable=False),
    sa.Column("final_of", sa.Integer),
    # Of the scores; null where it was not remembered.
    sa.Column("errors", sa.Text),
    sa.Column("n_items", sa.Integer),
    sa.Column("of_items", sa.Integer),
    sa.UniqueConstraint("study_id", "generation", "position"),
    sa.Index(None, "study_id", "state"),
    sa.Index(None, "recipe_digest"),
)

attempt = sa.Table(
    "em_attempt",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("worker", sa.Text),
    sa.Column("began", sa.Double),
    # Null while it runs; the word is one of ``AttemptEnd``.
    sa.Column("ended", sa.Double),
    sa.Column("end", _WORD),
    sa.Column("cause", _WORD),
    sa.Column("message", sa.Text),
    sa.ForeignKeyConstraint(["study_id", "trial"], [trial.c.study_id, trial.c.number]),
)

part = sa.Table(
    "em_part",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    # What was handed out, as [[task, index], ...].
    sa.Column("blocks", sa.Text, nullable=False),
    sa.Column("began", sa.Double, nullable=False),
    # Null while it runs; the words of the attempt's.
    sa.Column("ended", sa.Double),
    sa.Column("end", _WORD),
    sa.Column("cause", _WORD),
    sa.ForeignKeyConstraint(
        ["study_id", "trial", "attempt"],
        [attempt.c.study_id, attempt.c.trial, attempt.c.attempt],
    ),
)

outcome_block = sa.Table(
    "em_outcome_block",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # No foreign keys: outcomes are named by content and outlive any study.
    sa.Column("recipe_digest", _DIGEST, nullable=False),
    sa.Column("protocol_digest", _DIGEST, nullable=False),
    sa.Column("items_digest", _DIGEST, nullable=False),
    sa.Column("n_items", sa.Integer, nullable=False),
    sa.Column("means", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    # The study whose budget the items count against, 0 for none; null if written by
    # the first schema. No foreign key: a study may be deleted before its outcomes.
    sa.Column("charged_to", sa.Integer),
    sa.UniqueConstraint("recipe_digest", "protocol_digest", "items_digest"),
)

event = sa.Table(
    "em_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.ForeignKey(study.c.id), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", _WORD, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index(None, "study_id", "kind"),
)

artifact = sa.Table(
    "em_artifact",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.ForeignKey(study.c.id), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", _DIGEST, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.ForeignKeyConstraint(["study_id", "trial"], [trial.c.study_id, trial.c.number]),
    sa.UniqueConstraint("study_id", "trial", "path", "digest"),
)

# What a service keeps beside its studies; empty where nobody runs one.

user = sa.Table(
    "em_user",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", _NAME, nullable=False, unique=True),
    sa.Column("role", _WORD, nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("max_running", sa.Integer),
    sa.Column("max_gpu_hours", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
)

token = sa.Table(
    "em_token",
    metadata,
    # Of the secret, which is kept nowhere.
    sa.Column("hash", _DIGEST, primary_key=True),
    sa.Column("user_id", sa.ForeignKey(user.c.id), nullable=False),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("last_used", sa.Double),
    sa.UniqueConstraint("user_id", "name"),
)

bundle = sa.Table(
    "em_bundle",
    metadata,
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

job = sa.Table(
    "em_job",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey(user.c.id), nullable=False),
    sa.Column("name", _NAME, nullable=False),
    # As ``em_study`` will have it; no foreign key, the study is made by the first run.
    sa.Column("study", _NAME, nullable=False, unique=True),
    sa.Column("bundle_digest", sa.ForeignKey(bundle.c.digest), nullable=False),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("wanted", _WORD, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("budget", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    # What ``place`` asks for, where a query can add it up.
    sa.Column("slots", sa.Integer, nullable=False),
    # The claim: free while claim_until is null.
    sa.Column("claim_by", sa.Text),
    sa.Column("claim_epoch", sa.Integer, nullable=False),
    sa.Column("claim_until", sa.Double),
    sa.Column("not_before", sa.Double),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("fruitless", sa.Integer, nullable=False),
    sa.Column("last_progress", sa.BigInteger, nullable=False),
    sa.Column("why", sa.Text),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
    sa.UniqueConstraint("user_id", "name"),
    sa.Index(None, "state"),
)

job_event = sa.Table(
    "em_job_event",
    metadata,
    sa.Column("job_id", sa.ForeignKey(job.c.id), primary_key=True),
    # Drawn while the job's row is locked: who read up to one misses none before it.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", _WORD, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

worker = sa.Table(
    "em_worker",
    metadata,
    # Unlike any other's, whatever study it works for.
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("node_id", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("ip", sa.Text, nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("resources", sa.Text, nullable=False),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("study_id", sa.ForeignKey(study.c.id)),
    sa.Column("setup_digest", _DIGEST),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)

export = sa.Table(
    "em_export",
    metadata,
    sa.Column("job_id", sa.ForeignKey(job.c.id), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    # Null for the best, of what was recorded when it was asked for.
    sa.Column("trial", sa.Integer),
    sa.Column("is_scored", sa.Boolean, nullable=False),
    sa.Column("progress", sa.BigInteger, nullable=False),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("why", sa.Text),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("fingerprint", sa.Text),
    # The claim: free while claim_until is null.
    sa.Column("claim_by", sa.Text),
    sa.Column("claim_until", sa.Double),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
    sa.Index(None, "state"),
)

_STEPS = Path(__file__).parents[1] / "migrations"
_VERSION = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))


def recorded_version(connection: sa.Connection, tables: list[str]) -> str | None:
    """Return the version of an evomerge database, None if it is not one.

    Args:
        connection: A transaction.
        tables: Names of the tables there are.
    """
    if meta.name not in tables:
        return None
    facts = {
        row.key: row.value
        for row in connection.execute(sa.select(meta.c.key, meta.c.value))
    }
    if facts.get("application") != APPLICATION:
        return None
    if VERSION_TABLE in tables:
        return present_version(connection)
    # The first schema had no version table.
    return f"{int(facts['schema_version']):04}" if "schema_version" in facts else None


def present_version(connection: sa.Connection) -> str | None:
    """Return the version of a database that was found to be evomerge's before."""
    version: str | None = connection.scalar(sa.select(_VERSION.c.version_num))
    return version


def migrate(connection: sa.Connection, version: str | None) -> None:
    """Bring the tables to the present version, all in the caller's transaction.

    Args:
        connection: A writing transaction.
        version: The recorded one; None for an empty database.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if version == VERSIONS[0]:
        command.stamp(config, version)
    command.upgrade(config, VERSIONS[-1])
