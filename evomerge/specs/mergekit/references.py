"""The models a mergekit file names: how it writes them, and where they lie.

It writes ``path[@revision][+adapter[@revision]]``, or a map of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.composed import composed
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import Input, Nested, Recipe
from evomerge.errors import CheckpointError
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.sources import (
    input_of,
    is_folder,
    missing,
    open_pair,
    source_folder,
    split,
    whereabouts,
)

_PATH_KEYS = ("path", "revision")
_KEYS = ("model", "lora", "override_architecture")
_EXPECTED = "expected a model as path[@revision][+adapter[@revision]]"


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A folder, from the root, or a hub id, and which revision of it.

    Attributes:
        said: How a folder is written in the file.
    """

    path: str
    revision: str | None = None
    said: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return the written form."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Places:
    """Where relative paths start: in the first of these folders that has such a one.

    Attributes:
        folders: In order.
        names: What is no folder, whatever lies there.
    """

    folders: tuple[Path, ...]
    names: Collection[str] = ()

    def find(self, text: str) -> Path | None:
        """Return the folder that is meant, if there is one."""
        return next(iter(self.all(text)), None)

    def all(self, text: str) -> list[Path]:
        """Return every folder that could be meant, each once."""
        if text in self.names:
            return []
        found = (source_folder(text, folder) for folder in self.folders)
        return list(dict.fromkeys(folder for folder in found if is_folder(folder)))

    def split(self, text: str) -> tuple[str, str | None]:
        """Tell a model from the adapter that may be written after it."""
        if self.find(text) is not None:
            return text, None
        found = [split(text, folder) for folder in self.folders]
        whole = [(a, b) for a, b in found if b and self.find(a) and self.find(b)]
        return (whole or found)[0]


@dataclass(frozen=True, slots=True)
class Reference:
    """A model, with or without an adapter folded in."""

    model: ModelPath
    adapter: ModelPath | None = None

    @property
    def parts(self) -> tuple[ModelPath, ...]:
        """The model, and its adapter if it has one."""
        return (self.model,) if self.adapter is None else (self.model, self.adapter)

    @property
    def said(self) -> str:
        """The form that the file has."""
        return "+".join(part.said or str(part) for part in self.parts)

    def __str__(self) -> str:
        """Return the written form, folders from the root."""
        return "+".join(str(part) for part in self.parts)


def passed_over(word: str, known: Sequence[str]) -> str:
    """Say of a key that mergekit does not know it."""
    return f"unknown key{did_you_mean(word, known)} mergekit passes over it."


def read_reference(
    value: Any, key: str, places: Places, mistakes: Mistakes
) -> Reference | None:
    """Read a written model; None, and a mistake noted, if it is none.

    Args:
        value: As written.
        key: Where it stands.
        places: Where relative paths start; a folder that is there may have ``+`` or
            ``@`` in its name.
        mistakes: Where to note what is wrong.
    """
    if isinstance(value, Mapping):
        return _from_map(value, key, places, mistakes)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else repr(value)
        mistakes.add(key, f"{_EXPECTED}, got {got}.")
        return None
    base, adapter = places.split(value)
    if adapter is None and base.count("+") > 1 and places.find(base) is None:
        mistakes.add(key, f"{_EXPECTED}, with one adapter at most, got {value!r}.")
        return None
    model = _from_text(base, key, places, mistakes)
    if model is None or adapter is None:
        return None if model is None else Reference(model)
    found = _from_text(adapter, key, places, mistakes)
    return None if found is None else Reference(model, found)


def _from_text(
    text: str, key: str, places: Places, mistakes: Mistakes
) -> ModelPath | None:
    folder = places.find(text)
    if folder is not None:
        return ModelPath(os.path.normpath(folder), said=text)
    path, at, revision = text.partition("@")
    if not path or (at and not revision) or "@" in revision:
        mistakes.add(key, f"{_EXPECTED}, got {text!r}.")
        return None
    if at and places.find(path) is not None:
        mistakes.add(
            key,
            f"expected no revision: {path!r} is a folder, which has none, got "
            f"{revision!r}.",
        )
    return ModelPath(path, revision or None)


def _from_map(
    value: Mapping[str, Any], key: str, places: Places, mistakes: Mistakes
) -> Reference | None:
    for name in value:
        if name not in _KEYS:
            mistakes.warn(f"{key}.{name}", passed_over(name, _KEYS))
    if value.get("override_architecture") is not None:
        mistakes.warn(
            f"{key}.override_architecture",
            "changes nothing here: names and shapes tell what the tensors are for.",
        )
    model = _path(value.get("model"), f"{key}.model", places, mistakes)
    lora = value.get("lora")
    adapter = None if lora is None else _path(lora, f"{key}.lora", places, mistakes)
    if model is None or (lora is not None and adapter is None):
        return None
    return Reference(model, adapter)


