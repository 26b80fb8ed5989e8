"""What decides a score, named by content: plain data, code, tokenizers.

Two machines that keep the same files in different folders must agree on every byte.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge.core.digest import digest


def plain(value: Any) -> Any:
    """Make a value JSON; code is named by the file it stands in."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
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


def tokenizer_digest(tokenizer: Any) -> str:
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
