"""Find out about tasks before any engine starts; see ``core.survey``.

Tasks are read and their prompts written as a worker does it, but for what only a model
can tell: chat templates, and how long prompts are in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.core.survey import Surveyed
from evomerge.core.work import TaskSettings
from evomerge.errors import SpecError
from evomerge.scoring import task_kinds
from evomerge.scoring.items import keyed


class Surveyor:
    """Finds out about the tasks of one study file, each once.

    Args:
        cache_dir: Where data read from local files may be kept.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = str(cache_dir)
        self._known: list[tuple[TaskSettings, Surveyed]] = []

    def __call__(self, tasks: Sequence[TaskSettings]) -> Surveyed:
        """Return what is known of these tasks, and all that is wrong with them."""
        found = [self._once(settings) for settings in tasks]
        return Surveyed(
            facts={name: facts for one in found for name, facts in one.facts.items()},
            items={name: counts for one in found for name, counts in one.items.items()},
            members={
                name: group for one in found for name, group in one.members.items()
            },
            problems=tuple(problem for one in found for problem in one.problems),
            warnings=tuple(warning for one in found for warning in one.warnings),
        )

    def _once(self, settings: TaskSettings) -> Surveyed:
        for known, surveyed in self._known:
            if known == settings:
                return surveyed
        found = _look(settings, self._cache_dir)
        self._known.append((settings, found))
        return found


def _look(settings: TaskSettings, cache_dir: str) -> Surveyed:
    try:
        if (own := task_kinds.look(settings)) is not None:
            return own
        from evomerge.scoring.harness.task_survey import look

        return look(settings, cache_dir)
    except SpecError as error:
        return Surveyed(problems=tuple(keyed(settings, error)))
