"""Study files and the small models they merge, for tests of the command line.

Written as JSON, which is YAML as well. The simulated study needs no engine; the same
file with another engine searches over real weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.testing.models import tiny_model

NAMES = ("base", "math", "ja")


def write_models(folder: Path, seed: int = 0) -> Path:
    """Write three tiny models of one shape: ``base``, ``math`` and ``ja``."""
    for number, name in enumerate(NAMES, seed):
        tiny_model(folder / name, seed=number, n_layers=2)
    return folder


def simulated_study(models: Path, **changes: Any) -> dict[str, Any]:
    """Return a study of two made-up tasks over three models.

    Args:
        models: Folder that ``write_models`` filled.
        changes: Keys of the file that differ; None removes a key.
    """
    study: dict[str, Any] = {
        "sources": {name: str(models / name) for name in NAMES},
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": "search"},
        },
        "tasks": {
            name: {"task": "simulated", "metric": "acc", "options": {"items": 20}}
            for name in ("one", "two")
        },
        "items": {"blocks": 4},
        "strategy": {"kind": "random", "generation_size": 3},
        "engine": {"kind": "simulated"},
        "budget": {"trials": 6},
    }
    changed = {**study, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def staged_study(models: Path, **changes: Any) -> dict[str, Any]:
    """Return a study called ``two``: weights first, then layers of what came of them.

    Args:
        models: Folder that ``write_models`` filled.
        changes: Keys of the file that differ; None removes a key.
    """
    plain = simulated_study(models, name="two", space=None, budget=None)
    ps = {
        "name": "ps",
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": "search"},
        },
        "budget": {"trials": 6},
    }
    dfs = {
        "name": "dfs",
        "take": {"merged": "ps"},
        "space": {"flow": {"kind": "gates", "sources": ["merged", "math"]}},
        "budget": {"trials": 6},
    }
    changed = {**plain, "stages": [ps, dfs], **changes}
    return {key: value for key, value in changed.items() if value is not None}


def without_lines(text: str) -> str:
    """Return messages without the lines of the files that they name."""
    return re.sub(r"(\.ya?ml):\d+", r"\1", text)


def write_study(file: Path, study: Mapping[str, Any]) -> Path:
    """Write a study file.

    Returns:
        The file.
    """
    file.write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")
    return file


def leave_quantization_behind(folder: Path) -> None:
    """Let a plain model's configuration say that its weights are packed."""
    file = folder / "config.json"
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config = json.loads(file.read_text()) | {"quantization_config": said}
    file.write_text(json.dumps(config))
