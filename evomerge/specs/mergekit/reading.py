"""A mergekit file, read into a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import DTYPES, Input, Recipe, Transformed
from evomerge.errors import Problem, SpecError
from evomerge.specs.mergekit.methods import METHODS, Method
from evomerge.specs.mergekit.operations import ENTRYWISE, Profile
from evomerge.specs.mergekit.planning import Planner
from evomerge.specs.mergekit.references import Earlier, Named
from evomerge.specs.mergekit.schema import MergekitSpec
from evomerge.specs.mergekit.settings import warn_of_filters
from evomerge.specs.mergekit.slices import OutSlice, Slicer
from evomerge.specs.mergekit.tensors import Parts, holds_fused, kept_type
from evomerge.specs.mergekit.tokenizer import (
    VocabularyWish,
    called,
    read_template,
    read_vocabulary,
)
from evomerge.specs.misfits import check_slots, note_tokenizers, refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.sources import (
    warn_of_sources,
)

METHOD_KEY = "merge_method"
_DOUBLE = "float64"


@dataclass(frozen=True, slots=True)
class ReadMerge(Earlier):
    """A merge as a file has it.

    Attributes:
        warnings: What the user must see although nothing is refused.
        chat_template: Instead of the tokenizer's own; None leaves that.
        allow: Kinds of differences between the models that the file allows.
    """

    warnings: tuple[Problem, ...] = ()
    chat_template: str | None = None
    allow: tuple[str, ...] = ()


def is_mergekit(data: Mapping[str, Any]) -> bool:
    """Tell whether a file is mergekit's."""
    return METHOD_KEY in data


def read_mergekit(
    data: Mapping[str, Any],
    file: Path,
    *,
    profile: Profile = "identical",
    named: Named | None = None,
) -> ReadMerge:
    """Read a mergekit file.

    Args:
        data: What it holds.
        file: Where it lies.
        profile: ``identical`` gives mergekit's own result; with ``default`` whatever
            the file does not say is as in recipes of our own.
        named: Names its models, and notes what is wrong.

    Raises:
        SpecError: Carries every mistake found, and what mergekit passes over.
    """
    named = named or Named(file, Mistakes(file.name))
    try:
        return _Reader(data, profile, named.mistakes, named).read()
    except SpecError as error:
        raise SpecError([*error.problems, *named.mistakes.warnings]) from error


