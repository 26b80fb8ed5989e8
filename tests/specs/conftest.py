"""Tiny parents, and a study over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.testing.models import tiny_model

NAMES = ("base", "math", "ja")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three models that fit together, and one that does not."""
    folder = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(NAMES):
        tiny_model(folder / name, seed=seed)
    tiny_model(folder / "wide", seed=9, hidden=64)
    return folder


@pytest.fixture
def minimal(zoo: Path) -> dict[str, Any]:
    """The least a study must say."""
    return {
        "sources": {name: str(zoo / name) for name in NAMES},
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": "search"},
        },
        "tasks": {"add": {"task": "simulated", "metric": "acc"}},
        "engine": {"kind": "simulated"},
        "budget": {"trials": 10},
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write data as a YAML file and return its path."""

    def _write(data: Any, name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return _write
