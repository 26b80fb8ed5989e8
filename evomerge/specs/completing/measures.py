"""Tasks, objectives and constraints: from the written form to values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.core.measures import REFERENCE
from evomerge.core.meter import SOURCES, source_of
from evomerge.core.nearest import did_you_mean
from evomerge.core.study import Constraint, Direction, Measure, Objective
from evomerge.core.survey import Member, TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.errors import PluginError, RecipeError
from evomerge.specs.completing.directions import Senses
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.schema.measures import (
    BLOCKS_OF_TASK,
    CUT,
    CUTS,
    ConstraintSpec,
    ItemsSpec,
    ObjectiveSpec,
    TaskSpec,
)
from evomerge.specs.schema.study import StudySpec

EVERY_TASK = "*"
_OVERALL = ObjectiveSpec(name="score", mean_of=(EVERY_TASK,))
"""The objective of a study that names none."""


def tasks_of(
    spec: StudySpec,
    groups: Mapping[str, tuple[Member, ...]] = {},
    cut: int = CUT,
) -> tuple[TaskSettings, ...]:
    """Return every task with the study's defaults laid under it, by name.

    Args:
        spec: The study.
        groups: Those of its tasks that are groups, to the tasks they stand for.
        cut: Version of the cut into blocks where the study does not say how many.
    """
    usual, fewest = CUTS[cut]
    total = spec.items.blocks
    share = max((total or usual) // max(len(spec.tasks), 1), 1)
    least = 1
    if spec.items.share is not None and not total:
        # Of every task a few blocks are drawn, so each must have several.
        least = BLOCKS_OF_TASK
    blocks = (max(share, least), 1 if total else fewest)
    return tuple(
        one
        for name in sorted(spec.tasks)
        for one in _members(
            _task(name, spec.tasks[name], spec.items, blocks),
            groups.get(name, ()),
            least,
        )
    )


def asked_of(
    tasks: Sequence[TaskSettings], goals: Sequence[Objective]
) -> tuple[TaskSettings, ...]:
    """Return tasks that know which of their metrics goals speak of."""
    measures = sorted({measure for goal in goals for measure in goal.measures})
    return tuple(
        replace(task, asked=tuple(m.metric for m in measures if m.task == task.name))
        for task in tasks
    )


def _members(
    task: TaskSettings, members: tuple[Member, ...], least: int
) -> Iterator[TaskSettings]:
    """Yield the task itself, or those that it stands for."""
    if not members:
        yield task
    for member in members:
        yield replace(
            task,
            name=f"{task.name}.{member.task}",
            task=member.task,
            include_path=task.include_path if member.is_local else None,
            n_blocks=max(task.n_blocks // len(members), least),
            overrides=member.overrides,
            shares=member.shares,
        )


def _task(
    name: str, task: TaskSpec, usual: ItemsSpec, blocks: tuple[int, int]
) -> TaskSettings:
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
        n_blocks=own.blocks or blocks[0],
        block_items=1 if own.blocks else blocks[1],
        trust_code=task.trust_code,
        options=task.options,
    )


def _is_maximised(written: tuple[ObjectiveSpec, ...]) -> bool:
    return all(one.direction == "maximize" for one in written)


def _ids(items: tuple[str | int, ...] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(str(item) for item in items)


class Measured:
    """Reads objectives and constraints over a study's tasks.

    Args:
        spec: The study.
        mistakes: Where to note what is wrong.
        facts: Task to what can be measured of it. Metrics of other tasks are taken as
            they are written, and maximised where nothing is said.

    Attributes:
        objectives: In the order written.
        written: As they are written, each with its direction; empty if none is and
            their mean is to be maximised.
    """

    def __init__(
        self,
        spec: StudySpec,
        mistakes: Mistakes,
        facts: Mapping[str, TaskFacts] = {},
    ) -> None:
        self._tasks = spec.tasks
        self._mistakes = mistakes
        self._senses = Senses(facts, mistakes)
        if not spec.tasks and not mistakes.any_at("tasks"):
            mistakes.add(
                "tasks",
                "expected at least one task, here or from evaluators, got none.",
            )
        for name in SOURCES.keys() & spec.tasks.keys():
            mistakes.add(
                f"tasks.{name}",
                f"expected another name: `{name}/...` is told of models without a "
                "task.",
            )
        for name, task in spec.tasks.items():
            wanted = task.options.get(REFERENCE)
            if wanted is not None and wanted not in spec.sources:
                hint = did_you_mean(str(wanted), list(spec.sources))
                mistakes.add(
                    f"tasks.{name}.options.{REFERENCE}",
                    f"unknown source {wanted!r}{hint}",
                )
            if task.metric is not None:
                self._senses.check(Measure(name, task.metric), f"tasks.{name}.metric")
        written = spec.objectives or (_OVERALL,)
        found = [self._objective(o, i) for i, o in enumerate(written)]
        self._names = [str(one.name or one.measure) for one in written]
        self.objectives = tuple(o for o in found if o is not None)
        self.written = tuple(
            one if o is None else one.model_copy(update={"direction": str(o.direction)})
            for one, o in zip(written, found, strict=True)
        )
        if not spec.objectives and _is_maximised(self.written):
            self.written = ()
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
        turned = f"{key}.direction" if spec is not _OVERALL else "objectives"
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
        if spec.measure is None and not all(measure.by_item for measure, _ in pairs):
            self._mistakes.add(
                key,
                "expected measures of tasks, got a cost or the like; give it an "
                "objective with `measure`, or a constraint of its own.",
            )
        measures = tuple(measure for measure, _ in pairs)
        name = spec.name or (str(measures[0]) if len(pairs) == 1 else "score")
        said = None if spec.direction is None else Direction(spec.direction)
        return Objective(
            name=name,
            direction=self._senses.direction(name, measures, said, turned),
            measures=measures,
            weights=tuple(weight for _, weight in pairs),
            worst=spec.worst,
        )

    def _measures(self, text: str, key: str) -> tuple[Measure, ...]:
        task, slash, metric = text.partition("/")
        if task in SOURCES or (
            task != EVERY_TASK and task.partition(".")[0] not in self._tasks
        ):
            told = self._of_candidates(task, metric, key)
            if told is not None:
                return told
        names = sorted(self._tasks) if task == EVERY_TASK else [task]
        found = []
        for name in names:
            known = self._tasks.get(name.partition(".")[0])
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
            measure = Measure(name, wanted)
            if not metric or self._senses.check(measure, key):
                found.append(measure)
        return tuple(found)

    def _of_candidates(
        self, name: str, metric: str, key: str
    ) -> tuple[Measure, ...] | None:
        """Read a measure that needs no task; None if there is no such source."""
        try:
            source = source_of(name)
            if source is None:
                return None
            source.sense(metric)
        except (PluginError, RecipeError) as error:
            self._mistakes.add(key, f"{error}")
            return ()
        return (Measure(name, metric, by_item=False),)

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
            if spec.objective not in self._names:
                hint = did_you_mean(str(spec.objective), self._names)
                message = f"unknown objective {spec.objective!r}{hint}"
                self._mistakes.add(f"{key}.objective", message)
            return None
        if objective.worst and objective.direction is not direction:
            self._mistakes.add(
                f"{key}.objective",
                f"expected a bound on the other side: {objective.name!r} is to "
                f"{objective.direction} and weighs its worst measure.",
            )
            return None
        return replace(objective, direction=direction)


def goals(
    config: Mapping[str, Any],
) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Return the objectives and constraints of a recorded configuration.

    Raises:
        SpecError: The configuration cannot be read.
        KeyError: A part of it is missing.
    """
    written = {
        **config["study"],
        "sources": dict(config["sources"]),
        "budget": {"trials": 1},  # not part of the configuration; any will do
    }
    mistakes = Mistakes("recorded study")
    spec, problems = validate(StudySpec, written, mistakes.file)
    for problem in problems:
        mistakes.found.append(problem)
    mistakes.stop_if_any()
    assert spec is not None
    measured = Measured(spec, mistakes)
    constraints = measured.constraints(spec, list(config["baselines"]))
    mistakes.stop_if_any()
    return measured.objectives, constraints
