"""Generation 0: parents, the uniform blend, usual merges and the user's own starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.core.flow.stacks import passthrough
from evomerge.core.nearest import did_you_mean
from evomerge.core.presets import operator_named
from evomerge.core.recipes.recipe import Nested, Recipe, contents
from evomerge.core.space import Axis, Blueprint, ChoiceAxis, IntAxis, SearchSpace
from evomerge.errors import SpaceError, SpecError
from evomerge.specs.planning.planned import PlannedSpace, Setting
from evomerge.specs.planning.planner import plan_space
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.recipes import open_recipe
from evomerge.specs.resolved import Baseline
from evomerge.specs.schema.space import SpaceSpec
from evomerge.specs.schema.study import BaselineSpec, StartSpec, StudySpec

MOST_BASELINES = 1000
"""Most baselines and starts: each is scored, whatever the budget."""

UNIFORM = "uniform"


@dataclass(frozen=True, slots=True)
class GenerationZero:
    """Writes the merges that every search begins with.

    Attributes:
        spec: The study, its experts filled in.
        setting: What it is resolved for.
        planned: Its space.
        base_dir: Where relative paths of recipe files start; None leaves the files
            alone and lets the start of the search stand in.
        recipes: Recipes of starts by name, where they are known without their files.
        mistakes: Where to note what is wrong.
    """

    spec: StudySpec
    setting: Setting
    planned: PlannedSpace[Blueprint]
    base_dir: Path | None
    recipes: Mapping[str, Recipe]
    mistakes: Mistakes

    def baselines(self) -> tuple[Baseline, ...]:
        """Return generation 0, in order, every label once."""
        wanted = self.spec.baselines
        out: list[Baseline] = []
        if self._are_too_many():
            return ()
        if wanted.parents:
            out += [self._parent(name) for name in self._parents()]
        if wanted.uniform and self._can_average():
            out += self._merges(UNIFORM, {"operator": ("linear",)}, "baselines.uniform")
        for i, other in enumerate(wanted.others):
            out += self._others(other, f"baselines.others.{i}")
        for i, start in enumerate(self.spec.start):
            baseline = self._start(start, f"start.{i}")
            out += [] if baseline is None else [baseline]
        labels = [baseline.label for baseline in out]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            self.mistakes.add(
                "baselines",
                f"expected every label once, got {label!r} for {labels.count(label)} "
                "merges; rename one (sources and 'uniform' are labels too).",
            )
        return tuple(out)

    def _are_too_many(self) -> bool:
        others, starts = self.spec.baselines.others, len(self.spec.start)
        grids = [math.prod(map(len, other.grid.values())) for other in others]
        if (n := sum(grids)) + starts > MOST_BASELINES:
            self.mistakes.add(
                "baselines",
                f"expected at most {MOST_BASELINES} merges that are scored first, got "
                f"{n} baselines (every combination of a grid is one) and {starts} "
                "under `start`. Leave some out, or let the search try them.",
            )
        return n + starts > MOST_BASELINES

    def _can_average(self) -> bool:
        """Tell whether the experts have a plain average.

        Where layers are only set on each other, experts may differ in depth; that is a
        mistake only if their average is asked for.
        """
        experts = self.spec.space.experts
        depths = {name: self.setting.depths.get(name) for name in experts}
        if len(set(depths.values())) < 2:
            return len(experts) > 1
        if "uniform" in self.spec.baselines.model_fields_set:
            self.mistakes.add(
                "baselines.uniform",
                f"expected experts of one depth to average, got {_told(depths)}.",
            )
        return False

    def _parents(self) -> list[str]:
        """Return every source: base, experts, then what is left, each once."""
        space = self.spec.space
        first = [*([] if space.base is None else [space.base]), *space.experts]
        named = [name for name in dict.fromkeys(first) if name in self.spec.sources]
        return named + sorted(set(self.spec.sources) - set(named))

    def _parent(self, name: str) -> Baseline:
        setting = self.setting
        source = setting.inputs[name]
        if isinstance(source, Nested):  # as its own stage knows it: scored already
            return Baseline(name, source.recipe)
        depth = setting.depths.get(name, setting.n_layers)
        recipe = passthrough(
            name, source, depth, setting.dtype, version=setting.version
        )
        return Baseline(name, recipe)

    def _others(self, other: BaselineSpec, key: str) -> list[Baseline]:
        operator = operator_named(other.operator)
        known = [] if operator is None else [knob.name for knob in operator.knobs]
        # In the catalogue's order: the order of a mapping is nobody's intent.
        names = sorted(
            other.grid, key=lambda n: known.index(n) if n in known else len(known)
        )
        out: list[Baseline] = []
        for values in product(*(other.grid[name] for name in names)):
            grid = dict(zip(names, values, strict=True))
            label = " ".join(
                [
                    other.name,
                    *(f"{name}={_text(value)}" for name, value in grid.items()),
                ]
            )
            parts: dict[str, Any] = {
                "operator": (other.operator,),
                "knobs": {**other.knobs, **grid},
            }
            if other.experts is not None:
                parts["experts"] = other.experts
            if other.base is not None:
                parts["base"] = other.base
            out += self._merges(label, parts, key)
        return out

    def _merges(self, label: str, parts: Mapping[str, Any], key: str) -> list[Baseline]:
        """Return one fixed merge, or nothing if it cannot be made."""
        space = self.spec.space
        usual: dict[str, Any] = {
            "base": space.base,
            "experts": space.experts,
            "norm_policy": space.norm_policy[:1],
            "embed_policy": space.embed_policy[:1],
            "state_policy": (space.state_policy or ())[:1],
            "parts": space.parts,
            "unknown": space.unknown,
        }
        spec = SpaceSpec.model_construct(**{"knobs": {}, **usual, **parts})
        for name in (*spec.experts, *([] if spec.base is None else [spec.base])):
            if name not in self.spec.sources:
                self.mistakes.add(
                    f"{key}.experts",
                    f"unknown source {name!r}"
                    f"{did_you_mean(name, list(self.spec.sources))}",
                )
                return []
        before = len(self.mistakes.found)
        setting = self._merging(spec, key)
        planned = plan_space(spec, setting, key, self.mistakes)
        if planned is None or len(self.mistakes.found) > before:
            return []
        return [Baseline(label, planned.blueprint.recipe({}))]

    def _merging(self, spec: SpaceSpec, key: str) -> Setting:
        """Return the setting for a merge of perhaps other sources than the space's."""
        merged = [*spec.experts, *([] if spec.base is None else [spec.base])]
        depths = {n: self.setting.depths[n] for n in merged if n in self.setting.depths}
        if len(set(depths.values())) > 1:
            self.mistakes.add(
                f"{key}.experts", f"expected sources of one depth, got {_told(depths)}."
            )
        n_layers = next(iter(depths.values()), self.setting.n_layers)
        return replace(self.setting, n_layers=n_layers)

    def _start(self, start: StartSpec, key: str) -> Baseline | None:
        if start.study is not None:
            return self._from_study(start, key)
        known = self.recipes.get(start.name)
        if known is not None:
            return Baseline(start.name, known)
        if start.recipe is not None:
            return self._from_file(start, start.recipe, f"{key}.recipe")
        if self.planned.is_guess:
            return self._usual(start)
        before = len(self.mistakes.found)
        point = point_of(self.planned.space, start.knobs, f"{key}.knobs", self.mistakes)
        if len(self.mistakes.found) > before:
            return None
        return Baseline(start.name, self.planned.blueprint.recipe(point), point)

    def _usual(self, start: StartSpec) -> Baseline:
        """Return a stand-in for a start that cannot be told yet."""
        usual = self.planned.space.start()
        name = start.name or f"best of {start.study}"
        return Baseline(name, self.planned.blueprint.recipe(usual))

    def _from_study(self, start: StartSpec, key: str) -> Baseline | None:
        recipe = self.recipes.get(start.name)
        if recipe is None:
            return self._usual(start)
        if self._reads_others(recipe, f"{key}.study"):
            return None
        is_point = not self.planned.is_guess and lies_in(self.planned.space, start)
        return Baseline(start.name, recipe, start.knobs if is_point else None)

    def _reads_others(self, recipe: Recipe, key: str) -> bool:
        known = {p for s in self.setting.inputs.values() for p in contents(s)}
        if strange := set(contents(Nested(recipe))) - known:
            self.mistakes.add(
                key,
                "expected a recipe over this study's sources, got one that also reads "
                f"{', '.join(sorted(strange))}.",
            )
        return bool(strange)

    def _from_file(self, start: StartSpec, path: Path, key: str) -> Baseline | None:
        if self.base_dir is None:
            return self._usual(start)
        try:
            opened = open_recipe(self.base_dir / path.expanduser())
        except SpecError as error:
            for problem in error.problems:
                self.mistakes.add(key, f"{problem}")
            return None
        for warning in opened.warnings:
            self.mistakes.warn(key, f"{warning}")
        recipe = opened.recipe
        if self._reads_others(recipe, key):
            return None
        # Of a study recorded with version 1 a file was read as that; a file that says
        # so itself stays of version 1.
        version = min(recipe.version, self.setting.version)
        return Baseline(start.name, recipe.in_version(version))


