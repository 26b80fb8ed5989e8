"""Kinds of tasks that are none of lm-eval's: simulated ones, and measures of items."""

from __future__ import annotations

from typing import Any, Protocol

from evomerge import plugins
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey, Outcome, TaskDescription
from evomerge.core.survey import Surveyed
from evomerge.core.work import TaskSettings
from evomerge.errors import PluginError, Problem, SpecError
from evomerge.scoring.divergence import Divergence
from evomerge.scoring.engine import Engine
from evomerge.scoring.item_source import Items, ItemSource, ItemTask
from evomerge.scoring.items import counted, split_items
from evomerge.scoring.preference import Preference
from evomerge.scoring.simulated.landscape import TASK, Landscape, SimulatedTask

MEASURES: dict[str, type[ItemSource]] = {"kl": Divergence, "preference": Preference}
"""What ``task:`` says to what measures it; other packages may have more."""


class OwnTask(Protocol):
    """A task on a living engine, a block of items at a time."""

    def describe(self) -> TaskDescription:
        """Return items, protocol and metrics."""

    def score(self, recipe: Recipe, block: BlockKey) -> tuple[Outcome, ...]:
        """Answer a block of items with the recipe that is in the engine."""

    def score_first(self, recipe: Recipe, n: int) -> tuple[Outcome, ...]:
        """Answer the first n search items."""


def own_task(settings: TaskSettings, engine: Engine, cache_dir: str) -> OwnTask | None:
    """Make a task; None if it is lm-eval's.

    Raises:
        SpecError: It cannot be made of what its settings say.
    """
    if settings.task == TASK:
        return SimulatedTask(settings, engine.facts, cache_dir)
    kind = _measure(settings)
    return None if kind is None else ItemTask(settings, kind, engine, cache_dir)


def is_own(settings: TaskSettings) -> bool:
    """Tell whether a task is none of lm-eval's.

    Raises:
        SpecError: It is of another package, and may not or cannot be loaded.
    """
    return settings.task == TASK or _measure(settings) is not None


def look(settings: TaskSettings) -> Surveyed | None:
    """Find out about a task without an engine; None if it is lm-eval's.

    Raises:
        SpecError: It cannot be made of what its settings say.
    """
    name = settings.name
    if settings.task == TASK:
        task = Landscape.read(settings)
        facts, ids = task.facts, task.ids(name)
    elif (kind := _measure(settings)) is not None:
        read = Items(settings, kind)
        facts, ids = read.facts, list(read.by_id)
    else:
        return None
    return Surveyed({name: facts}, {name: counted(split_items(settings, ids))})


def _measure(settings: TaskSettings) -> type[ItemSource] | None:
    if settings.task in MEASURES:
        return MEASURES[settings.task]
    try:
        part: Any = plugins.find("measures", settings.task)
    except PluginError as error:
        raise SpecError([Problem(f"task {settings.name}: task", str(error))]) from error
    if part is None:
        return None
    if not (isinstance(part, type) and issubclass(part, ItemSource)):
        raise SpecError(
            [
                Problem(
                    f"task {settings.name}: task",
                    f"{settings.task!r} measures no items: expected a class that "
                    "inherits evomerge.scoring.item_source.ItemSource, got "
                    f"{part!r:.80}.",
                )
            ]
        )
    return part
