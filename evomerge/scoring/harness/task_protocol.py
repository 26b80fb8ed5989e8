"""What decides an lm-eval task's scores, as plain data without paths.

The harness records it as the task's protocol. Two machines that keep the same files in
different folders must agree on every byte, and a changed data file, prompt, tokenizer
or library must not.

A trial's score is the mean over its items. Metrics that are put together otherwise have
no value for an item alone: those of ``core.aggregates`` (F1, Matthews' correlation,
perplexities) are scored where the study asks for them, others (BLEU) are refused by
name, with what to use instead. Tasks that read whole texts get losses of each text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from evomerge.core.aggregates import AGGREGATES
from evomerge.core.digest import digest
from evomerge.core.survey import TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.scoring.content import plain, tokenizer_digest
from evomerge.scoring.engine import Engine, ImageEngine
from evomerge.scoring.harness.image_tasks import shows_images
from evomerge.scoring.harness.internals import (
    VERSION,
    ConfigurableTask,
    aggregation_function,
    filter_names,
    mean,
)
from evomerge.scoring.harness.loading import FEWSHOT_SEED
from evomerge.scoring.harness.losses import LOSSES, reads_texts
from evomerge.scoring.harness.questions import Questions
from evomerge.scoring.harness.task_index import wrong
from evomerge.scoring.items import item_id

_NO_SCORES = ("task", "task_alias", "tag", "metadata", "dataset_kwargs")
_SPLITS = ("test_split", "validation_split", "training_split")


def protocol_settings(
    task: ConfigurableTask,
    settings: TaskSettings,
    engine: Engine,
    questions: Questions,
) -> dict[str, Any]:
    """Return everything that turns an item and a model into an outcome.

    The number of items used, their roles and blocks are no part of it: outcomes are
    shared between studies that use different numbers.
    """
    config = task.config.to_dict(keep_callable=True)
    dataset = {
        "kwargs": _data(config.get("dataset_kwargs") or {}),
        "documents": {
            split: digest(list(ids)) for split, ids in questions.documents.items()
        },
    }
    kept = {
        key: value
        for key, value in config.items()
        if key not in _NO_SCORES and key not in _SPLITS
    }
    if Path(str(config.get("dataset_path"))).is_dir():
        del kept["dataset_path"]  # its documents stand for it
    tokenizer = engine.tokenizer
    template = tokenizer.chat_template if settings.apply_chat_template else None
    images = {}
    if shows_images(task):
        processor = cast(ImageEngine, engine).images.processor
        images = {"images": processor.digest}
        template = processor.chat_template if settings.apply_chat_template else None
    scored = {metric for metric, _ in offered(task, settings).values()}
    together = sorted(scored & aggregated(task).keys())
    return {
        "harness": f"lm_eval {VERSION}",
        "config": plain(kept),
        "dataset": dataset,
        "fewshot": {
            "number": task.config.num_fewshot,
            "seed": FEWSHOT_SEED,
            "pool": _pool(task),
        },
        "system_instruction": settings.system_instruction,
        "chat_template": None if template is None else digest(plain(template)),
        "tokenizer": tokenizer_digest(tokenizer),
        "max_length": engine.max_length,
        "engine": plain(engine.facts),
        **images,
        # Outcomes recorded without their parts cannot be used for them.
        **({"aggregates": together} if together else {}),
    }


def _pool(task: ConfigurableTask) -> str | None:
    """Name the documents that few-shot examples are drawn from, in their order."""
    if not task.config.num_fewshot:
        return None
    return digest([item_id(doc) for doc in task.sampler.df])


def _data(options: Mapping[str, Any]) -> Any:
    """Return what a dataset is loaded with; a local file is named by its content."""
    return {
        key: _file_digests(value) if key == "data_files" else plain(value)
        for key, value in options.items()
        if key not in ("cache_dir", "data_dir")
    }


def _file_digests(files: Any) -> Any:
    if isinstance(files, Mapping):
        return {split: _file_digests(part) for split, part in files.items()}
    if isinstance(files, list | tuple):
        return [_file_digests(part) for part in files]
    path = Path(str(files))
    if not path.is_file():
        return str(files)
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


_PAIRS = ("brier_score", "f1", "likelihood", "mcc")
"""What lm-eval gives as pairs for a multiple-choice item, whatever the aggregation."""
_AGGREGATIONS = {
    aggregation_function(name): name for name in AGGREGATES if name != "mean"
}
"""What lm-eval puts metrics together by, to the name in ``core.aggregates``."""
_INSTEAD = {
    "multiple_choice": "acc",
    "loglikelihood": "acc",
    "generate_until": "exact_match",
}
"""Kind of task to a metric of lm-eval's that it can have, and that is a mean."""


def offered(
    task: ConfigurableTask, settings: TaskSettings
) -> dict[str, tuple[str, str]]:
    """Return the metrics that are scored: name to (metric, filter).

    All that are a mean over items, or losses where texts are read; of those that are
    put together otherwise the ones that the study asks for. A task with one filter
    offers ``metric``, one with several ``metric,filter``.

    Raises:
        SpecError: It has none.
    """
    means, together = _means(task), aggregated(task)
    if not (means or together):
        said = "; ".join(refused(task).values()) or "it has none."
        raise wrong(settings, f"expected a metric that is a mean over items: {said}")
    named = _named(task, (*means, *together))
    return {
        name: found
        for name, found in named.items()
        if found[0] in means or name in settings.asked
    }


def aggregated(task: ConfigurableTask) -> dict[str, str]:
    """Return the metrics that are put together of parts, each with how."""
    return {
        metric: how
        for metric, function in task.aggregation().items()
        if (how := _AGGREGATIONS.get(_bare(function))) is not None
        and task.config.process_results is None
        and task.OUTPUT_TYPE != "generate_until"
        and metric not in _means(task)
    }


def _means(task: ConfigurableTask) -> list[str]:
    if reads_texts(task):
        return list(LOSSES)
    return [name for name in task.aggregation() if _why_not(task, name) is None]


def _named(
    task: ConfigurableTask, metrics: Sequence[str]
) -> dict[str, tuple[str, str]]:
    filters = filter_names(task)
    return {
        metric if len(filters) == 1 else f"{metric},{name}": (metric, name)
        for name in filters
        for metric in metrics
    }


def facts_of(task: ConfigurableTask, settings: TaskSettings) -> TaskFacts:
    """Return what can be measured of a task.

    Raises:
        SpecError: No metric can be scored.
    """
    own = dict(task.higher_is_better())
    own |= dict.fromkeys(LOSSES, False)
    scored = [metric for metric, _ in offered(task, settings).values()]
    senses = {
        name: own[metric] if isinstance(own.get(metric), bool) else None
        for name, (metric, _) in _named(
            task, (*dict.fromkeys((*scored, *aggregated(task))),)
        ).items()
    }
    return TaskFacts(
        senses,
        refused(task),
        generates=task.OUTPUT_TYPE == "generate_until",
        images=shows_images(task),
    )


def refused(task: ConfigurableTask) -> dict[str, str]:
    """Return the metrics that are no mean over items, each with what to use instead."""
    why = {name: _why_not(task, name) for name in task.aggregation()}
    means = [n for n, reason in why.items() if reason is None or n in aggregated(task)]
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
        if reason is not None and name not in aggregated(task)
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


def _bare(how: Callable[..., Any]) -> Callable[..., Any]:
    inner: Callable[..., Any] = getattr(how, "func", how)
    return inner


def _name(how: Callable[..., Any]) -> str:
    inner = _bare(how)
    return str(getattr(inner, "__name__", type(inner).__name__))
