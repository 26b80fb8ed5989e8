"""What can be told of lm-eval's tasks and groups without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evomerge.core.scoring_protocol import Share
from evomerge.core.survey import Member, Surveyed, TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.errors import Problem, SpecError
from evomerge.scoring.harness.adapter import check_generation
from evomerge.scoring.harness.groups import WHOLE, Figure, Group, Leaf
from evomerge.scoring.harness.internals import ConfigurableTask
from evomerge.scoring.harness.loading import load_task
from evomerge.scoring.harness.questions import build_questions
from evomerge.scoring.harness.task_index import GroupError, UnknownTaskError, wrong
from evomerge.scoring.harness.task_protocol import facts_of, offered
from evomerge.scoring.items import counted, keyed


def look(settings: TaskSettings, cache_dir: str) -> Surveyed:
    """Find out about a task as far as possible; what is wrong is among the problems.

    A task whose name is hardly misspelt is judged by the one that must be meant, so
    that its metrics are told in the same round.

    Raises:
        SpecError: There is no such task, or it cannot be measured.
    """
    try:
        return _Seen.of(settings, cache_dir).surveyed
    except UnknownTaskError as error:
        if len(error.nearest) != 1:
            raise
        meant = replace(settings, task=error.nearest[0])
        problems = tuple(keyed(settings, error))
        try:
            return replace(look(meant, cache_dir), problems=problems)
        except SpecError:
            return Surveyed(problems=problems)
    except GroupError as error:
        return _Group(settings, Group(settings, error.manager), cache_dir).surveyed()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A task that was built.

    Attributes:
        metrics: Name to metric and filter.
    """

    surveyed: Surveyed
    facts: TaskFacts
    metrics: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, settings: TaskSettings, cache_dir: str) -> _Seen:
        task = load_task(settings, cache_dir)
        facts = facts_of(task, settings)
        said = searched_in_public(task, settings)
        warnings = () if said is None else (Problem(f"{settings.name}.items", said),)
        surveyed = Surveyed({settings.name: facts}, warnings=warnings)
        try:
            items = {settings.name: _counted(task, settings)}
            surveyed = replace(surveyed, items=items)
        except SpecError as error:
            surveyed = replace(surveyed, problems=tuple(keyed(settings, error)))
        return cls(surveyed, facts, offered(task, settings))


