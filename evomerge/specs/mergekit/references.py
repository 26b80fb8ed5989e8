"""What a file calls a model: ``path[@revision][+adapter[@revision]]``, or a map."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.specs.keys import did_you_mean
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.sources import source_folder, split, whereabouts

_PATH_KEYS = ("path", "revision")
_KEYS = ("model", "lora", "override_architecture")
_EXPECTED = "expected a model as path[@revision][+adapter[@revision]]"


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A folder or hub id, and which revision of it."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the written form."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A model, with or without an adapter folded in."""

    model: ModelPath
    adapter: ModelPath | None = None

    @property
    def parts(self) -> tuple[ModelPath, ...]:
        """The model, and its adapter if it has one."""
        return (self.model,) if self.adapter is None else (self.model, self.adapter)

    def __str__(self) -> str:
        """Return the written form."""
        return "+".join(str(part) for part in self.parts)


def read_reference(
    value: Any, key: str, folder: Path, mistakes: Mistakes
) -> Reference | None:
    """Read a written model; None, and a mistake noted, if it is none.

    Args:
        value: As written.
        key: Where it stands.
        folder: Where relative paths start; a folder that is there may have ``+`` or
            ``@`` in its name.
        mistakes: Where to note what is wrong.
    """
    if isinstance(value, Mapping):
        return _from_map(value, key, folder, mistakes)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else repr(value)
        mistakes.add(key, f"{_EXPECTED}, got {got}.")
        return None
    base, adapter = split(value, folder)
    if adapter is None and base.count("+") > 1 and not _is_folder(base, folder):
        mistakes.add(key, f"{_EXPECTED}, with one adapter at most, got {value!r}.")
        return None
    model = _from_text(base, key, folder, mistakes)
    if model is None or adapter is None:
        return None if model is None else Reference(model)
    found = _from_text(adapter, key, folder, mistakes)
    return None if found is None else Reference(model, found)


def _is_folder(text: str, folder: Path) -> bool:
    return source_folder(text, folder).is_dir()


def _from_text(
    text: str, key: str, folder: Path, mistakes: Mistakes
) -> ModelPath | None:
    if _is_folder(text, folder):
        return ModelPath(text)
    path, at, revision = text.partition("@")
    if not path or (at and not revision) or "@" in revision:
        mistakes.add(key, f"{_EXPECTED}, got {text!r}.")
        return None
    if at and _is_folder(path, folder):
        mistakes.add(
            key,
            f"expected no revision: {path!r} is a folder, which has none, got "
            f"{revision!r}.",
        )
    return ModelPath(path, revision or None)


def _from_map(
    value: Mapping[str, Any], key: str, folder: Path, mistakes: Mistakes
) -> Reference | None:
    for name in value:
        if name not in _KEYS:
            mistakes.add(f"{key}.{name}", f"unknown key{did_you_mean(name, _KEYS)}")
    if value.get("override_architecture") is not None:
        mistakes.add(
            f"{key}.override_architecture",
            "expected no such key: names and shapes tell what the tensors are for.",
        )
    model = _path(value.get("model"), f"{key}.model", folder, mistakes)
    lora = value.get("lora")
    adapter = None if lora is None else _path(lora, f"{key}.lora", folder, mistakes)
    if model is None or (lora is not None and adapter is None):
        return None
    return Reference(model, adapter)


def _path(value: Any, key: str, folder: Path, mistakes: Mistakes) -> ModelPath | None:
    if isinstance(value, str) and value.strip():
        return _from_text(value, key, folder, mistakes)
    if not isinstance(value, Mapping):
        got = "nothing" if value is None else repr(value)
        mistakes.add(key, f"expected a path, got {got}.")
        return None
    for name in value:
        if name not in _PATH_KEYS:
            hint = did_you_mean(name, _PATH_KEYS)
            mistakes.add(f"{key}.{name}", f"unknown key{hint}")
    path, revision = value.get("path"), value.get("revision")
    if not isinstance(path, str) or not isinstance(revision, str | None):
        mistakes.add(key, "expected a path and perhaps a revision, both text.")
        return None
    return ModelPath(path, revision)


def name_of(reference: Reference, taken: Collection[str]) -> str:
    """Make a name for an input of a recipe from what the file calls the model."""
    text = "-".join(Path(part.path).name for part in reference.parts)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:56]
    if not stem or not stem[0].isalpha():
        stem = f"m-{stem}".rstrip("-")
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    return name


def reference_of(model: Model) -> str:
    """Return what mergekit calls a model: folders, or ids of a hub, without scheme."""
    parts = whereabouts(model).split("+hf://")
    return "+".join(os.path.normpath(part.removeprefix("hf://")) for part in parts)
