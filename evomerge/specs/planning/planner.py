"""A written space to axes and a blueprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from evomerge import plugins
from evomerge.checkpoints import BUFFER
from evomerge.checkpoints.adapted import explain_unlike, fold
from evomerge.checkpoints.adapters.adapter import Folding
from evomerge.checkpoints.statistics import misfits
from evomerge.core.blueprint import Coordinate, MergeBlueprint, OperatorPlan, Term
from evomerge.core.digest import Scalar
from evomerge.core.nearest import did_you_mean
from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.presets import PRESETS, operator_named
from evomerge.core.roles import for_role
from evomerge.core.space import Axis, ChoiceAxis, Condition, SearchSpace
from evomerge.errors import PluginError
from evomerge.specs.planning.beside import parts_of
from evomerge.specs.planning.knobs import (
    Draft,
    Guard,
    KnobWriter,
    Never,
    guard,
    in_order,
)
from evomerge.specs.planning.planned import PlannedSpace, Setting
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import MergeSpec

OPERATOR_AXIS = "operator"
NORM_POLICY = "norm_policy"
EMBED_POLICY = "embed_policy"
STATE_POLICY = "state_policy"
POLICIES = (NORM_POLICY, EMBED_POLICY, STATE_POLICY)


def plan_space(
    spec: MergeSpec, setting: Setting, key: str, mistakes: Mistakes
) -> PlannedSpace[MergeBlueprint] | None:
    """Plan a written merge.

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
    spec: MergeSpec
    setting: Setting
    key: str
    mistakes: Mistakes

    def plan(self) -> PlannedSpace[MergeBlueprint] | None:
        operators = self._operators()
        self._check_names(operators)
        if not operators or not self.spec.experts:
            return None
        axes: list[Axis] = []
        operator = self._choose(OPERATOR_AXIS, [o.name for o in operators], axes)
        norms, embeds, states = (self._policy(name, axes) for name in POLICIES)
        plans = self._plans(operators, axes)
        parts = parts_of(self.spec, self.setting, self.key, self.mistakes)
        read = {self.setting.frame, *(name for plan in plans for name in plan.reads)}
        read |= {how for _, how in parts} | {self._unknown() or self.setting.frame}
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
            norm_policy=norms,
            embed_policy=embeds,
            state_policy=states,
            for_role=for_role,
            version=self.setting.version,
            parts=parts,
            unknown=self._unknown(),
        )
        return PlannedSpace(SearchSpace(tuple(axes)), blueprint)

    def _unknown(self) -> str | None:
        """Return how tensors are merged that no rule covers."""
        if self.spec.unknown == "from_base":
            return self.spec.base or self.setting.frame
        return self.spec.unknown

    def _choose(self, name: str, options: list[str], axes: list[Axis]) -> Term:
        """Return the only option, or open an axis over several."""
        if len(options) == 1:
            return options[0]
        axes.append(ChoiceAxis(name, tuple(options)))
        return Coordinate(name)

    def _policy(self, name: str, axes: list[Axis]) -> Term | None:
        """Return what is written of a policy; None leaves it to the operator."""
        written = list(getattr(self.spec, name) or ())
        return self._choose(name, written, axes) if written else None

    def _operators(self) -> list[Operator]:
        found: list[Operator] = []
        for name in dict.fromkeys(self.spec.operator):
            try:
                operator = operator_named(name)
            except PluginError as error:
                self.mistakes.add(_at(self.key, "operator"), f"{error}")
                continue
            if operator is None:
                known = [*CATALOGUE, *PRESETS, *plugins.known("operators")]
                self.mistakes.add(
                    _at(self.key, "operator"),
                    f"unknown operator {name!r}{did_you_mean(name, known)}",
                )
                continue
            self._check_inputs(operator)
            self._check_statistics(operator)
            found.append(operator)
        return found

    def _check_inputs(self, operator: Operator) -> None:
        n = len(self.spec.experts)
        if operator.needs_base and self.spec.base is None:
            self.mistakes.add(
                _at(self.key, "base"),
                f"expected a source: {operator.name!r} merges differences from a base.",
            )
        without = self.spec.base is None or not operator.takes_base
        for name in POLICIES:
            if without and "base" in (getattr(self.spec, name) or ()):
                self.mistakes.add(
                    _at(self.key, name),
                    f"expected linear or same: {operator.name!r} uses no base here.",
                )
        if not operator.takes(n):
            self.mistakes.add(
                _at(self.key, "experts"),
                f"expected {operator.wanted_inputs} for {operator.name!r}, got {n}"
                f"{': ' + ', '.join(self.spec.experts) if n else ''}.",
            )

    def _check_statistics(self, operator: Operator) -> None:
        """Note what was not measured, or not of all that is merged by it."""
        for kind, name in product(operator.statistics, self.spec.experts):
            model = self.setting.models.get(name)
            if model is None:
                continue
            file = model.statistics.get(kind)
            merged = (
                (tensor, info.shape)
                for tensor, info in model.tensors.items()
                if model.places[tensor].section != "beside"
                and model.places[tensor].role != BUFFER
            )
            said = (
                f"expected a file: {operator.name!r} weighs {name!r} by it."
                if file is None
                else misfits(file, merged)
            )
            if said:
                self.mistakes.add(f"statistics.{kind}.{name}", said)

    def _check_factors(self, operator: Operator, drafts: Mapping[str, Draft]) -> None:
        """Note why factors that may be averaged cannot be; guesses are not judged."""
        needs, experts = operator.factors_with, self.spec.experts
        models = self.setting.models
        if needs is None or isinstance(guard(needs, drafts), Never):
            return
        if not set(experts) <= models.keys():
            return

        def folding(name: str) -> Folding:
            adapter = models[name].adapter
            assert adapter is not None
            return fold(adapter, models[name])

        inputs = {name: self.setting.inputs[name] for name in experts}
        said = explain_unlike(inputs, folding)
        if said:
            self.mistakes.add(
                _at(self.key, "experts"),
                f"expected one model with adapters of like shape: {operator.name!r} "
                f"averages their factors. {' '.join(said)}",
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
        drafts: dict[str, dict[str, Draft]] = {o.name: {} for o in operators}
        for name in in_order(operators):
            guards = {
                o.name: guard(knob.only_with, drafts[o.name])
                for o in operators
                for knob in self._decided(o)
                if knob.name == name
            }
            having = [o for o in operators if o.name in guards]
            first = {o.name: self._draft(o, name, name) for o in having}
            open_axes = {(d.axes, guards[o]) for o, d in first.items() if d.axes}
            if len(open_axes) > 1:
                first = {
                    o.name: self._draft(o, name, f"{o.name}.{name}") for o in having
                }
            self._check_use(name, guards)
            self._add_axes(first, guards, [o.name for o in operators], axes)
            for operator, draft in first.items():
                drafts[operator][name] = draft
        for o in operators:
            self._check_factors(o, drafts[o.name])
        return tuple(
            OperatorPlan(
                operator=o.name,
                inputs=self.spec.experts,
                base=self.spec.base if o.takes_base else None,
                knobs=tuple(
                    drafts[o.name][knob.name].plan for knob in self._decided(o)
                ),
            )
            for o in operators
        )

    def _check_use(self, name: str, guards: Mapping[str, Guard]) -> None:
        """Note a knob that is written but means nothing beside what is decided."""
        unused = {o: g for o, g in guards.items() if isinstance(g, Never)}
        for operator, never in unused.items():
            keys = [f"{operator}.{name}"]
            if len(unused) == len(guards):
                keys.append(name)
            for key in keys:
                if key in self.spec.knobs:
                    self.mistakes.add(
                        _at(self.key, f"knobs.{key}"),
                        f"expected no such knob of {operator!r} here: it only matters "
                        f"with {never.because}.",
                    )
                    return

    def _add_axes(
        self,
        drafts: Mapping[str, Draft],
        guards: Mapping[str, Guard],
        operators: list[str],
        axes: list[Axis],
    ) -> None:
        """Add the axes of one knob, guarded where only some operators read them."""
        readers: dict[tuple[Axis, ...], list[str]] = {}
        for operator, draft in drafts.items():
            if draft.axes and not isinstance(guards[operator], Never):
                readers.setdefault(draft.axes, []).append(operator)
        for new, names in readers.items():
            when = guards[names[0]]
            assert not isinstance(when, Never)
            if when is None and len(names) < len(operators):
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
