"""A mergekit file, read into a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model, compatibility
from evomerge.core.recipe import DTYPES, Input, Recipe, Transformed
from evomerge.errors import CheckpointError, Problem, SpecError
from evomerge.specs.keys import did_you_mean
from evomerge.specs.mergekit.methods import METHODS
from evomerge.specs.mergekit.operations import Profile
from evomerge.specs.mergekit.planning import Planner
from evomerge.specs.mergekit.references import Reference, name_of, read_reference
from evomerge.specs.mergekit.schema import MergekitSpec
from evomerge.specs.mergekit.slices import OutSlice, Slicer
from evomerge.specs.mergekit.tensors import Parts, common_dtype
from evomerge.specs.mergekit.vocabularies import VocabularyWish, read_vocabulary
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.problems import validate
from evomerge.specs.sources import input_of, missing, open_pair, source_folder
from evomerge.specs.vocabulary import brought

METHOD_KEY = "merge_method"


@dataclass(frozen=True, slots=True)
class ReadMerge:
    """A merge as a file has it.

    Attributes:
        recipe: The merge.
        models: Input name to model.
        warnings: What the user must see although nothing is refused.
    """

    recipe: Recipe
    models: Mapping[str, Model]
    warnings: tuple[Problem, ...] = ()


def is_mergekit(data: Mapping[str, Any]) -> bool:
    """Tell whether a file is mergekit's."""
    return METHOD_KEY in data


def read_mergekit(
    data: Mapping[str, Any],
    file: Path,
    *,
    profile: Profile = "identical",
    opened: Mapping[str, Model] | None = None,
) -> ReadMerge:
    """Read a mergekit file.

    Args:
        data: What it holds.
        file: Where it lies; relative paths start there.
        profile: ``identical`` gives mergekit's own result; with ``default`` whatever
            the file does not say is as in recipes of our own.
        opened: Models that are open already, by what the file calls them.

    Raises:
        SpecError: Carries every mistake found.
    """
    return _Reader(data, file, profile, Mistakes(file.name), opened or {}).read()