def _path(value: Any, key: str, places: Places, mistakes: Mistakes) -> ModelPath | None:
    if isinstance(value, str) and value.strip():
        return _from_text(value, key, places, mistakes)
    if not isinstance(value, Mapping):
        got = "nothing" if value is None else repr(value)
        mistakes.add(key, f"expected a path, got {got}.")
        return None
    for name in value:
        if name not in _PATH_KEYS:
            mistakes.warn(f"{key}.{name}", passed_over(name, _PATH_KEYS))
    path, revision = value.get("path"), value.get("revision")
    if not isinstance(path, str) or not isinstance(revision, str | None):
        mistakes.add(key, "expected a path and perhaps a revision, both text.")
        return None
    folder = places.find(path) if revision is None else None
    here = path if folder is None else os.path.normpath(folder)
    return ModelPath(here, revision, path)


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


@dataclass(frozen=True, slots=True)
class Earlier:
    """A merge that an earlier document of the file describes, under its name.

    Attributes:
        models: Name to folder, of all that it is made of.
    """

    recipe: Recipe
    models: Mapping[str, Model]


@dataclass(slots=True)
class Named:
    """Names the models that a file mentions, and opens them.

    Attributes:
        file: Relative paths start in the current folder, as mergekit's do, or where
            nothing is there of that name, beside the file.
        mistakes: Where to note what is wrong.
        opened: Models that are open already, by what the file calls them.
        earlier: Merges of earlier documents, by their names.
    """

    file: Path
    mistakes: Mistakes
    opened: Mapping[str, Model] = field(default_factory=dict)
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)

    def name(self, written: Any, key: str) -> str | None:
        """Return the name of a written model; a new one the first time."""
        reference = self._read(written, key)
        if reference is None:
            return None
        for name, known in self.references.items():
            if known == reference:
                return name
        name = name_of(reference, self.references)
        self.references[name] = reference
        return name

    def take(self, named: Mapping[str, str]) -> None:
        """Take the names that the file itself gives to its models."""
        for name, written in named.items():
            reference = self._read(written, f"evomerge.inputs.{name}")
            if reference is not None:
                self.references[name] = reference

    def open(self) -> dict[str, Model]:
        """Open every model; from a hub only if the file is right so far."""
        models: dict[str, Model] = {}
        sound = not self.mistakes.found
        for name, reference in self.references.items():
            if str(reference) in self.opened:
                models[name] = self.opened[str(reference)]
                continue
            if (merge := self._merge(name)) is not None:
                models[name] = composed(merge.recipe, merge.models)
                continue
            parts = [str(part) for part in reference.parts]
            base, added, folder = parts[0], parts[1:], self.file.parent
            here = all(is_folder(source_folder(part, folder)) for part in parts)
            try:
                if sound or here:
                    models[name] = open_pair(base, next(iter(added), None), folder)
                elif (problem := missing(str(reference), folder)) is not None:
                    self._note(name, problem)
            except (CheckpointError, OSError, RuntimeError) as error:
                self._note(name, f"expected a model: {error}")
        return models

    def input(self, name: str, model: Model) -> Input:
        """Return what recipes call a model: a folder, or an earlier merge."""
        merge = self._merge(name)
        return input_of(model) if merge is None else Nested(merge.recipe)

    def below(self, name: str) -> Mapping[str, Model]:
        """Return the folders that an earlier merge is made of, by unlike names."""
        merge = self._merge(name)
        found = {} if merge is None else merge.models
        return {f"{name}/{part}": model for part, model in found.items()}

    def is_merge(self, name: str) -> bool:
        """Tell whether a name is an earlier document's."""
        return self._merge(name) is not None

    def _merge(self, name: str) -> Earlier | None:
        return self.earlier.get(str(self.references[name]))

    def _read(self, written: Any, key: str) -> Reference | None:
        here = Path.cwd()
        folders = tuple(dict.fromkeys((here, (here / self.file).parent)))
        places = Places(folders, self.earlier)
        reference = read_reference(written, key, places, self.mistakes)
        if isinstance(written, str) and len(found := places.all(written)) > 1:
            self.mistakes.warn(
                key,
                f"is {found[0]}, as in mergekit, where relative paths start in the "
                f"current folder, and not {found[1]}, beside the file.",
            )
        if reference is None or reference.adapter is None:
            return reference
        if named := {part.path for part in reference.parts} & self.earlier.keys():
            self.mistakes.add(
                key,
                f"expected a folder on either side of the +, got {min(named)!r}, a "
                "merge of this file. Write it to a folder first.",
            )
        return reference

    def _note(self, name: str, problem: str) -> None:
        self.mistakes.add(self.references[name].said, problem)
