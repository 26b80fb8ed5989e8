"""Which of a task's metrics can be measured an item at a time, and which way is better.

A trial's score is the mean over its items. Metrics that are put together otherwise
(F1, Matthews' correlation, perplexity, BLEU) have no value for an item alone: they are
refused by name, with what to use instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evomerge.core.survey import TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.scoring.harness.internals import ConfigurableTask, filter_names, mean
from evomerge.scoring.harness.task_index import wrong

_PAIRS = ("brier_score", "f1", "likelihood", "mcc")
"""What lm-eval gives as pairs for a multiple-choice item, whatever the aggregation."""
_INSTEAD = {
    "multiple_choice": "acc",
    "loglikelihood": "acc",
    "generate_until": "exact_match",
}
"""Kind of task to a metric of lm-eval's that it can have, and that is a mean."""


def offered(
    task: ConfigurableTask, settings: TaskSettings
) -> dict[str, tuple[str, str]]:
    """Return the metrics that are a mean over items: name to (metric, filter).

    A task with one filter offers ``metric``, one with several ``metric,filter``.

    Raises:
        SpecError: There is none.
    """
    metrics = [name for name in task.aggregation() if _why_not(task, name) is None]
    if not metrics:
        said = "; ".join(refused(task).values()) or "it has none."
        raise wrong(settings, f"expected a metric that is a mean over items: {said}")
    filters = filter_names(task)
    return {
        metric if len(filters) == 1 else f"{metric},{name}": (metric, name)
        for name in filters
        for metric in metrics
    }


def facts_of(task: ConfigurableTask, settings: TaskSettings) -> TaskFacts:
    """Return what can be measured of a task.

    Raises:
        SpecError: No metric is a mean over items.
    """
    own = task.higher_is_better()
    senses = {
        name: own[metric] if isinstance(own.get(metric), bool) else None
        for name, (metric, _) in offered(task, settings).items()
    }
    return TaskFacts(senses, refused(task), task.OUTPUT_TYPE == "generate_until")


def refused(task: ConfigurableTask) -> dict[str, str]:
    """Return the metrics that are no mean over items, each with what to use instead."""
    why = {name: _why_not(task, name) for name in task.aggregation()}
    means = [name for name, reason in why.items() if reason is None]
    kind = _INSTEAD.get(str(task.OUTPUT_TYPE))
    if means:
        instead = f"use {' or '.join(means)}"
    elif kind is not None:
        instead = f"add {kind} to the metric_list of a task file of your own"
    else:
        instead = "use another task"
    return {
        name: f"{name!r} of {task.config.task!r} is no mean over items, but {reason}; "
        f"{instead}."
        for name, reason in why.items()
        if reason is not None
    }


def _why_not(task: ConfigurableTask, metric: str) -> str | None:
    """Say how a metric is put together if it is no mean over items."""
    how = task.aggregation()[metric]
    if how is not mean:
        return f"{_name(how)} of all answers together"
    has_own = task.config.process_results is not None
    if task.OUTPUT_TYPE == "multiple_choice" and not has_own and metric in _PAIRS:
        return "made of pairs that only count together"
    return None


def _name(how: Callable[..., Any]) -> str:
    inner = getattr(how, "func", how)
    return str(getattr(inner, "__name__", type(inner).__name__))
