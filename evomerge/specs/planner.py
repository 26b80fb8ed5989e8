"""A written space to axes and a blueprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge.core.blueprint import Coordinate, MergeBlueprint, OperatorPlan, Term
from evomerge.core.catalogue import Knob, Operator
from evomerge.core.digest import Scalar
from evomerge.core.operators import CATALOGUE
from evomerge.core.recipe import Input
from evomerge.core.roles import for_role
from evomerge.core.space import Axis, ChoiceAxis, Condition, SearchSpace
from evomerge.specs.keys import did_you_mean
from evomerge.specs.knobs import Draft, KnobWriter
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.space import SpaceSpec

OPERATOR_AXIS = "operator"
POLICY_AXIS = "norm_policy"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a space is planned for.

    Attributes:
        inputs: Source name to what recipes call it.
        n_layers: Layers of every source.
        frame: The source that gives config and tokenizer.
        dtype: Element type of merged weights.
        seed: Seed of random operators.
    """

    inputs: Mapping[str, Input]
    n_layers: int
    frame: str
    dtype: str
    seed: int


@dataclass(frozen=True, slots=True)
class PlannedSpace:
    """A space and the way from its points to recipes."""

    space: SearchSpace
    blueprint: MergeBlueprint


def plan_space(
    spec: SpaceSpec, setting: Setting, key: str, mistakes: Mistakes
) -> PlannedSpace | None:
    """Plan a written space.

    Args:
        spec: What was written, its experts filled in.
        setting: What it is planned for.
        key: Where it stands in the file.
        mistakes: Where to note what is wrong.

    Returns:
        None if an operator is unknown or there is nothing to merge, so that no plan
        can be made; a plan beside mistakes only serves to find further ones.
    """
    return _Planner(spec, setting, key, mistakes).plan()


