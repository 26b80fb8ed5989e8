"""Optional packages: which extra of evomerge brings a module that is not installed.

``pip install evomerge`` brings the command line alone; everything that opens a
database, a study file or a model is in an extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.errors import NotInstalledError

_LOCAL = (
    "alembic cma cmaes filelock huggingface_hub numba numpy optuna pydantic "
    "safetensors sqlalchemy tokenizers torch transformers"
)
_ENGINES = "PIL lm_eval ray vllm"
_SERVICE = "fastapi jinja2 prometheus_client uvicorn"

EXTRAS = {
    **dict.fromkeys(_LOCAL.split(), "local"),
    **dict.fromkeys(_ENGINES.split(), "cpu"),
    **dict.fromkeys(_SERVICE.split(), "service"),
    **dict.fromkeys(("accelerate", "gguf"), "gguf"),
    "optuna_dashboard": "dashboard",
    "psycopg": "postgres",
}
"""The extra that brings a module; the smallest, if there are several."""


def installing(module: str) -> str:
    """Return the command that installs a module of ``EXTRAS``."""
    extra = EXTRAS[module]
    command = f"pip install 'evomerge[{extra}]'"
    return f"{command}, or 'evomerge[gpu]'" if extra == "cpu" else command


@contextmanager
def named() -> Iterator[None]:
    """Say of a module that is missing in what runs inside which extra brings it.

    Raises:
        NotInstalledError: A module of ``EXTRAS`` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A part of a package that is missing (vllm._C) is a broken installation.
        if error.name not in EXTRAS:
            raise
        raise NotInstalledError(
            f"This needs {error.name}, which is not installed: "
            f"{installing(error.name)}."
        ) from error
