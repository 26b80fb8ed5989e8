"""All that a small search loads on its way: import it before forking, to load it once.

For CMA-ES alone that takes two seconds, and what a fork loads, it loads for itself.
"""

import alembic.command
import alembic.script  # it loads mako
import psycopg

import evomerge.scoring.simulated.engine
import evomerge.search.coordinator
import evomerge.store.databases.postgres
import evomerge.store.databases.sqlite
import evomerge.store.sql
import evomerge.strategies.catcma
import evomerge.strategies.cma
import evomerge.strategies.genetic.nsga
import evomerge.strategies.tpe  # noqa: F401

__all__ = ["alembic", "psycopg"]
