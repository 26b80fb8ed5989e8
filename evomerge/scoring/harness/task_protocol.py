"""What decides an lm-eval task's scores, as plain data without paths.

The harness records it as the task's protocol. Two machines that keep the same files in
different folders must agree on every byte, and a changed data file, prompt, tokenizer
or library must not.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge.core.digest import digest
from evomerge.core.work import TaskSettings
from evomerge.scoring.engine import Engine
from evomerge.scoring.harness.internals import VERSION, ConfigurableTask
from evomerge.scoring.harness.loading import FEWSHOT_SEED
from evomerge.scoring.harness.questions import Questions
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
    return {
        "harness": f"lm_eval {VERSION}",
        "config": _plain(kept),
        "dataset": dataset,
        "fewshot": {
            "number": task.config.num_fewshot,
            "seed": FEWSHOT_SEED,
            "pool": _pool(task),
        },
        "system_instruction": settings.system_instruction,
        "chat_template": None if template is None else digest(_plain(template)),
        "tokenizer": _tokenizer_digest(tokenizer),
        "max_length": engine.max_length,
        "engine": _plain(engine.facts),
    }


def _pool(task: ConfigurableTask) -> str | None:
    """Name the documents that few-shot examples are drawn from, in their order."""
    if not task.config.num_fewshot:
        return None
    return digest([item_id(doc) for doc in task.sampler.df])


def _data(options: Mapping[str, Any]) -> Any:
    """Return what a dataset is loaded with; a local file is named by its content."""
    return {
        key: _file_digests(value) if key == "data_files" else _plain(value)
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


def _plain(value: Any) -> Any:
    """Make a value JSON; code is named by the file it stands in."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if callable(value):
        return _code(value)
    return str(value)


def _code(function: Callable[..., Any]) -> dict[str, str]:
    inner = inspect.unwrap(getattr(function, "func", function))
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    try:
        source = Path(inspect.getfile(inner)).read_bytes()
    except (TypeError, OSError):
        return {"function": name}
    return {"function": name, "sha256": hashlib.sha256(source).hexdigest()}


def _tokenizer_digest(tokenizer: Any) -> str:
    """Name a tokenizer by what it does, not by where it came from."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        state = json.loads(fast.to_str())
        # Left behind by whoever used it last; scoring sets neither.
        state.pop("truncation", None)
        state.pop("padding", None)
    elif hasattr(tokenizer, "get_vocab"):
        state = tokenizer.get_vocab()
    else:
        state = tokenizer.name_or_path
    return digest([state, tokenizer.bos_token_id, tokenizer.eos_token_id])
