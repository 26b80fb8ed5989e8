"""A group of lm-eval's, or a tag, as the tasks it stands for.

``task_survey`` asks once, before a search; what it finds is recorded with the study,
and workers score the members as tasks of their own. The group's figure is put together
from their scores by ``core.scoring_protocol``, as lm-eval weighs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge.core.nearest import nearest
from evomerge.core.work import TaskSettings
from evomerge.errors import SpecError
from evomerge.scoring.harness.internals import TaskManager
from evomerge.scoring.harness.task_files import refuse_tags
from evomerge.scoring.harness.task_index import GroupError, by_file_name, find, wrong

WHOLE = ""
"""The group itself, among the groups within it."""
_OF_GROUPS = (
    *("group", "group_alias", "task", "aggregate_metric_list", "metadata"),
    *("include", "tag"),
)
"""Keys of a group that say nothing to its members."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric that a group has a figure of.

    Attributes:
        filters: The ways to read an answer that count; None for all there are.
        by_size: Every item counts alike; else every task does.
    """

    metric: str
    filters: tuple[str, ...] | None
    by_size: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """A task that a group stands for.

    Attributes:
        groups: The groups within the group that it is in, and ``WHOLE``.
        is_local: It stands in the folder of task files.
        overrides: What the groups lay over its config.
    """

    task: str
    groups: tuple[str, ...]
    is_local: bool
    overrides: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name stands: who knows it, the groups around, what they lay over it."""

    manager: TaskManager
    is_local: bool
    groups: tuple[str, ...] = (WHOLE,)
    overrides: Mapping[str, Any] = field(default_factory=dict)


class Group:
    """The tasks of a group.

    Args:
        settings: Names the group.
        manager: Knows it.

    Attributes:
        leaves: Its tasks, in lm-eval's order.
        figures: Group to what lm-eval adds up of it; ``WHOLE`` is the group itself. A
            group of which it adds up nothing is not there.

    Raises:
        SpecError: A member is not known, or cannot be had as a part of a group.
    """

    def __init__(self, settings: TaskSettings, manager: TaskManager) -> None:
        self._settings = settings
        self.figures: dict[str, tuple[Figure, ...]] = {}
        place = _Place(manager, is_local=settings.include_path is not None)
        cfg = manager.task_index[settings.task].cfg
        found = self._named(settings.task, place)
        self.leaves = tuple(found if cfg is None else self._members(cfg, place))
        names = [leaf.task for leaf in self.leaves]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            said = f"holds {', '.join(twice)} twice" if twice else "holds no task"
            raise self._wrong(f"{settings.task!r} {said}; name tasks one by one.")

    def _named(self, name: str, place: _Place) -> Iterator[Leaf]:
        """Yield the tasks of a name: of a task itself, a tag or a group."""
        entry = place.manager.task_index.get(name)
        if entry is None:
            yield from self._of_library(name, place)
        elif name in place.manager.all_subtasks:
            yield Leaf(name, place.groups, place.is_local, place.overrides)
        elif entry.cfg is None:
            for task in sorted(entry.tags):
                yield from self._named(task, place)
        else:
            yield from self._inner(name, entry.cfg, place)

    def _of_library(self, name: str, place: _Place) -> Iterator[Leaf]:
        """Look for a member that is not beside its group in lm-eval's library."""
        asked = replace(self._settings, task=name, include_path=None)
        try:
            found = by_file_name(asked)
            if found is None and not place.is_local:
                found = find(asked)
        except GroupError as error:
            there = replace(place, manager=error.manager, is_local=False)
            yield from self._named(name, there)
            return
        if found is None:
            near = nearest(name, place.manager.all_tasks, n=3)
            hint = f"; nearest are {', '.join(near)}" if near else ""
            raise self._wrong(
                f"no task {name!r}, which {self._settings.task!r} holds, in its folder "
                f"or lm-eval's library{hint}."
            )
        yield Leaf(name, place.groups, False, place.overrides)

    def _inner(
        self, name: str, cfg: Mapping[str, Any], place: _Place
    ) -> Iterator[Leaf]:
        if name in (self._settings.task, *place.groups):
            raise self._wrong(f"the group {name!r} holds itself.")
        yield from self._members(cfg, replace(place, groups=(*place.groups, name)))

    def _members(self, cfg: Mapping[str, Any], place: _Place) -> Iterator[Leaf]:
        refuse_tags(cfg, f"task {self._settings.name}")
        group = place.groups[-1]
        if figures := tuple(self._figures(cfg.get("aggregate_metric_list"))):
            self.figures[group] = figures
        # What is laid over from outside wins, as in lm-eval.
        laid = {key: value for key, value in cfg.items() if key not in _OF_GROUPS}
        inside = replace(place, overrides={**laid, **place.overrides})
        members = cfg.get("task")
        for member in members if isinstance(members, list) else []:
            yield from self._member(member, inside)

    def _member(self, member: Any, place: _Place) -> Iterator[Leaf]:
        if isinstance(member, str):
            yield from self._named(member, place)
            return
        name = isinstance(member, Mapping) and (
            member.get("group") or member.get("task")
        )
        if not isinstance(name, str):
            raise self._wrong(f"a group's member is {member!r:.80}, not a name.")
        if "group" in member and name not in place.manager.task_index:
            yield from self._inner(name, member, place)
            return
        if "dataset_path" in member and name not in place.manager.task_index:
            raise self._wrong(
                f"the task {name!r} is written inside its group; give it a file of its "
                "own."
            )
        own = {key: value for key, value in member.items() if key not in _OF_GROUPS}
        laid = {**place.overrides, **own}
        yield from self._named(name, replace(place, overrides=laid))

    def _figures(self, written: Any) -> Iterator[Figure]:
        entries = written if isinstance(written, list) else [written]
        for entry in entries if written is not None else []:
            if not isinstance(entry, Mapping) or not isinstance(
                entry.get("metric"), str
            ):
                raise self._wrong(f"aggregate_metric_list holds {entry!r:.80}.")
            if entry.get("aggregation", "mean") != "mean":
                raise self._wrong(
                    f"aggregate_metric_list: expected the mean of "
                    f"{entry['metric']!r}, got {entry['aggregation']!r:.80}."
                )
            filters = entry.get("filter_list")
            if isinstance(filters, str):
                filters = [filters]
            yield Figure(
                entry["metric"],
                None if filters is None else tuple(map(str, filters)),
                bool(entry.get("weight_by_size", True)),
            )

    def _wrong(self, message: str) -> SpecError:
        return wrong(self._settings, message)
