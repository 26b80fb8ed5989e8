"""Tasks, objectives and constraints: from the written form to values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from evomerge.core.cost import COST, is_cost, parse
from evomerge.core.study import Constraint, Direction, Measure, Objective
from evomerge.core.work import TaskSettings
from evomerge.errors import RecipeError
from evomerge.specs.goals import ConstraintSpec, ObjectiveSpec
from evomerge.specs.keys import did_you_mean
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.study import StudySpec
from evomerge.specs.tasks import DEFAULT_BLOCKS, ItemsSpec, TaskSpec

EVERY_TASK = "*"


def tasks_of(spec: StudySpec) -> tuple[TaskSettings, ...]:
    """Return every task with the study's defaults laid under it, by name."""
    total = spec.items.blocks or DEFAULT_BLOCKS
    share = max(total // max(len(spec.tasks), 1), 1)
    return tuple(
        _task(name, spec.tasks[name], spec.items, share) for name in sorted(spec.tasks)
    )


def _task(name: str, task: TaskSpec, usual: ItemsSpec, blocks: int) -> TaskSettings:
    own = task.items
    # A way to tell search from report stands as a whole: it never mixes with another.
    ways = ("search_fraction", "search", "report", "search_split", "report_split")
    parts = own if any(getattr(own, way) is not None for way in ways) else usual
    fraction = parts.search_fraction
    return TaskSettings(
        name=name,
        task=task.task or name,
        include_path=None if task.include is None else str(task.include),
        num_fewshot=task.num_fewshot,
        apply_chat_template=task.apply_chat_template,
        system_instruction=task.system_instruction,
        gen_kwargs=task.gen_kwargs,
        max_gen_toks=task.max_gen_toks,
        limit=task.limit or own.limit or usual.limit,
        search_fraction=0.5 if fraction is None else fraction,
        search_items=_ids(parts.search),
        report_items=_ids(parts.report),
        search_split=parts.search_split,
        report_split=parts.report_split,
        n_blocks=own.blocks or blocks,
        trust_code=task.trust_code,
        options=task.options,
    )


def _ids(items: tuple[str | int, ...] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(str(item) for item in items)


class Measured:
    """Reads objectives and constraints over a study's tasks.

    Attributes:
        objectives: In the order written.
    """

    def __init__(self, spec: StudySpec, mistakes: Mistakes) -> None:
        self._tasks = spec.tasks
        self._mistakes = mistakes
        if not spec.tasks:
            mistakes.add(
                "tasks",
                "expected at least one task, here or from evaluators, got none.",
            )
        if COST in spec.tasks:
            mistakes.add(
                f"tasks.{COST}",
                f"expected another name: `{COST}/...` is what a model costs.",
            )
        written = spec.objectives or (
            ObjectiveSpec(name="score", mean_of=(EVERY_TASK,)),
        )
        found = [self._objective(o, i) for i, o in enumerate(written)]
        self.objectives = tuple(o for o in found if o is not None)
        names = [objective.name for objective in self.objectives]
        for i, name in enumerate(names):
            if name in names[:i]:
                mistakes.add(
                    f"objectives.{i}.name",
                    f"expected another name, got {name!r} twice.",
                )

    def constraints(
        self, spec: StudySpec, labels: Collection[str]
    ) -> tuple[Constraint, ...]:
        """Read the constraints; ``labels`` are those of the baselines."""
        found = [
            self._constraint(c, f"constraints.{i}", labels)
            for i, c in enumerate(spec.constraints)
        ]
        return tuple(c for c in found if c is not None)

    def _objective(self, spec: ObjectiveSpec, index: int) -> Objective | None:
        key = f"objectives.{index}"
        if spec.measure is not None:
            weights: Mapping[str, float] = {spec.measure: 1.0}
            key = f"{key}.measure"
        elif isinstance(spec.mean_of, Mapping):
            # In order of their names: the order of a mapping is nobody's intent.
            weights = dict(sorted(spec.mean_of.items()))
            key = f"{key}.mean_of"
        else:
            weights = dict.fromkeys(spec.mean_of or (), 1.0)
            key = f"{key}.mean_of"
        pairs = [
            (measure, weight)
            for text, weight in weights.items()
            for measure in self._measures(text, key)
        ]
        if not pairs:
            return None
        if spec.measure is None and any(is_cost(measure) for measure, _ in pairs):
            self._mistakes.add(
                key,
                "expected measures of tasks, got a cost; give it an objective with "
                "`measure`, or a constraint of its own.",
            )
        measures = tuple(measure for measure, _ in pairs)
        return Objective(
            name=spec.name or (str(measures[0]) if len(pairs) == 1 else "score"),
            direction=Direction(spec.direction),
            measures=measures,
            weights=tuple(weight for _, weight in pairs),
            worst=spec.worst,
        )

    def _measures(self, text: str, key: str) -> tuple[Measure, ...]:
        task, slash, metric = text.partition("/")
        if task == COST:
            return self._cost(metric, key)
        names = sorted(self._tasks) if task == EVERY_TASK else [task]
        found = []
        for name in names:
            known = self._tasks.get(name)
            if known is None:
                if self._tasks:
                    self._mistakes.add(
                        key,
                        f"unknown task {name!r}{did_you_mean(name, list(self._tasks))}",
                    )
                continue
            wanted = metric or known.metric
            if (slash and not metric) or wanted is None:
                self._mistakes.add(
                    key,
                    f"expected a metric for {name!r}: write `{name}/METRIC`, or give "
                    f"the task a metric; got {text!r}.",
                )
                continue
            found.append(Measure(name, wanted))
        return tuple(found)

    def _cost(self, metric: str, key: str) -> tuple[Measure, ...]:
        try:
            parse(metric)
        except RecipeError as error:
            self._mistakes.add(key, f"{error}")
            return ()
        return (Measure(COST, metric),)

    def _constraint(
        self, spec: ConstraintSpec, key: str, labels: Collection[str]
    ) -> Constraint | None:
        if spec.relative_to is not None and spec.relative_to not in labels:
            self._mistakes.add(
                f"{key}.relative_to",
                f"unknown baseline {spec.relative_to!r}"
                f"{did_you_mean(spec.relative_to, list(labels))}",
            )
        keeps_up = spec.at_least is not None or spec.drop_at_most is not None
        direction = Direction.MAXIMIZE if keeps_up else Direction.MINIMIZE
        objective = self._bounded(spec, key, direction)
        bounds = {
            "at_least": 1.0,
            "at_most": 1.0,
            "drop_at_most": -1.0,
            "rise_at_most": 1.0,
        }
        bound = next(
            sign * value
            for name, sign in bounds.items()
            if (value := getattr(spec, name)) is not None
        )
        if objective is None:
            return None
        return Constraint(objective, bound, spec.relative_to)

    def _bounded(
        self, spec: ConstraintSpec, key: str, direction: Direction
    ) -> Objective | None:
        """Return what a constraint bounds, turned the way its bound asks."""
        if spec.measure is not None:
            measures = self._measures(spec.measure, f"{key}.measure")
            if not measures:
                return None
            weights = (1.0,) * len(measures)
            return Objective(spec.measure, direction, measures, weights)
        named = {objective.name: objective for objective in self.objectives}
        objective = named.get(str(spec.objective))
        if objective is None:
            self._mistakes.add(
                f"{key}.objective",
                f"unknown objective {spec.objective!r}"
                f"{did_you_mean(str(spec.objective), list(named))}",
            )
            return None
        if objective.worst and objective.direction is not direction:
            self._mistakes.add(
                f"{key}.objective",
                f"expected a bound on the other side: {objective.name!r} is to "
                f"{objective.direction} and weighs its worst measure.",
            )
            return None
        return replace(objective, direction=direction)