def begun_at(space: SearchSpace, starts: Sequence[StartSpec]) -> SearchSpace:
    """Return the space with its start at the first point that another study found."""
    for start in starts:
        if start.study is not None and start.knobs and lies_in(space, start):
            axes = (
                replace(axis, start=start.knobs.get(axis.name, axis.start))  # type: ignore[arg-type]
                for axis in space.axes
            )
            return replace(space, axes=tuple(axes))
    return space


def lies_in(space: SearchSpace, start: StartSpec) -> bool:
    """Tell whether a start's knobs are a point of a space."""
    try:
        space.check(start.knobs)
    except SpaceError:
        return False
    return True


def point_of(
    space: SearchSpace, knobs: Mapping[str, Scalar], key: str, mistakes: Mistakes
) -> dict[str, Scalar]:
    """Return the point that names only some axes, or beginnings of their names.

    The longest matching name wins; axes without one take the space's start. Values are
    rounded to the grid.

    Args:
        space: Where the point lies.
        knobs: Axis name, or its beginning up to a dot, to value.
        key: Where ``knobs`` stands in the file.
        mistakes: Where to note what is wrong.
    """
    usual = {axis.name: axis for axis in space.axes}
    for name in knobs:
        if not any(_covers(name, axis) for axis in usual):
            stems = {axis.split(".")[0] for axis in usual}
            known = [*sorted(stems), *usual]
            mistakes.add(
                f"{key}.{name}", f"no axis of the space{did_you_mean(name, known)}"
            )
    point: dict[str, Scalar] = {}
    for axis in space.axes:
        if axis.when is not None and not axis.when.holds(point):
            continue
        names = [name for name in knobs if _covers(name, axis.name)]
        if names:
            name = max(names, key=len)
            point[axis.name] = _snap(axis, knobs[name], f"{key}.{name}", mistakes)
        else:
            point[axis.name] = SearchSpace((_free(axis),)).start()[axis.name]
    return point


def _covers(name: str, axis: str) -> bool:
    return axis == name or axis.startswith(f"{name}.")


def _free(axis: Axis) -> Axis:
    return replace(axis, when=None)


def _snap(axis: Axis, value: Scalar, key: str, mistakes: Mistakes) -> Scalar:
    if isinstance(axis, ChoiceAxis):
        if value not in axis.choices:
            mistakes.add(
                key,
                f"expected one of {list(axis.choices)} for {axis.name!r}, "
                f"got {value!r}.",
            )
        return value
    if isinstance(value, bool | str) or not axis.low <= value <= axis.high:
        mistakes.add(
            key,
            f"expected a number from {axis.low:g} to {axis.high:g} for {axis.name!r}, "
            f"got {value!r}.",
        )
        return axis.low
    if isinstance(axis, IntAxis):
        return round(value)
    return axis.value(axis.unit(value))


def _text(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(depths: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name!r} with {n} layers" for name, n in depths.items())
