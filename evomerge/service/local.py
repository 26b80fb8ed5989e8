"""The desk of whoever has the database itself, without a token."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evomerge.errors import UserError
from evomerge.service.desk import Desk
from evomerge.service.records import Records
from evomerge.service.supervisor import Site
from evomerge.store.queue.accounts import Accounts
from evomerge.store.queue.values import Caller, Role, Scope, User

SPOOL = "EVOMERGE_SPOOL"
_DEFAULT_SPOOL = "evomerge-spool"


@contextmanager
def local_desk(
    db: str, spool: Path | None = None, *, create: bool = True
) -> Iterator[Desk]:
    """Give the desk of the user of this machine, over a database.

    Jobs are queued for a user of that name, who is added at first.

    Args:
        db: Its URL.
        spool: The folder of the service that runs on it; EVOMERGE_SPOOL, or the
            default of ``evomerge serve``, if not given.
        create: Make the tables, and the user, where there are none.

    Raises:
        StoreError: The database cannot be used.
    """
    folder = spool or Path(os.environ.get(SPOOL) or _DEFAULT_SPOOL)
    records = Records(db, create=create)
    try:
        user = _known(records.accounts, _own_name(), create=create)
        caller = Caller(replace(user, role=Role.ADMIN), frozenset(Scope))
        yield Desk(records, Site(db, folder.absolute()), caller)
    finally:
        records.close()


def _own_name() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a number that no account has
        name = f"uid{os.getuid()}"
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64]
    return plain if plain[:1].isalnum() else f"u{plain}"[:64]


def _known(accounts: Accounts, name: str, *, create: bool) -> User:
    try:
        return accounts.user(name)
    except UserError:
        if not create:  # somebody who only looks
            return User(0, name, Role.ADMIN, 1.0, None, None)
    try:
        return accounts.add_user(name)
    except UserError:  # somebody was faster
        return accounts.user(name)
