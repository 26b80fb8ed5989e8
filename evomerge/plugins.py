"""Parts of other packages: what strangers wrote.

A study names such a part by the name of an entry point, or as ``my_package.mod:Name``.
A study file alone never makes code run: a part is only loaded if whoever runs the
process has named its package in ``EVOMERGE_PLUGINS``.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from evomerge.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ALLOWED = "EVOMERGE_PLUGINS"
"""Variable with the packages that may be loaded, by their top-level names with commas
between; ``*`` for the entry points of all that are installed."""
Group = Literal["strategies", "operators", "engines", "flows", "measures"]


def find(group: Group, name: str) -> Any | None:
    """Return the part of a name, loading it the first time; None if there is none.

    Args:
        group: What it is.
        name: Of an entry point in the group ``evomerge.GROUP``, or ``module:Name``.

    Raises:
        PluginError: Its package may not be loaded here, or loading it fails.
    """
    where = _named(group, name)
    if where is None:
        return None
    package = where.module.partition(".")[0]
    allowed = {part.strip() for part in os.environ.get(ALLOWED, "").split(",")}
    # Whatever is installed may be an entry point, but not any object of any module.
    if package not in allowed and ("*" not in allowed or ":" in name):
        raise PluginError(
            f"{name!r} is of the package {package!r}, whose code this process may not "
            f"load. Where evomerge runs, set {ALLOWED}={package} if you trust it."
        )
    return _loaded(where.module, where.attr, name)


def known(group: Group) -> tuple[str, ...]:
    """Return the names of all entry points of a group, loaded or not."""
    from importlib.metadata import entry_points  # late: reads every package's files

    return tuple(sorted({one.name for one in entry_points(group=f"evomerge.{group}")}))


def _named(group: Group, name: str) -> EntryPoint | None:
    from importlib.metadata import EntryPoint, entry_points

    module, sign, attr = name.partition(":")
    parts = (*module.split("."), *attr.split("."))
    if sign and all(part.isidentifier() for part in parts):
        return EntryPoint(name, name, f"evomerge.{group}")
    found = [one for one in entry_points(group=f"evomerge.{group}") if one.name == name]
    if len({one.value for one in found}) > 1:
        told = " and ".join(sorted(one.value for one in found))
        raise PluginError(
            f"Several packages have {name!r} for {group}: {told}. Write the one meant, "
            "as module:Name."
        )
    return found[0] if found else None


@cache
def _loaded(module: str, attr: str, name: str) -> Any:
    try:
        part: Any = import_module(module)
        for step in attr.split("."):
            part = getattr(part, step)
    except Exception as error:  # a stranger's code fails in any way it likes
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(
            f"{name!r} cannot be loaded: {said}. Install its package where evomerge "
            "runs, and on every node."
        ) from error
    return part