@dataclass(slots=True)
class _Reader:
    data: Mapping[str, Any]
    file: Path
    profile: Profile
    mistakes: Mistakes
    opened: Mapping[str, Model]
    references: dict[str, Reference] = field(default_factory=dict)

    def read(self) -> ReadMerge:
        spec, problems = validate(MergekitSpec, self.data, self.file.name)
        self.mistakes.found += problems
        if spec is None:
            raise SpecError(self.mistakes.found)
        self._check_words(spec)
        method = METHODS.get(spec.merge_method)
        if method is None:
            hint = did_you_mean(spec.merge_method, list(METHODS))
            self.mistakes.add(METHOD_KEY, f"unknown method{hint}")
            raise SpecError(self.mistakes.found)
        self._own_names(spec)
        slices = Slicer(spec, method, self._name_of, self.mistakes).slices()
        wish = read_vocabulary(spec, self._name_of, self.mistakes)
        self._refuse_template(spec)
        models = self._open()
        self._check_ranges(slices, models)
        known = {name: Parts(model) for name, model in models.items()}
        planner = Planner(
            method,
            known,
            self.profile,
            spec.evomerge.seed if spec.evomerge else 0,
            self.mistakes,
            rows_move=wish is not None,
        )
        whole = slices and all(
            source.name in models and _fits(source.layers, models[source.name])
            for cut in slices
            for source in cut.sources
        )
        if not whole:
            self.mistakes.stop_if_any()
        slots = planner.slots(slices)
        embed, head = planner.embed(slices), planner.head(slices)
        frame = self._frame(spec, slices)
        read = {n for s in (embed, head, *slots) for _, op in s.roles for n in op.reads}
        ends = {n for s in (embed, head) for _, op in s.roles for n in op.reads}
        self._check_fit(models, {frame, *read}, set() if wish else {frame, *ends})
        self.mistakes.stop_if_any()
        named = {frame, *(source.name for cut in slices for source in cut.sources)}
        if wish is not None and wish.is_named:
            named.add(wish.source)
        called = self._called(wish, {n: models[n] for n in sorted(named)}, frame, spec)
        self.mistakes.stop_if_any()
        inputs = {n: called[n] for n in sorted({frame, *read})}
        stored = common_dtype({known[name].dtype for name in inputs})
        recipe = Recipe(
            frame=frame,
            dtype=_dtype(spec.out_dtype or spec.dtype or stored),
            inputs=tuple(inputs.items()),
            embed=embed,
            slots=tuple(slots),
            head=head,
        )
        among = {n for _, one in recipe.inputs for n in _among(one)}
        read_of = {n: models[n] for n in sorted({*inputs, *among})}
        return ReadMerge(recipe, read_of, tuple(self.mistakes.warnings))

    def _called(
        self,
        wish: VocabularyWish | None,
        models: Mapping[str, Model],
        frame: str,
        spec: MergekitSpec,
    ) -> dict[str, Input]:
        """Return what the recipe calls each model: in the wished vocabulary, if any."""
        if wish is None:
            return {name: input_of(model) for name, model in models.items()}
        base = spec.base_model and self._name_of(spec.base_model, "base_model")
        plan = wish.plan(base, frame, exact=self.profile == "identical")
        try:
            return brought(models, plan)
        except CheckpointError as error:
            key = "tokenizer" if spec.tokenizer else "tokenizer_source"
            self.mistakes.add(key, f"expected one vocabulary for all: {error}")
            return {}

    def _check_fit(
        self, models: Mapping[str, Model], read: set[str], ends: set[str]
    ) -> None:
        """Compare models of one depth; vocabularies where they meet."""
        if self.mistakes.found:
            return  # sizes that differ are told of by tensor
        for names, same in ((read, False), (ends, True)):
            for depth in {models[name].n_layers for name in names}:
                alike = {
                    n: models[n] for n in sorted(names) if models[n].n_layers == depth
                }
                misfits = compatibility(alike, same_vocabulary=same)
                if misfits:
                    self.mistakes.add(
                        "", "expected models that fit together: " + " ".join(misfits)
                    )

    def _check_words(self, spec: MergekitSpec) -> None:
        for key in ("dtype", "out_dtype"):
            said = getattr(spec, key)
            if said is not None and _dtype(said) not in DTYPES:
                hint = did_you_mean(_dtype(said), DTYPES)
                self.mistakes.add(key, f"unknown element type {said!r}{hint}")

    def _refuse_template(self, spec: MergekitSpec) -> None:
        if spec.chat_template is not None:
            self.mistakes.add(
                "chat_template",
                "expected no such key: the result has the chat template of its "
                "tokenizer. Put another into the result's chat_template.jinja.",
            )

    def _own_names(self, spec: MergekitSpec) -> None:
        """Take the names that the file itself gives to its models."""
        named = spec.evomerge.inputs if spec.evomerge else None
        for name, written in (named or {}).items():
            key = f"evomerge.inputs.{name}"
            reference = self._reference(written, key)
            if reference is not None:
                self.references[name] = reference

    def _reference(self, written: Any, key: str) -> Reference | None:
        return read_reference(written, key, self.file.parent, self.mistakes)

    def _name_of(self, written: Any, key: str) -> str | None:
        """Return the name of a written model; a new one the first time."""
        reference = self._reference(written, key)
        if reference is None:
            return None
        for name, known in self.references.items():
            if known == reference:
                return name
        name = name_of(reference, self.references)
        self.references[name] = reference
        return name

    def _open(self) -> dict[str, Model]:
        """Open every model; from a hub only if the file is right so far."""
        models: dict[str, Model] = {}
        sound = not self.mistakes.found
        for name, reference in self.references.items():
            if str(reference) in self.opened:
                models[name] = self.opened[str(reference)]
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

    def _note(self, name: str, problem: str) -> None:
        self.mistakes.add(str(self.references[name]), problem)

    def _check_ranges(
        self, slices: list[OutSlice], models: Mapping[str, Model]
    ) -> None:
        for cut in slices:
            for source in cut.sources:
                model = models.get(source.name)
                if model is None or _fits(source.layers, model) or not source.layers:
                    continue
                if 0 <= source.layers[0] < source.layers[1]:
                    self.mistakes.add(
                        f"{source.key}.layer_range",
                        f"expected layers of {source.name!r}, which has "
                        f"{model.n_layers} (so at most [0, {model.n_layers}]), got "
                        f"{list(source.layers)}.",
                    )
            depths = {
                s.name: models[s.name].n_layers
                for s in cut.sources
                if s.layers is None and s.name in models
            }
            if len(set(depths.values())) > 1:
                said = ", ".join(f"{name}: {n}" for name, n in depths.items())
                self.mistakes.add(
                    cut.key,
                    f"expected models of as many layers each, got {said}. Say which "
                    "layers with slices.",
                )

    def _frame(self, spec: MergekitSpec, slices: list[OutSlice]) -> str:
        """The base gives config and tokenizer, or else the first model."""
        own = spec.evomerge.frame if spec.evomerge else None
        if own is not None:
            if own not in self.references:
                known = list(self.references)
                self.mistakes.add(
                    "evomerge.frame", f"unknown input{did_you_mean(own, known)}"
                )
                self.mistakes.stop_if_any()
            return own
        if spec.base_model is not None:
            name = self._name_of(spec.base_model, "base_model")
            assert name is not None
            return name
        return slices[0].sources[0].name


def _among(source: Input) -> tuple[str, ...]:
    """Return the names of all models whose vocabularies meet in an input."""
    return tuple(n for n, _ in source.among) if isinstance(source, Transformed) else ()


def _fits(layers: tuple[int, int] | None, model: Model) -> bool:
    return layers is None or 0 <= layers[0] < layers[1] <= model.n_layers


def _dtype(said: str) -> str:
    return said.removeprefix("torch.")
