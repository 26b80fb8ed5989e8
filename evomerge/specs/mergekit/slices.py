"""What a file merges, in one form: slices of the result, each with its sources.

``models`` is one slice over all layers; a base that is not listed joins it as a last
source. Settings are read here, against the parameters of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.core.nearest import did_you_mean
from evomerge.specs.mergekit.methods import Method
from evomerge.specs.mergekit.schema import (
    MergekitSpec,
    ModelSpec,
    Parameters,
    SliceSpec,
)
from evomerge.specs.mergekit.settings import Setting, read_setting
from evomerge.specs.reading.mistakes import Mistakes

_PASSED_OVER = {
    "merge_method": "changes nothing: mergekit has one method for the whole merge and "
    "passes over this one. Merge in two steps, the second one a passthrough of slices.",
    "residual_weight": "changes nothing: mergekit reads it and does nothing with it.",
    "layer_range": "changes nothing: models are merged whole, and mergekit passes over "
    "it here. Say which layers under slices.",
}

Settings = Mapping[str, Setting]
NameOf = Callable[[Any, str], str | None]
"""A written model and its key, to the name of the input."""


@dataclass(frozen=True, slots=True)
class Source:
    """Layers of one input.

    Attributes:
        name: Of the input.
        layers: First layer and the one after the last; None means all.
        settings: Its own.
        key: Where it stands.
    """

    name: str
    layers: tuple[int, int] | None
    settings: Settings
    key: str


@dataclass(frozen=True, slots=True)
class OutSlice:
    """Layers of the result.

    Attributes:
        base: Name of the base, if one is given.
        settings: Those of the slice, the module and the file: the first counts.
        key: Where it stands.
    """

    sources: tuple[Source, ...]
    base: str | None
    settings: tuple[Settings, ...]
    key: str

    @property
    def all_settings(self) -> Iterator[Setting]:
        """Every setting that speaks of these layers."""
        for found in (*(source.settings for source in self.sources), *self.settings):
            yield from found.values()

    @property
    def has_base(self) -> bool:
        """The base is one of the sources."""
        return any(source.name == self.base for source in self.sources)


@dataclass(frozen=True, slots=True)
class Slicer:
    """Brings the written forms into one.

    Attributes:
        spec: The file.
        method: Its method.
        name_of: Names the models that the file mentions.
        mistakes: Where to note what is wrong.
    """

    spec: MergekitSpec
    method: Method
    name_of: NameOf
    mistakes: Mistakes

    def slices(self) -> list[OutSlice]:
        """Return the slices; whatever is wrong is noted."""
        spec = self.spec
        given = [k for k in ("models", "slices", "modules") if getattr(spec, k)]
        if len(given) != 1:
            got = " and ".join(given) if given else "none"
            self.mistakes.add(
                given[1] if given else "",
                f"expected exactly one of models, slices and modules, got {got}.",
            )
        top = (self._settings(spec.parameters, "parameters", ""),)
        base = None
        if spec.base_model is not None:
            base = self.name_of(spec.base_model, "base_model")
        if spec.models:
            return self._whole(spec.models, "models", top, base)
        if spec.slices:
            return self._cut(spec.slices, "slices", top, base)
        for name, module in (spec.modules or {}).items():
            return self._module(name, module, top, base)
        return []

    def _module(
        self, name: str, module: Any, top: tuple[Settings, ...], base: str | None
    ) -> list[OutSlice]:
        key = f"modules.{name}"
        modules = self.spec.modules or {}
        if len(modules) > 1:
            self.mistakes.add(
                "modules",
                f"expected one module, got {len(modules)}: {', '.join(modules)}. Only "
                "text models are merged; save the text model alone and merge that.",
            )
        self._pass_over(module, key, "merge_method")
        if bool(module.models) == bool(module.slices):
            got = "both" if module.models else "none"
            self.mistakes.add(key, f"expected models or slices, got {got}.")
        own = self._settings(module.parameters, f"{key}.parameters", "")
        settings = (own, *top)
        if module.models:
            return self._whole(module.models, f"{key}.models", settings, base)
        return self._cut(module.slices or (), f"{key}.slices", settings, base)

    def _whole(
        self,
        models: tuple[ModelSpec, ...],
        key: str,
        settings: tuple[Settings, ...],
        base: str | None,
    ) -> list[OutSlice]:
        sources = []
        for i, model in enumerate(models):
            here = f"{key}.{i}"
            name = self.name_of(model.model, f"{here}.model")
            self._pass_over(model, here, "layer_range")
            own = self._settings(model.parameters, f"{here}.parameters", name, base)
            sources.append(Source(name or f"?{i}", None, own, here))
        if base is not None and all(source.name != base for source in sources):
            sources.append(Source(base, None, {}, "base_model"))
        return self._checked([OutSlice(tuple(sources), base, settings, key)])

    def _cut(
        self,
        slices: tuple[SliceSpec, ...],
        key: str,
        settings: tuple[Settings, ...],
        base: str | None,
    ) -> list[OutSlice]:
        out = []
        for i, written in enumerate(slices):
            here = f"{key}.{i}"
            self._pass_over(written, here, "merge_method")
            self._pass_over(written, here, "residual_weight")
            own_base = base
            if written.base_model is not None:
                own_base = self.name_of(written.base_model, f"{here}.base_model")
            own = self._settings(written.parameters, f"{here}.parameters", "")
            sources = []
            for j, source in enumerate(written.sources):
                at = f"{here}.sources.{j}"
                name = self.name_of(source.model, f"{at}.model")
                mine = self._settings(
                    source.parameters, f"{at}.parameters", name, own_base
                )
                layers = source.layer_range
                sources.append(Source(name or f"?{j}", layers, mine, at))
            out.append(OutSlice(tuple(sources), own_base, (own, *settings), here))
        return self._checked(out)

    def _pass_over(self, written: Any, key: str, word: str) -> None:
        if getattr(written, word) is not None:
            self.mistakes.warn(f"{key}.{word}", _PASSED_OVER[word])

    def _settings(
        self,
        written: Parameters | None,
        key: str,
        name: str | None,
        base: str | None = None,
    ) -> Settings:
        """Read the settings of one place; ``name`` is "" where it is no input."""
        out: dict[str, Setting] = {}
        for word, value in (written or {}).items():
            here = f"{key}.{word}"
            parameter = self.method.parameter(word)
            if parameter is None:
                known = [p.name for p in self.method.parameters]
                hint = did_you_mean(word, known) if known else "; it has none."
                self.mistakes.warn(
                    here,
                    f"unknown parameter of {self.method.name}{hint} mergekit passes "
                    "over it.",
                )
                continue
            if name != "" and parameter.scope == "shared":
                self.mistakes.warn(
                    here,
                    f"changes nothing: {word} is one value for all inputs, read from "
                    "the parameters of the slice or the file; mergekit passes over it "
                    "here.",
                )
                continue
            setting = read_setting(value, parameter.kind, here, self.mistakes)
            if setting is not None:
                out[word] = setting
        if out and name and name == base and self.method.base != "ignored":
            self.mistakes.warn(
                key, "change nothing: the base has no parameters of its own."
            )
        return out

    def _checked(self, slices: list[OutSlice]) -> list[OutSlice]:
        if slices and all(
            source.layers is not None and source.layers[0] == source.layers[1]
            for cut in slices
            for source in cut.sources
        ):
            first = slices[0].sources[0]
            self.mistakes.add(
                f"{first.key}.layer_range",
                f"expected at least one layer in all, got {list(first.layers or ())}.",
            )
        for cut in slices:
            self._check_names(cut)
            self._check_counts(cut)
            self._check_lengths(cut)
        return slices

    def _check_names(self, cut: OutSlice) -> None:
        seen: dict[str, str] = {}
        for source in cut.sources:
            if source.name in seen:
                self.mistakes.add(
                    f"{source.key}.model",
                    f"expected each model once in a slice, got the one of "
                    f"{seen[source.name]} again.",
                )
            seen.setdefault(source.name, source.key)

    def _check_counts(self, cut: OutSlice) -> None:
        method = self.method
        if method.base == "required" and cut.base is None:
            self.mistakes.add(
                "base_model",
                f"expected a model: {method.name} merges differences from a base."
                if method.name != "slerp"
                else "expected one of the two models: slerp goes from it (t = 0) to "
                "the other.",
            )
            return
        if method.base != "ignored" and cut.base is not None and not cut.has_base:
            self.mistakes.add(
                f"{cut.key}.sources",
                f"expected the base {cut.base!r} among them, with the layers it gives.",
            )
            return
        others = [s for s in cut.sources if s.name != cut.base]
        problem = method.count_problem(len(cut.sources), len(others))
        if problem is not None:
            names = ", ".join(source.name for source in cut.sources)
            self.mistakes.add(cut.key, f"expected other inputs: {problem}: {names}.")

    def _check_lengths(self, cut: OutSlice) -> None:
        lengths = {}
        for source in cut.sources:
            if source.layers is None:
                continue
            first, end = source.layers
            if not 0 <= first <= end:
                self.mistakes.add(
                    f"{source.key}.layer_range",
                    "expected [first layer, layer after the last], got the negative "
                    f"range [{first}, {end}].",
                )
                continue
            lengths[source.key] = end - first
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{k.rsplit('.', 1)[-1]}: {n}" for k, n in lengths.items())
            self.mistakes.add(
                f"{cut.key}.sources",
                f"expected as many layers from every source, got {said}.",
            )
