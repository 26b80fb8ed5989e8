"""Letting lm-eval build a task: by name, with its code checked.

The harness calls ``load_task`` once a task. Local task files are data, not code: a
file that would run Python is refused before any of it runs, unless the operator
allows it. lm-eval's own library ships with the package and may use its functions,
but a metric that must be fetched from the hub and a task that executes what a model
wrote need the same permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import jinja2

from evomerge.core.policy import in_force, refuse_code, refuse_outside
from evomerge.core.work import TaskSettings
from evomerge.errors import NotAllowedError, Problem, SpecError
from evomerge.scoring.harness.image_tasks import refuse_unoffered
from evomerge.scoring.harness.internals import (
    ConfigurableTask,
    TaskManager,
    calm,
    hub_metrics,
    load_yaml,
    looking_at_files,
    missing_metrics,
    undecoded_images,
)
from evomerge.scoring.harness.limited import LimitError
from evomerge.scoring.harness.permitted_data import permitted_data, refuse_file
from evomerge.scoring.harness.task_files import (
    CodeRefusedError,
    point_at_data,
    read_task_file,
    refuse_tags,
)
from evomerge.scoring.harness.task_index import find, wrong
from evomerge.scoring.harness.task_keys import complaints, key_of
from evomerge.specs.reading.lines import problem_at

FEWSHOT_SEED = 1234
"""lm-eval's own default, so that prompts equal those of its command line."""

TASK_ERRORS = (
    datasets.exceptions.DatasetsError,
    jinja2.TemplateError,
    LimitError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a task's own files, templates and functions raise when they are wrong."""

_TRUST = "Read that code, then set trust_code: true for this task, or do without it."
_LENGTH_NAMES = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)


def load_task(settings: TaskSettings, cache_dir: str) -> ConfigurableTask:
    """Build a task with the study's settings laid over its own.

    An explicit ``num_fewshot`` always counts; lm-eval's command line ignores it for
    tasks that say 0.

    Args:
        settings: Names the task and its folder, and what to change.
        cache_dir: Where data read from local files may be kept.

    Raises:
        SpecError: There is no such folder or task, or it cannot be built or is not
            offered here; the message names the task and the nearest known names.
        CodeRefusedError: It would run code without permission.
    """
    calm()
    _refuse_what_is_not_allowed(settings)
    path = find(settings)
    config = _read(settings, path)
    _look_through(settings, "its group", settings.overrides)
    config |= settings.overrides
    if settings.include_path is not None:
        _look_through(settings, path.name, config)
    elif config.get("unsafe_code", False) and not settings.trust_code:
        said = f"{settings.task!r} executes code that models write (unsafe_code)."
        raise _refused(settings, [said])
    try:
        if (policy := in_force()) is not None and _is_strangers(settings):
            permitted_data(config, path.parent, policy)
        point_at_data(config, path.parent, cache_dir)
    except SpecError as error:
        raise wrong(settings, str(error)) from None
    _override(config, settings)
    task = _build(settings, dict(config))
    task.folder = path.parent
    refuse_unoffered(task, settings)
    return task


def _refuse_what_is_not_allowed(settings: TaskSettings) -> None:
    """Hold what a study says of a task against the policy in force."""
    try:
        if settings.trust_code:
            refuse_code("trust_code")
        if settings.include_path is not None:
            refuse_outside(settings.include_path)
    except NotAllowedError as error:
        raise wrong(settings, str(error)) from None


def _is_strangers(settings: TaskSettings) -> bool:
    """Tell whether a study says which data a task has; else lm-eval does."""
    said = {"dataset_path", "dataset_kwargs"} & settings.overrides.keys()
    return settings.include_path is not None or bool(said)


def _refused(settings: TaskSettings, said: list[str]) -> CodeRefusedError:
    where = f"task {settings.name}"
    return CodeRefusedError([Problem(where, f"{text} {_TRUST}") for text in said])


def _build(settings: TaskSettings, config: dict[str, Any]) -> ConfigurableTask:
    """Let lm-eval make the task; no metric is fetched without permission."""

    def refuse(name: str) -> Exception:
        said = f"metric {name!r} is not lm-eval's own and would run code from the hub."
        return _refused(settings, [said])

    try:
        look = None if in_force() is None else refuse_file
        metrics = hub_metrics(None if settings.trust_code else refuse)
        with metrics, looking_at_files(look), undecoded_images():
            loaded = TaskManager(include_defaults=False).load([config])
        (task,) = loaded["tasks"].values()
    except SpecError:
        raise
    except Exception as error:  # lm-eval and data sets raise what they like
        said = reason(error, config)
        raise wrong(settings, f"{settings.task!r} cannot be built: {said}.") from error
    if lost := missing_metrics(task):
        raise wrong(settings, f"metric {', '.join(lost)} cannot be found or loaded.")
    return task


def reason(error: BaseException, config: Mapping[str, Any] | None = None) -> str:
    """Say what went wrong with a task: at which of its keys, or how, and why."""
    if isinstance(error, LimitError):
        key = key_of(config, error.source)
        return f"{key}: {error}" if key else str(error)
    why = error.__cause__
    first = f"{type(error).__name__}: {error}".rstrip(".")
    return first if why is None else f"{first} ({type(why).__name__}: {why})"


def _read(settings: TaskSettings, path: Path) -> dict[str, Any]:
    """Return a task's whole config, includes and, where allowed, functions resolved."""
    if settings.include_path is None or settings.trust_code:
        try:
            return load_yaml(path)
        except Exception as error:  # YAML's errors, and what the task's code raises
            raise wrong(settings, f"{path} cannot be read: {reason(error)}") from error
    try:
        config = read_task_file(path, Path(settings.include_path))
        refuse_tags(config, path.name)
    except CodeRefusedError as error:
        raise _refused(
            settings, [f"{problem}." for problem in error.problems]
        ) from None
    except SpecError as error:
        where = f"task {settings.name}"
        raise SpecError(Problem(where, str(p)) for p in error.problems) from None
    return config


def _look_through(settings: TaskSettings, file: str, config: Mapping[str, Any]) -> None:
    """Look at every key of a local file, and report all that is wrong with them."""
    found = complaints(config, may_run=settings.trust_code)
    told = [str(problem_at(config, file, c.key, f"{c.text}.")) for c in found]
    if any(complaint.code for complaint in found):
        said = [said for said, c in zip(told, found, strict=True) if c.code]
        raise _refused(settings, said)
    if found:
        raise SpecError(Problem(f"task {settings.name}", said) for said in told)


def _override(config: dict[str, Any], settings: TaskSettings) -> None:
    if settings.num_fewshot is not None:
        config["num_fewshot"] = settings.num_fewshot
    if config.get("num_fewshot") is None:
        config["num_fewshot"] = 0
    changes = dict(settings.gen_kwargs)
    if settings.max_gen_toks is not None:
        changes["max_gen_toks"] = settings.max_gen_toks
    if not changes:
        return
    for complaint in complaints({"generation_kwargs": changes}, may_run=False):
        said = complaint.key.replace("generation_kwargs", "gen_kwargs")
        raise wrong(settings, f"{said}: {complaint.text}.")
    if config.get("output_type", "generate_until") != "generate_until":
        raise wrong(
            settings,
            f"gen_kwargs and max_gen_toks are for tasks that generate; "
            f"{settings.task!r} is {config['output_type']}.",
        )
    own = dict(config.get("generation_kwargs") or {})
    if any(name in changes for name in _LENGTH_NAMES):
        own = {k: v for k, v in own.items() if k not in _LENGTH_NAMES}
    config["generation_kwargs"] = own | changes
