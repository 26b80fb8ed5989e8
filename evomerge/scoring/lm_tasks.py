"""Finding a task's files and letting lm-eval build it: by name, with its code checked.

The harness calls ``load_task`` once a task. Local task files are data, not code: a
file that would run Python is refused before any of it runs, unless the operator
allows it. lm-eval's own library ships with the package and may use its functions,
but a task that executes what a model wrote needs the same permission.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import datasets
import jinja2

from evomerge.core.work import TaskSettings
from evomerge.errors import Problem, SpecError
from evomerge.scoring.lm_insides import (
    LIBRARY,
    ConfigurableTask,
    TaskManager,
    calm,
    yaml_loader,
)

FEWSHOT_SEED = 1234
"""lm-eval's own default, so that prompts equal those of its command line."""

TASK_ERRORS = (
    datasets.exceptions.DatasetsError,
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What a task's own files, templates and functions raise when they are wrong."""

_FILE_BUILDERS = ("arrow", "csv", "json", "parquet", "text")
_LENGTH_NAMES = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)


class CodeRefusedError(SpecError):
    """A task would run code, and the operator did not allow that."""


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
    path = _find(settings)
    config = _read(settings, path)
    _point_at_data(config, path.parent, cache_dir)
    _override(config, settings)
    try:
        manager = TaskManager(include_defaults=False)
        (task,) = manager.load([config])["tasks"].values()
    except TASK_ERRORS as error:
        raise wrong(
            settings,
            f"{settings.task!r} cannot be built: {type(error).__name__}: {error}",
        ) from error
    if getattr(task, "MULTIMODAL", False):
        raise wrong(settings, f"{settings.task!r} shows images or plays sound.")
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise wrong(
            settings,
            f"{settings.task!r} scores whole texts (loglikelihood_rolling), which "
            "gives one figure for all items together; use another output type.",
        )
    return task


def wrong(settings: TaskSettings, message: str) -> SpecError:
    """Make the error that says which task of the study is at fault."""
    return SpecError([Problem(f"task {settings.name}", message)])


def _find(settings: TaskSettings) -> Path:
    """Return the file a task stands in."""
    if settings.include_path is not None:
        root = Path(settings.include_path)
        if not root.is_dir():
            raise wrong(settings, f"the folder of task files {str(root)!r} is missing.")
        local = TaskManager(include_path=str(root.resolve()), include_defaults=False)
        return _indexed(settings, local, str(root))
    # Most tasks stand in a file of their name; reading the whole library takes long.
    for path in LIBRARY.rglob(f"{settings.task}.yaml"):
        if yaml_loader.load_yaml(path, resolve_func=False).get("task") == settings.task:
            return path
    return _indexed(settings, _library(), "lm-eval's library")


def _indexed(settings: TaskSettings, manager: TaskManager, where: str) -> Path:
    entry = manager.task_index.get(settings.task)
    names = manager.all_subtasks
    if entry is None:
        near = get_close_matches(settings.task, names, n=3)
        known = f"nearest are {', '.join(near)}" if near else f"there are {len(names)}"
        raise wrong(settings, f"no task {settings.task!r} in {where}; {known}.")
    if settings.task not in names or entry.yaml_path is None:
        members = sorted(entry.tags) or [str(t) for t in (entry.cfg or {})["task"]]
        raise wrong(
            settings,
            f"{settings.task!r} is a group, not a task; name its members one by one: "
            f"{', '.join(members[:10])}.",
        )
    return entry.yaml_path


def _read(settings: TaskSettings, path: Path) -> dict[str, Any]:
    """Return a task's whole config, includes and, where allowed, functions resolved."""
    may_run = settings.include_path is None or settings.trust_code
    try:
        # As data first: resolving a function runs the file it stands in.
        _refuse_unsafe(settings, yaml_loader.load_yaml(path, resolve_func=False))
        with contextlib.nullcontext() if may_run else _no_functions(settings):
            return yaml_loader.load_yaml(path)
    except TASK_ERRORS as error:
        raise wrong(
            settings, f"{path} cannot be read: {type(error).__name__}: {error}"
        ) from error


@functools.cache
def _library() -> TaskManager:
    """Read lm-eval's whole library: fourteen thousand files, many seconds."""
    return TaskManager()


@contextlib.contextmanager
def _no_functions(settings: TaskSettings) -> Iterator[None]:
    """Refuse at the place where a task file would import Python, before it does.

    Looking for ``!function`` in the text would miss its escaped spellings.
    """

    def refuse(qualified: str, base_dir: Path) -> NoReturn:
        raise CodeRefusedError(
            [
                Problem(
                    f"task {settings.name}",
                    f"{settings.task!r} runs Python code ({qualified!r}, from a file "
                    f"in {base_dir}). Read that code, then set trust_code: true for "
                    "this task, or use a task without !function.",
                )
            ]
        )

    original = yaml_loader._import_func_in_yml
    yaml_loader._import_func_in_yml = refuse
    try:
        yield
    finally:
        yaml_loader._import_func_in_yml = original


def _refuse_unsafe(settings: TaskSettings, config: Mapping[str, Any]) -> None:
    if config.get("unsafe_code", False) and not settings.trust_code:
        raise CodeRefusedError(
            [
                Problem(
                    f"task {settings.name}",
                    f"{settings.task!r} executes code that models write "
                    "(unsafe_code). Set trust_code: true for this task only where "
                    "that can do no harm.",
                )
            ]
        )


def _point_at_data(config: dict[str, Any], folder: Path, cache_dir: str) -> None:
    """Find data files beside the task's file, whatever the current folder is."""
    options = dict(config.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)
    files = options.get("data_files")
    if files is not None:
        options["data_files"] = _beside(files, folder)
        if config.get("dataset_path") in _FILE_BUILDERS:
            options.setdefault("cache_dir", str(Path(cache_dir) / "datasets"))
    if options or "dataset_kwargs" in config:
        config["dataset_kwargs"] = options


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _beside(part, folder) for split, part in files.items()}
    if isinstance(files, list):
        return [_beside(part, folder) for part in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() else files


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
