"""Models that files name: folders that are here become absolute paths.

A hub id stays what it is, and so does whatever is neither: whether it is there is the
cluster's to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from evomerge.specs.reading.rewriting import Text, Value

_HUB = "hf://"
_KEYS = ("model", "base_model")
_MAPPINGS = ("paths", "sources")


def model_folder(written: str, base: Path, *, is_sure: bool = True) -> str:
    """Return what to write for a model so that it means the same from elsewhere.

    Args:
        written: A path, or a hub id, perhaps with ``+`` and an adapter.
        base: Where relative paths start.
        is_sure: Whether it is a model at all; else only a folder that is there is one.
    """
    if "\0" in written or written.startswith(_HUB):
        return written
    if (folder := _folder(written, base)) is not None:
        return folder
    for place in reversed([n for n, sign in enumerate(written) if sign == "+"]):
        pair = written[:place].strip(), written[place + 1 :].strip()
        if all(pair) and any(_folder(part, base) for part in pair):
            return "+".join(model_folder(part, base, is_sure=is_sure) for part in pair)
    if is_sure and written.startswith(("./", "../")):
        return _plain(base / written)
    return written


def _folder(written: str, base: Path) -> str | None:
    path = base / Path(written).expanduser()
    try:
        return _plain(path) if path.is_dir() else None
    except OSError:  # a name that no file can have
        return None


def _plain(path: Path) -> str:
    """Write a path without ``..``; links stay, elsewhere they may lead elsewhere."""
    return os.path.normpath(path.absolute())


def models_of_recipe(text: Text) -> Iterator[Value]:
    """Yield what may name a model in a recipe file, of ours or mergekit's."""
    for document in text.values:
        yield from _models(document)


def _models(value: Value) -> Iterator[Value]:
    for key, below in value.entries():
        if below.text is not None and key in _KEYS:
            yield below
        elif key in _MAPPINGS:
            yield from (entry for _, entry in below.entries())
        yield from _models(below)
    for below in value.items():
        yield from _models(below)
