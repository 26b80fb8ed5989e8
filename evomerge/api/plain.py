"""Rows as plain data, as ``--json`` prints them and a service answers with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from evomerge.masking import masked_by_form


def plain(value: Any) -> Any:
    """Turn values of ours into plain data, without what looks like a secret."""
    if value is None or isinstance(value, int | float):  # most are, of many
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return masked_by_form(value) if isinstance(value, str) else value


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of trials, as plain data, without mappings in it."""
    nested = {"values": "", "scores": "", "point": "point.", "seconds": "seconds."}
    out = {k: v for k, v in row.items() if k not in nested and k != "directions"}
    for name, stem in nested.items():
        out |= {f"{stem}{k}": v for k, v in (row.get(name) or {}).items()}
    return out
