"""Under which licence a model folder says it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST = 1 << 16
"""Characters of a file that are looked at."""
_KEYS = ("license_name", "license")
_TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


def licence_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return what a model's card, its configuration or its licence file names.

    Names are those of strangers: they may say anything. A card's own name for a licence
    comes before the hub's ``other``; of a licence's text it is the first line.

    Args:
        folder: The model's.
        config: Its configuration.
    """
    said = _front_matter(_read(folder / "README.md"))
    for key in _KEYS:
        if said.get(key):
            return said[key]
    named = config.get("license")
    if isinstance(named, str) and named.strip():
        return named.strip()
    lines = (
        line.strip(" #*=\t")
        for name in _TEXTS
        for line in _read(folder / name).splitlines()
    )
    return next((line for line in lines if line), None)


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_MOST)
    except OSError:
        return ""


def _front_matter(text: str) -> dict[str, str]:
    """Return plain values, and first entries of lists, at the top of a card."""
    found: dict[str, str] = {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return found
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        entry = re.fullmatch(r"(?:([A-Za-z_]+):|\s*-)\s*(.*?)\s*", line)
        if entry is None:
            continue
        key = entry[1] or key
        value = re.sub(r"\s+#.*", "", entry[2]).strip("\"'")
        if value and value not in ("null", "~"):
            found.setdefault(key, value)
    return {}
