"""A recipe, written as a mergekit file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.alignment import TRANSFORM
from evomerge.core.recipes.recipe import (
    ANY_ROLE,
    Nested,
    Recipe,
    Slot,
    Transformed,
)
from evomerge.errors import RecipeError, SpecError
from evomerge.specs.mergekit.methods import Method
from evomerge.specs.mergekit.reading import read_mergekit
from evomerge.specs.mergekit.references import (
    Named,
    Places,
    name_of,
    read_reference,
    reference_of,
)
from evomerge.specs.mergekit.tensors import Parts, Where
from evomerge.specs.mergekit.tokenizer import plan_of, write_vocabulary
from evomerge.specs.mergekit.written.differences import differences
from evomerge.specs.mergekit.written.parameters import (
    Told,
    method_for,
    notes_of,
    tell,
    types_of,
)
from evomerge.specs.mergekit.written.stretches import (
    LAYER,
    Stretch,
    columns_of,
    of_all,
    of_input,
    setting_of,
)
from evomerge.specs.reading.mistakes import Mistakes


@dataclass(frozen=True, slots=True)
class WrittenMerge:
    """A mergekit file.

    Attributes:
        data: What it holds.
        losses: What it leaves out or changes, in sentences; empty if it says the same.
        notes: What to know beside: how mergekit goes about the same merge.
    """

    data: Mapping[str, Any]
    losses: tuple[str, ...]
    notes: tuple[str, ...]


def write_mergekit(
    recipe: Recipe, models: Mapping[str, Model], allow: Sequence[str] = ()
) -> WrittenMerge:
    """Write a recipe as a mergekit file, and say what that cannot express.

    The file is read again and compared tensor by tensor, so what is not listed is said.

    Args:
        recipe: What to write.
        models: Input name to model.
        allow: Kinds of differences between the models that are allowed.

    Raises:
        RecipeError: Nothing in mergekit comes near the recipe.
    """
    for name, source in recipe.inputs:
        if isinstance(source, Nested) or (
            isinstance(source, Transformed) and source.transform != TRANSFORM
        ):
            raise RecipeError(
                f"Input {name!r} is itself a merge, which a mergekit file cannot hold. "
                "Write it to a folder with `evomerge merge` and name that."
            )
        if name not in models:
            raise RecipeError(
                f"Input {name!r} has no folder, and a mergekit file names models by "
                "their folders. Add it under paths."
            )
    writer = _Writer(recipe, models)
    data = writer.write()
    if allow:
        data["evomerge"] = {**data.get("evomerge", {}), "allow": list(allow)}
    losses = _losses(recipe, models, data)
    return WrittenMerge(data, losses, tuple(notes_of(writer.method, recipe.dtype)))


def _losses(
    recipe: Recipe, models: Mapping[str, Model], data: Mapping[str, Any]
) -> tuple[str, ...]:
    try:
        again = read_mergekit(
            data,
            Path("merge.yml"),
            named=Named(
                Path("merge.yml"),
                Mistakes("merge.yml"),
                {reference_of(model): model for model in models.values()},
            ),
        )
    except SpecError as error:
        raise RecipeError(
            f"This merge has no mergekit file that mergekit would accept: {error}"
        ) from error
    return differences(recipe, again.recipe, models)


class _Writer:
    def __init__(self, recipe: Recipe, models: Mapping[str, Model]) -> None:
        self.recipe = recipe
        self.parts = {name: Parts(model) for name, model in models.items()}
        self.references = {name: reference_of(model) for name, model in models.items()}
        self.written = {name: self.references[name] for name, _ in recipe.inputs}
        found = [dict(slot.roles)[ANY_ROLE] for _, slot in recipe.places()]
        method = method_for(found)
        if method is None:
            names = sorted({op.operator for op in found})
            raise RecipeError(
                f"mergekit has no method for {', '.join(names)}; this merge cannot be "
                "written as its file."
            )
        self.method: Method = method

    def write(self) -> dict[str, Any]:
        slices = list(self._slices())
        slices[0].outside |= self._told("embed", self.recipe.embed)
        slices[-1].outside |= self._told("head", self.recipe.head)
        data: dict[str, Any] = {"merge_method": self.method.name}
        base = self._base(slices)
        if base is not None:
            data["base_model"] = self.written[base]
        settings = [self._shared(cut) for cut in slices]
        common = settings[0] if all(s == settings[0] for s in settings) else None
        if len(slices) == 1 and self._is_whole(slices[0], base):
            data["models"] = self._sources(slices[0], whole=True)
        else:
            data["slices"] = []
            for cut, own in zip(slices, settings, strict=True):
                entry: dict[str, Any] = {"sources": self._sources(cut, whole=False)}
                if cut.usual.base not in (base, None):
                    entry["base_model"] = self.written[str(cut.usual.base)]
                if own and common is None:
                    entry["parameters"] = own
                data["slices"].append(entry)
        if common:
            data["parameters"] = common
        data |= types_of(self.recipe.dtype)
        vocabulary = write_vocabulary(self.recipe, self.references, base)
        if vocabulary:
            data["tokenizer"] = vocabulary
        own_words = self._own_words(data)
        if own_words:
            data["evomerge"] = own_words
        return data

    def _told(self, where: Where, slot: Slot) -> dict[str, Told]:
        """Return what mergekit is told of every tensor of a part of the result."""
        out: dict[str, Told] = {}
        layers = dict(slot.layers)
        names = layers or {name: 0 for _, op in slot.roles for name in op.reads}
        for name in names:
            part = layers[name] if isinstance(where, int) else where
            for suffix, tensor in self.parts[name].of(part).items():
                operation = slot.operation(tensor.role, suffix)
                full = tensor.called_in(LAYER)
                word = full if isinstance(where, int) else tensor.called
                out.setdefault(word, tell(operation, self.method))
        return out

    def _slices(self) -> Iterator[Stretch]:
        current: Stretch | None = None
        for i, slot in enumerate(self.recipe.slots):
            told, layers = self._told(i, slot), dict(slot.layers)
            if current is not None and current.continues(layers, told):
                current.told.append(told)
                continue
            if current is not None:
                yield current
            current = Stretch([told], layers)
        assert current is not None
        yield current

    def _base(self, slices: list[Stretch]) -> str | None:
        """Return the file's base: the first slice's, or what gives the config.

        Without one mergekit takes the config from any of the models.
        """
        base = slices[0].usual.base
        if base is not None or self.method.base != "ignored":
            return base
        plan = plan_of(self.recipe)
        return self.recipe.frame if plan is None else plan.base

    def _is_whole(self, cut: Stretch, base: str | None) -> bool:
        if base is not None and base not in cut.usual.inputs:
            return False  # listed models alone would make it an input
        return all(
            first == 0 and self.parts[name].model.n_layers == len(cut.told)
            for name, first in cut.first.items()
        )

    def _sources(self, cut: Stretch, *, whole: bool) -> list[dict[str, Any]]:
        usual = cut.usual
        # The base comes first: of a last slice with more sources than the first one
        # mergekit drops some from its end. Beside whole models it need not be listed.
        names = sorted(usual.inputs, key=lambda name: name != usual.base)
        if whole and len(names) > 1:
            names = [
                n for n in names if n != usual.base or self.method.base == "ignored"
            ]
        out = []
        for name in names:
            entry: dict[str, Any] = {"model": self.written[name]}
            if not whole:
                first = cut.first[name]
                entry["layer_range"] = [first, first + len(cut.told)]
            parameters = self._each(cut, name)
            if parameters:
                entry["parameters"] = parameters
            out.append(entry)
        return out

    def _each(self, cut: Stretch, name: str) -> dict[str, Any]:
        """Return the parameters of one input."""
        out = {}
        for parameter in self.method.parameters:
            if parameter.scope == "shared":
                continue
            columns = columns_of(cut, partial(of_input, parameter.name, name))
            usual = 1.0 if parameter.name == "scale" else parameter.default
            if set(columns.values()) - {(usual,)}:
                out[parameter.name] = setting_of(columns)
        return out

    def _shared(self, cut: Stretch) -> dict[str, Any]:
        """Return the parameters that are one value for all inputs."""
        out = {}
        for parameter in self.method.parameters:
            if parameter.scope != "shared":
                continue
            columns = columns_of(cut, partial(of_all, parameter))
            if set(columns.values()) - {(parameter.default,)}:
                out[parameter.name] = setting_of(columns)
        return out

    def _own_words(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return what mergekit has no word for: names, frame and seed."""
        out: dict[str, Any] = {}
        named = self._names_read(data)
        if any(named.get(self.written[n]) != n for n in self.written):
            out["inputs"] = dict(self.written)
        first = (data.get("models") or data["slices"][0]["sources"])[0]["model"]
        if self.written[self.recipe.frame] != data.get("base_model", first):
            out["frame"] = self.recipe.frame
        seeds = {
            int(op.knob("seed", 0))
            for _, slot in self.recipe.places()
            for _, op in slot.roles
            if "seed" in dict(op.shared)
        }
        if seeds - {0}:
            out["seed"] = max(seeds)
        return out

    def _names_read(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Return reference to name, as a reader would make the names up."""
        order = [data["base_model"]] if "base_model" in data else []
        order += [entry["model"] for entry in data.get("models", ())]
        for cut in data.get("slices", ()):
            order += [cut["base_model"]] if "base_model" in cut else []
            order += [source["model"] for source in cut["sources"]]
        out: dict[str, str] = {}
        for written in order:
            reference = read_reference(written, "", Places((Path(),)), Mistakes(""))
            if reference is not None and written not in out:
                out[written] = name_of(reference, out.values())
        return out
