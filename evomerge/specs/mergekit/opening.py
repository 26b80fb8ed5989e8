"""The models a mergekit file names: what recipes call them, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.composed import composed
from evomerge.core.recipes.recipe import Input, Nested, Recipe
from evomerge.errors import CheckpointError
from evomerge.specs.mergekit.references import (
    Places,
    Reference,
    name_of,
    read_reference,
)
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.sources import input_of, missing, open_pair, source_folder


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
            here = all(source_folder(part, folder).is_dir() for part in parts)
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
