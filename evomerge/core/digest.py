"""Canonical JSON and content digests: how equal things get equal names."""

import hashlib
import json
from typing import Any

Scalar = float | int | str | bool
"""A decided value: a knob, a setting, a coordinate of a point."""


def canonical_json(value: Any) -> str:
    """Render plain data as the one JSON text that stands for it.

    Keys are sorted and floats use the shortest text that reads back exactly, so two
    processes, platforms and Python versions agree on every byte.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: Something is not plain data.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def digest(value: Any) -> str:
    """Name plain data by its content: 32 hexadecimal digits (BLAKE2b, 128 bits)."""
    return digest_of_text(canonical_json(value))


def digest_of_text(text: str) -> str:
    """Name plain data by its canonical text, where that is at hand."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