class _Group:
    """A group of which all members can be built."""

    def __init__(self, settings: TaskSettings, group: Group, cache_dir: str) -> None:
        if settings.search_items is not None or settings.report_items is not None:
            raise wrong(
                settings,
                f"items: {settings.task!r} is a group: lists would name items of one "
                "task; use limit, search_fraction or splits, which hold for each.",
            )
        self._name = settings.name
        self._task = settings.task
        self._group = group
        self._seen: dict[str, _Seen] = {}
        self._problems: list[Problem] = []
        for leaf in group.leaves:
            try:
                seen = _Seen.of(_of_leaf(settings, leaf), cache_dir)
            except SpecError as error:
                self._problems += keyed(settings, error)
            else:
                self._seen[leaf.task] = seen
                self._problems += seen.surveyed.problems

    def surveyed(self) -> Surveyed:
        """Return the facts of the group, the groups within it, and its members."""
        if self._problems:
            return Surveyed(problems=tuple(self._problems))
        facts = {
            k: v for one in self._seen.values() for k, v in one.surveyed.facts.items()
        }
        shares: dict[str, list[Share]] = {leaf.task: [] for leaf in self._group.leaves}
        for group, figures in self._figures().items():
            name = self._name if group == WHOLE else f"{self._name}.{group}"
            facts[name] = self._facts(group, name, figures, shares)
        counts = [c for one in self._seen.values() for c in one.surveyed.items.values()]
        n_search, n_report = (sum(role) for role in zip(*counts, strict=True))
        return Surveyed(
            facts=facts,
            items={self._name: (n_search, n_report)},
            members={
                self._name: tuple(
                    Member(
                        one.task, one.is_local, one.overrides, tuple(shares[one.task])
                    )
                    for one in self._group.leaves
                )
            },
            warnings=tuple(self._warnings()),
        )

    def _figures(self) -> dict[str, tuple[Figure, ...]]:
        """Return what is added up; of a tag, all that its tasks measure, each alike."""
        metrics = {m for one in self._seen.values() for m, _ in one.metrics.values()}
        alike = tuple(Figure(metric, None, False) for metric in sorted(metrics))
        return {WHOLE: alike, **self._group.figures}

    def _warnings(self) -> Iterator[Problem]:
        public = [one for seen in self._seen.values() for one in seen.surveyed.warnings]
        if public:
            said = f"of {len(public)} of its tasks {public[0].message}"
            yield Problem(f"{self._name}.items", said)
        if WHOLE not in self._group.figures:
            yield Problem(
                f"{self._name}.task",
                f"lm-eval adds up no figure of {self._task!r}: the mean of its "
                f"{len(self._seen)} tasks is meant, each counting alike.",
            )

    def _facts(
        self,
        group: str,
        name: str,
        figures: tuple[Figure, ...],
        shares: Mapping[str, list[Share]],
    ) -> TaskFacts:
        """Return what can be measured of a group, and note its members' shares."""
        members = [leaf.task for leaf in self._group.leaves if group in leaf.groups]
        senses: dict[str, bool | None] = {}
        refused: dict[str, str] = {}
        for figure in figures:
            by_filter = self._by_filter(members, figure)
            for way, own in by_filter.items():
                key = figure.metric if len(by_filter) == 1 else f"{figure.metric},{way}"
                lacking = [task for task in members if task not in own]
                if lacking:
                    refused[key] = (
                        f"{key!r} of {name!r} is not measured by all of its tasks "
                        f"({', '.join(lacking[:3])} lack it); name tasks one by one."
                    )
                    continue
                said = {self._seen[t].facts.senses[own[t]] for t in members}
                senses[key] = said.pop() if len(said) == 1 else None
                for task in members:
                    shares[task].append(Share(name, key, own[task], figure.by_size))
            if not by_filter:
                refused |= self._seen[members[0]].facts.refused
        generates = any(self._seen[task].facts.generates for task in members)
        images = any(self._seen[task].facts.images for task in members)
        return TaskFacts(senses, refused, generates, images)

    def _by_filter(
        self, members: list[str], figure: Figure
    ) -> dict[str, dict[str, str]]:
        """Return filter to task to what the task calls the metric with that filter."""
        found: dict[str, dict[str, str]] = {}
        for task in members:
            for own, (metric, way) in self._seen[task].metrics.items():
                is_meant = figure.filters is None or way in figure.filters
                if metric == figure.metric and is_meant:
                    found.setdefault(way, {})[task] = own
        return found


def _of_leaf(settings: TaskSettings, leaf: Leaf) -> TaskSettings:
    return replace(
        settings,
        name=f"{settings.name}.{leaf.task}",
        task=leaf.task,
        include_path=settings.include_path if leaf.is_local else None,
        overrides=leaf.overrides,
    )


def _counted(task: ConfigurableTask, settings: TaskSettings) -> tuple[int, int]:
    """Write every prompt, and count the items of either role.

    A chat template needs a tokenizer, which a worker has.
    """
    plain = replace(settings, apply_chat_template=False)
    questions = build_questions(task, plain, None)
    first = next(iter(questions.by_id.values())).instances[0]
    if first.request_type == "generate_until":
        try:
            check_generation(first.args[1])
        except (TypeError, ValueError, SpecError) as error:
            raise wrong(settings, f"gen_kwargs: {error}") from error
    return counted(questions.items)


def searched_in_public(task: ConfigurableTask, settings: TaskSettings) -> str | None:
    """Say so where items of a public benchmark's test split are searched on.

    Whoever does so cannot compare with those who report it; mergekit-evolve asks for a
    flag of its own.

    Args:
        task: As it was built; its splits are still those of its file.
        settings: Which items are searched on.

    Returns:
        None for tasks of one's own, and where another split is searched on.
    """
    test = task.config.test_split
    if settings.include_path is not None or test is None:
        return None
    if settings.search_split not in (None, test):
        return None
    others = (task.config.validation_split, task.config.training_split)
    other = next((name for name in others if name and name != test), None)
    way = (
        "It has no other split; say so beside the result."
        if other is None
        else f"To keep it for the report, write `items: {{search_split: {other}, "
        f"report_split: {test}}}`."
    )
    return (
        f"items of the public test split ({test!r}) are searched on, so the result "
        f"cannot be compared with what others publish on it. {way}"
    )