@dataclass(slots=True)
class _Reader:
    data: Mapping[str, Any]
    profile: Profile
    mistakes: Mistakes
    named: Named

    def read(self) -> ReadMerge:
        spec = self._spec()
        self._check_words(spec)
        method = METHODS.get(spec.merge_method)
        if method is None:
            hint = did_you_mean(spec.merge_method, list(METHODS))
            self.mistakes.add(METHOD_KEY, f"unknown method{hint}")
            raise SpecError(self.mistakes.found)
        self.named.take(spec.evomerge.inputs or {} if spec.evomerge else {})
        slices = Slicer(spec, method, self.named.name, self.mistakes).slices()
        wish = read_vocabulary(spec, self.named.name, self.mistakes)
        models = self.named.open()
        warn_of_sources(models, self.mistakes, key="")
        template = read_template(spec.chat_template, models, self.mistakes)
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
        if not (whole and _has_bases(method, slices)):
            self.mistakes.stop_if_any()
        slots = planner.slots(slices)
        embed, head = planner.embed(slices), planner.head(slices)
        settings = [one for cut in slices for one in cut.all_settings]
        warn_of_filters(settings, planner.seen, self.mistakes)
        frame = self._frame(spec, slices)
        ends = embed.reads | head.reads
        read = ends.union(*(slot.reads for slot in slots))
        self._check_fit(models, {frame, *read}, set() if wish else {frame, *ends})
        self.mistakes.stop_if_any()
        merged = {frame, *(source.name for cut in slices for source in cut.sources)}
        known_as = self._called(wish, models, merged, frame, spec)
        self.mistakes.stop_if_any()
        inputs = {n: known_as[n] for n in sorted({frame, *read})}
        recipe = Recipe(
            frame=frame,
            dtype=_dtype(spec) or kept_type(known, (embed, *slots, head)),
            inputs=tuple(inputs.items()),
            embed=embed,
            slots=tuple(slots),
            head=head,
            fused=self._is_fused(method, models[frame]),
        )
        check_slots(recipe, models, self.mistakes, key="")
        self.mistakes.stop_if_any()
        among = {n for _, one in recipe.inputs for n in _among(one)}
        folders: dict[str, Model] = {}
        for name in sorted({*inputs, *among}):
            below = self.named.below(name)
            folders |= below or {name: models[name]}
        told, allow = self.mistakes.warnings, self.mistakes.allow
        return ReadMerge(recipe, folders, tuple(told), template, tuple(allow))

    def _is_fused(self, method: Method, frame: Model) -> bool:
        """Tell whether it matters that mergekit merges what transformers fuses."""
        if self.profile != "identical" or method.name in ENTRYWISE:
            return False
        return holds_fused(frame)

    def _spec(self) -> MergekitSpec:
        unknown: list[Problem] = []
        spec, problems = validate(
            MergekitSpec, self.data, self.mistakes.file, unknown_keys=unknown
        )
        self.mistakes.found += problems
        for key in unknown:
            where = key.where.removeprefix(self.mistakes.file).removeprefix(": ")
            self.mistakes.warn(where, f"{key.message} mergekit passes over it.")
        if spec is None:
            raise SpecError(self.mistakes.found)
        self.mistakes.allow = (spec.evomerge and spec.evomerge.allow) or ()
        return spec

    def _called(
        self,
        wish: VocabularyWish | None,
        models: Mapping[str, Model],
        merged: set[str],
        frame: str,
        spec: MergekitSpec,
    ) -> dict[str, Input]:
        """Return what the recipe calls each model: in the wished vocabulary, if any."""
        key = "tokenizer" if spec.tokenizer else "tokenizer_source"
        named = merged | {wish.source} if wish is not None and wish.is_named else merged
        models = {name: models[name] for name in sorted(named)}
        if wish is None:
            self._note_tokenizers(models, frame, spec)
            return {n: self.named.input(n, model) for n, model in models.items()}
        if merges := [name for name in models if self.named.is_merge(name)]:
            self.mistakes.add(
                key,
                f"expected folders whose tokens are known, but {merges[0]!r} is a "
                "merge of this file. Give the key to that document, or write the merge "
                "to a folder first.",
            )
            return {}
        base = spec.base_model and self.named.name(spec.base_model, "base_model")
        exact = self.profile == "identical"
        plan = wish.plan(base, frame, exact=exact, merged=merged)
        self._note_tokenizers(models, plan.donor, spec)
        return called(plan, models, merged, key, self.mistakes)

    def _note_tokenizers(
        self, models: Mapping[str, Model], giver: str, spec: MergekitSpec
    ) -> None:
        templates = not spec.chat_template
        note_tokenizers(models, giver, self.mistakes, key="models", templates=templates)

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
                refuse_misfits(alike, self.mistakes, key="", same_vocabulary=same)

    def _check_words(self, spec: MergekitSpec) -> None:
        for key in ("dtype", "out_dtype"):
            said = getattr(spec, key)
            if said is not None and said.removeprefix("torch.") == _DOUBLE:
                self.mistakes.warn(key, "merges are computed and written in float32.")
            elif said is not None and _type(said) not in DTYPES:
                hint = did_you_mean(_type(said), DTYPES)
                self.mistakes.add(key, f"unknown element type {said!r}{hint}")

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
            if own not in self.named.references:
                known = list(self.named.references)
                self.mistakes.add(
                    "evomerge.frame", f"unknown input{did_you_mean(own, known)}"
                )
                self.mistakes.stop_if_any()
            return own
        if spec.base_model is not None:
            name = self.named.name(spec.base_model, "base_model")
            if name is not None:
                return name
            self.mistakes.stop_if_any()
        return slices[0].sources[0].name


def _has_bases(method: Method, slices: Sequence[OutSlice]) -> bool:
    return method.base != "required" or all(cut.base for cut in slices)


def _among(source: Input) -> tuple[str, ...]:
    """Return the names of all models whose vocabularies meet in an input."""
    return tuple(n for n, _ in source.among) if isinstance(source, Transformed) else ()


def _fits(layers: tuple[int, int] | None, model: Model) -> bool:
    if layers is None:
        return True
    first, end = layers
    return 0 <= first == end or 0 <= first < end <= model.n_layers


def _dtype(spec: MergekitSpec) -> str | None:
    """Return the element type of the result, if one is said."""
    said = spec.out_dtype or spec.dtype
    return None if said is None else _type(said)


def _type(said: str) -> str:
    word = said.removeprefix("torch.")
    return "float32" if word == _DOUBLE else word