@dataclass(frozen=True, slots=True)
class _Planner:
    spec: SpaceSpec
    setting: Setting
    key: str
    mistakes: Mistakes

    def plan(self) -> PlannedSpace | None:
        operators = self._operators()
        self._check_names(operators)
        if not operators or not self.spec.experts:
            return None
        axes: list[Axis] = []
        operator = self._choose(OPERATOR_AXIS, [o.name for o in operators], axes)
        policy = self._choose(POLICY_AXIS, list(self.spec.norm_policy), axes)
        plans = self._plans(operators, axes)
        read = {self.setting.frame, *(name for plan in plans for name in plan.reads)}
        blueprint = MergeBlueprint(
            frame=self.setting.frame,
            dtype=self.setting.dtype,
            inputs={
                name: self.setting.inputs[name]
                for name in sorted(read & set(self.setting.inputs))
            },
            n_layers=self.setting.n_layers,
            plans=plans,
            operator=operator,
            norm_policy=policy,
            for_role=for_role,
        )
        return PlannedSpace(SearchSpace(tuple(axes)), blueprint)

    def _choose(self, name: str, options: list[str], axes: list[Axis]) -> Term:
        """Return the only option, or open an axis over several."""
        if len(options) == 1:
            return options[0]
        axes.append(ChoiceAxis(name, tuple(options)))
        return Coordinate(name)

    def _operators(self) -> list[Operator]:
        found: list[Operator] = []
        for name in dict.fromkeys(self.spec.operator):
            operator = CATALOGUE.get(name)
            if operator is None:
                self.mistakes.add(
                    _at(self.key, "operator"),
                    f"unknown operator {name!r}{did_you_mean(name, list(CATALOGUE))}",
                )
                continue
            self._check_inputs(operator)
            found.append(operator)
        return found

    def _check_inputs(self, operator: Operator) -> None:
        n = len(self.spec.experts)
        if operator.needs_base and self.spec.base is None:
            self.mistakes.add(
                _at(self.key, "base"),
                f"expected a source: {operator.name!r} merges differences from a base.",
            )
        if "base" in self.spec.norm_policy and (
            self.spec.base is None or not operator.takes_base
        ):
            self.mistakes.add(
                _at(self.key, "norm_policy"),
                f"expected linear or same: {operator.name!r} uses no base here.",
            )
        if not operator.takes(n):
            self.mistakes.add(
                _at(self.key, "experts"),
                f"expected {operator.wanted_inputs} for {operator.name!r}, got {n}"
                f"{': ' + ', '.join(self.spec.experts) if n else ''}.",
            )

    def _check_names(self, operators: list[Operator]) -> None:
        """Note knobs that no operator has."""
        names = [knob.name for operator in operators for knob in operator.knobs]
        names += [f"{o.name}.{knob.name}" for o in operators for knob in o.knobs]
        if len(operators) < len(set(self.spec.operator)):
            return  # a misspelt operator would make all of its knobs look wrong
        for name in self.spec.knobs:
            if name not in names:
                self.mistakes.add(
                    _at(self.key, f"knobs.{name}"),
                    f"unknown knob of {' or '.join(self.spec.operator)}"
                    f"{did_you_mean(name, list(dict.fromkeys(names)))}",
                )

    def _plans(
        self, operators: list[Operator], axes: list[Axis]
    ) -> tuple[OperatorPlan, ...]:
        """Plan every operator; equal axes of several operators are shared."""
        order = list(dict.fromkeys(knob.name for o in operators for knob in o.knobs))
        drafts: dict[tuple[str, str], Draft] = {}
        for name in order:
            having = [
                o for o in operators if any(k.name == name for k in self._decided(o))
            ]
            first = {o.name: self._draft(o, name, name) for o in having}
            open_axes = {draft.axes for draft in first.values() if draft.axes}
            if len(open_axes) > 1:
                first = {
                    o.name: self._draft(o, name, f"{o.name}.{name}") for o in having
                }
            self._add_axes(first, [o.name for o in operators], axes)
            drafts |= {(o, name): draft for o, draft in first.items()}
        return tuple(
            OperatorPlan(
                operator=o.name,
                inputs=self.spec.experts,
                base=self.spec.base if o.takes_base else None,
                knobs=tuple(
                    drafts[o.name, knob.name].plan for knob in self._decided(o)
                ),
            )
            for o in operators
        )

    def _add_axes(
        self, drafts: Mapping[str, Draft], operators: list[str], axes: list[Axis]
    ) -> None:
        """Add the axes of one knob, guarded where only some operators read them."""
        readers: dict[tuple[Axis, ...], list[str]] = {}
        for operator, draft in drafts.items():
            if draft.axes:
                readers.setdefault(draft.axes, []).append(operator)
        for new, names in readers.items():
            when = None
            if len(names) < len(operators):
                when = Condition(OPERATOR_AXIS, tuple(names))
            axes += [replace(axis, when=when) for axis in new]

    def _decided(self, operator: Operator) -> list[Knob]:
        """Return the knobs that a recipe of this operator states.

        Of two knobs that say the same, as the ``t`` and the weights of a spherical
        operator, the second counts only if it is written, and written for it: beside
        the first it is meant for other operators of the space.
        """
        if operator.either is None:
            return list(operator.knobs)
        usual, instead = operator.either
        first, second = (self._written(operator, name) for name in operator.either)
        others = set(self.spec.operator) - {operator.name}
        if first and second and (second != instead or not others):
            self.mistakes.add(
                _at(self.key, f"knobs.{second}"),
                f"expected {usual} or {instead} for {operator.name!r}, got both: each "
                "says what the other is; keep one.",
            )
        spare = usual if second and not first else instead
        return [knob for knob in operator.knobs if knob.name != spare]

    def _written(self, operator: Operator, name: str) -> str | None:
        """Return the key under which a knob was written, if it was."""
        keys = (f"{operator.name}.{name}", name)
        return next((key for key in keys if key in self.spec.knobs), None)

    def _draft(self, operator: Operator, name: str, prefix: str) -> Draft:
        knob = operator.knob(name)
        assert knob is not None
        written = self._written(operator, name) or name
        entry: Any = self.spec.knobs.get(written)
        writer = KnobWriter(
            knob,
            self.spec.experts,
            self.setting.n_layers,
            _at(self.key, f"knobs.{written}"),
            prefix,
            self.mistakes,
        )
        return writer.draft(entry, self._default(knob))

    def _default(self, knob: Knob) -> Scalar:
        if knob.name == "seed" and not knob.searchable:
            return self.setting.seed
        if knob.default is None:
            return 1.0 / max(len(self.spec.experts), 1)
        return knob.default


def _at(key: str, below: str) -> str:
    return f"{key}.{below}" if key else below
