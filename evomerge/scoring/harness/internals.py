"""The one door to lm-eval: all its names and insides that are used stand here.

lm-eval's insides change with its versions, so this module looks at the version before
it loads anything; loading it is what tells that another one is needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

from evomerge.errors import Problem, SpecError
from evomerge.scoring.harness.limited import Patterns, Template

VERSION = "0.4.13"
"""The lm-eval whose insides are known here; 0.5 moved most of them."""


def _refuse_other_versions() -> None:
    try:
        found = importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise SpecError(
            [
                Problem(
                    "lm_eval",
                    f"expected version {VERSION}, which tasks are read and scored "
                    f"with, got {found}; run `pip install lm_eval=={VERSION}`.",
                )
            ]
        )


_refuse_other_versions()

import lm_eval.api.metrics  # noqa: E402 - the version first
import lm_eval.api.task  # noqa: E402
import lm_eval.filters.extraction  # noqa: E402
import lm_eval.tasks._index  # noqa: E402
import lm_eval.utils  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.metrics import mean  # noqa: E402
from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.api.registry import (  # noqa: E402
    aggregation_registry,
    metric_registry,
)
from lm_eval.api.samplers import SAMPLER_REGISTRY, FirstNSampler  # noqa: E402
from lm_eval.api.task import ALL_OUTPUT_TYPES, ConfigurableTask  # noqa: E402
from lm_eval.models.utils import (  # noqa: E402
    handle_stop_sequences,
    normalize_gen_kwargs,
)
from lm_eval.prompts import PROMPT_REGISTRY  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from lm_eval.utils import (  # noqa: E402
    get_rolling_token_windows,
    make_disjoint_window,
)

__all__ = [
    "get_rolling_token_windows",
    "make_disjoint_window",
    "AGGREGATIONS",
    "BUILDERS",
    "LIBRARY",
    "METRICS",
    "OUTPUT_TYPES",
    "PROMPTS",
    "SAMPLERS",
    "ConfigurableTask",
    "FirstNSampler",
    "Instance",
    "TaskManager",
    "TemplateLM",
    "VERSION",
    "aggregation_function",
    "calm",
    "filter_names",
    "filtered",
    "handle_stop_sequences",
    "mean",
    "missing_metrics",
    "undecoded_images",
    "hub_metrics",
    "load_yaml",
    "local_tasks",
    "looking_at_files",
    "normalize_gen_kwargs",
]

LIBRARY = Path(lm_eval.__file__).parent / "tasks"
"""Where lm-eval's own tasks stand."""
METRICS = frozenset(metric_registry)
"""Names of lm-eval's own metrics; any other is looked for on the hub, and run."""
AGGREGATIONS: frozenset[str] = frozenset(aggregation_registry)
SAMPLERS: frozenset[str] = frozenset(SAMPLER_REGISTRY)
OUTPUT_TYPES: frozenset[str] = frozenset(ALL_OUTPUT_TYPES)
PROMPTS: frozenset[str] = frozenset(
    f"{kind}:{name}" for kind, names in PROMPT_REGISTRY.items() for name in names
)
BUILDERS = frozenset(_PACKAGED_DATASETS_MODULES) | {"cache", "generator", "spark"}
"""Ways of reading files that the library of data sets brings."""


def aggregation_function(name: str) -> Callable[..., Any]:
    """Return what puts metrics together in one of lm-eval's own ways."""
    function: Callable[..., Any] = aggregation_registry[name]
    return function


def filter_names(task: ConfigurableTask) -> list[str]:
    """Return the names of a task's ways to read an answer."""
    return [ensemble.name for ensemble in task._filters]


def filtered(task: ConfigurableTask, instances: Sequence[Instance]) -> None:
    """Read the answers of these requests in every way the task has."""
    task._instances = list(instances)
    task.apply_filters()


def local_tasks(root: Path, read: Callable[[Path], dict[str, Any]]) -> TaskManager:
    """Index the tasks and groups of a folder.

    Args:
        root: The folder.
        read: Reads a file with its includes; a file it raises for is passed over.
    """
    with _instead(lm_eval.tasks._index, "load_yaml", lambda path, **_: read(path)):
        return TaskManager(include_path=str(root), include_defaults=False)


@contextlib.contextmanager
def hub_metrics(refuse: Callable[[str], Exception] | None) -> Iterator[None]:
    """Keep lm-eval from fetching a metric and running it, while a task is built.

    Args:
        refuse: Makes the error for a metric that is not lm-eval's own; None lets
            metrics be fetched.
    """

    def own(name: str, hf_evaluate_metric: bool = False) -> Callable[..., Any]:
        del hf_evaluate_metric
        if name not in METRICS:
            assert refuse is not None
            raise refuse(name)
        return metric_registry.get(name)

    if refuse is None:
        yield
    else:
        with _instead(lm_eval.api.task, "get_metric", own):
            yield


@contextlib.contextmanager
def looking_at_files(look: Callable[[str], None] | None) -> Iterator[None]:
    """Show every file of a data set, wherever its name comes from, before it is read.

    The card of a data set, even of a hub's, may name any file of the machine.

    Args:
        look: Raises for a path or link that is not to be read; None looks at none.
    """
    found = datasets.data_files.resolve_pattern

    def looked_at(*args: Any, **kwargs: Any) -> list[str]:
        files: list[str] = found(*args, **kwargs)
        assert look is not None
        for file in files:
            look(file)
        return files

    if look is None:
        yield
    else:
        with _instead(datasets.data_files, "resolve_pattern", looked_at):
            yield


@contextlib.contextmanager
def undecoded_images() -> Iterator[None]:
    """Let data sets give images as they store them: bytes, or a path."""

    def stored(self: Any, value: Any, token_per_repo_id: Any = None) -> Any:
        del self, token_per_repo_id
        return value

    with _instead(datasets.Image, "decode_example", stored):
        yield


@contextlib.contextmanager
def _instead(module: Any, name: str, stand_in: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, original)


def missing_metrics(task: ConfigurableTask) -> list[str]:
    """Return the metrics that a task needs and lm-eval did not find."""
    if task.config.process_results is not None or task.OUTPUT_TYPE != "generate_until":
        return []
    return [str(name) for name, how in task._metric_fn_list.items() if how is None]


@functools.cache
def calm() -> None:
    """Quieten both libraries, and make lm-eval's templates and patterns safe, once.

    They are worked on by another process (``limited``): in jinja's sandbox, so a task
    file cannot reach Python through them, and within limits.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # its errors are raised too
    datasets.disable_progress_bars()
    lm_eval.utils.env = _Templates()
    for module in (lm_eval.api.metrics, lm_eval.filters.extraction):
        module.re = Patterns


class _Templates:
    """Stands in for lm-eval's environment of jinja, which only makes templates."""

    def __init__(self) -> None:
        self.from_string = functools.lru_cache(4096)(Template)
