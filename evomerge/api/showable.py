"""What the held-out items of a study can show, before anything is scored."""

from __future__ import annotations

from evomerge.api.models.held_out import judged_on
from evomerge.core.study import Objective
from evomerge.core.survey import ALWAYS
from evomerge.export.power import DISCORDANT, smallest_difference
from evomerge.specs.resolved import ResolvedStudy

_TOKENS = ALWAYS[0]


def power_of(study: ResolvedStudy) -> dict[str, str]:
    """Return objective to the smallest gain that export would probably find.

    That is over one baseline, when it is compared with all of generation 0 by every
    objective that is tested. Nothing is said of numbers of tokens, which have no unit
    in common with scores, nor where the number of items is not known.
    """
    goals = judged_on(study)
    n_tests = max(1, len(study.baselines) * len(goals))
    said = {goal.name: _said(study, goal, n_tests) for goal in goals}
    return {name: words for name, words in said.items() if words is not None}


def _said(study: ResolvedStudy, goal: Objective, n_tests: int) -> str | None:
    shares: dict[str, float] = {}
    for measure, weight in zip(goal.measures, goal.weights, strict=True):
        task = measure.task if measure.task in study.items else _group(measure.task)
        if task not in study.items or measure.metric == _TOKENS:
            return None
        shares[task] = shares.get(task, 0.0) + weight / sum(goal.weights)
    parts = [(share, study.items[task][1]) for task, share in shares.items()]
    found = smallest_difference(parts, n_tests)
    if found is None:
        return "no difference: too few held-out items"
    what = "differences of its mean" if goal.worst else "differences"
    return (
        f"{what} from {found:.3f} on (found in 4 of 5 exports, {n_tests} comparisons "
        f"sharing 5 % error, if {DISCORDANT:.0%} of the held-out items come out "
        "differently)"
    )


def _group(task: str) -> str:
    """Return the group that a member, or a group within it, belongs to."""
    return task.partition(".")[0]
