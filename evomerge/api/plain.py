"""Rows as plain data, as ``--json`` prints them and a service answers with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from typing import Any

from evomerge.masking import masked_by_form


def plain(value: Any) -> Any:
    """Turn values of ours into plain data, without what looks like a secret."""
    kind = value.__class__
    if kind in _AS_THEY_ARE:  # most are, of many
        return value
    if isinstance(value, str):
        return masked_by_form(value)
    if kind is dict:
        return {
            key if type(key) is str else str(key): (
                entry if type(entry) in _AS_THEY_ARE else plain(entry)
            )
            for key, entry in value.items()
        }
    if (names := _fields(kind)) is not None:
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return plain(dict(value))
    return [plain(entry) for entry in value] if isinstance(value, _LISTS) else value


def value_words(found: Mapping[str, Any]) -> str:
    """Say a value, how sure it is, on how many of the items, and if it flatters.

    Args:
        found: The fields of a ``Best``, or what an older version told of one.
    """
    said = f"{found['value']:.4g}"
    if (error := found.get("error")) is not None:
        said += f" ± {error:.2g}"
    n_items, of_items = found.get("n_items"), found.get("of_items")
    if n_items is not None and n_items != of_items:
        said += f" on {n_items} of {of_items} items"
    return f"{said}, selected on" if found.get("is_selected") else said


_AS_THEY_ARE = frozenset((type(None), bool, int, float))
_LISTS = (list, tuple)


@cache
def _fields(kind: Hashable) -> tuple[str, ...] | None:
    """Return the fields of a class of data; None of any other."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


def shallow(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Return values of a class of data as mappings, their fields as they are."""
    found = [(row, _fields(row.__class__) or ()) for row in rows]
    return [{name: getattr(row, name) for name in names} for row, names in found]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of trials, as plain data, without mappings in it."""
    nested = {"values": "", "scores": "", "point": "point.", "seconds": "seconds."}
    out = {k: v for k, v in row.items() if k not in nested and k != "directions"}
    for name, stem in nested.items():
        out |= {f"{stem}{k}": v for k, v in (row.get(name) or {}).items()}
    return out
