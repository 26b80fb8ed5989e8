"""The one door to lm-eval: all its names and insides that are used stand here.

lm-eval's insides change with its versions, so this module looks at the version before
it loads anything; loading it is what tells that another one is needed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment

from evomerge.errors import Problem, SpecError

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

import lm_eval.tasks._yaml_loader as yaml_loader  # noqa: E402 - the version first
import lm_eval.utils  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.metrics import mean  # noqa: E402
from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.api.samplers import FirstNSampler  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.models.utils import (  # noqa: E402
    handle_stop_sequences,
    normalize_gen_kwargs,
)
from lm_eval.tasks import TaskManager  # noqa: E402

__all__ = [
    "LIBRARY",
    "ConfigurableTask",
    "FirstNSampler",
    "Instance",
    "TaskManager",
    "TemplateLM",
    "VERSION",
    "calm",
    "filter_names",
    "filtered",
    "handle_stop_sequences",
    "mean",
    "normalize_gen_kwargs",
    "yaml_loader",
]

LIBRARY = Path(lm_eval.__file__).parent / "tasks"
"""Where lm-eval's own tasks stand."""


def filter_names(task: ConfigurableTask) -> list[str]:
    """Return the names of a task's ways to read an answer."""
    return [ensemble.name for ensemble in task._filters]


def filtered(task: ConfigurableTask, instances: Sequence[Instance]) -> None:
    """Read the answers of these requests in every way the task has."""
    task._instances = list(instances)
    task.apply_filters()


@functools.cache
def calm() -> None:
    """Quieten both libraries, and make lm-eval's templates safe and quick, once.

    Templates run in jinja's sandbox, so a task file cannot reach Python through them.
    Each is compiled once: compiling is four fifths of lm-eval's own time otherwise.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    lm_eval.utils.env = _Sandbox(lm_eval.utils.env)


class _Sandbox(SandboxedEnvironment):
    """lm-eval's templates in jinja's sandbox, each compiled once."""

    def __init__(self, plain: Environment) -> None:
        super().__init__(
            loader=plain.loader,
            undefined=plain.undefined,
            keep_trailing_newline=plain.keep_trailing_newline,
        )
        self.filters.update(plain.filters)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """Return a compiled template; lm-eval gives its text and nothing else."""
        found = self._compiled.get(source)
        if found is None:
            found = super().from_string(source, *args, **kwargs)
            self._compiled[source] = found
        return found
