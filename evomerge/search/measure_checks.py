"""Whether the tasks measure what the objectives ask for."""

from collections.abc import Sequence

from evomerge.core.cost import is_cost
from evomerge.core.scoring_protocol import TaskDescription
from evomerge.core.study import Constraint, Objective
from evomerge.core.survey import ALWAYS


def missing_measures(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    tasks: Sequence[TaskDescription],
) -> tuple[list[str], str]:
    """Compare what is wanted of tasks with what is offered; costs need no task.

    Returns:
        The wanted measures (``task/metric``) that no task offers, and all that are
        offered, as one line of text.
    """
    offered = {
        f"{task.manifest.task}/{metric}"
        for task in tasks
        for metric in (*task.metrics, *ALWAYS)
    } | {
        f"{share.group}/{metric}"
        for task in tasks
        for share in task.manifest.shares
        for metric in (share.metric, *ALWAYS)
    }
    bounded = [constraint.objective for constraint in constraints]
    wanted = {
        str(m) for o in (*objectives, *bounded) for m in o.measures if not is_cost(m)
    }
    return sorted(wanted - offered), ", ".join(sorted(offered))
