"""Tokenizer facts: do two models give equal ids to equal text?"""

import hashlib
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import parse_json, read_bytes
from evomerge.core.digest import digest
from evomerge.errors import CheckpointError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files a tokenizer is made of, in the names transformers gives them."""

_SLOW_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")


def tokenizer_digest(folder: Path) -> str:
    """Name the map from text to token ids; empty if there is no tokenizer.

    Chat templates, padding and the way merges are written down do not count: they do
    not change which row of the embedding a piece of text selects.

    Raises:
        CheckpointError: ``tokenizer.json`` is not a tokenizer.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        return digest(_facts(file))
    parts = {
        name: hashlib.blake2b(read_bytes(folder / name), digest_size=16).hexdigest()
        for name in _SLOW_FILES
        if (folder / name).is_file()
    }
    return digest(parts) if parts else ""


def _facts(file: Path) -> dict[str, Any]:
    try:
        data = parse_json(read_bytes(file))
        model = data["model"]
        added = sorted(
            (token["id"], token["content"]) for token in data.get("added_tokens") or ()
        )
        merges = [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in model.get("merges") or ()
        ]
        return {
            "type": model.get("type"),
            "vocab": model["vocab"],
            "merges": merges,
            "added": added,
            "normalizer": data.get("normalizer"),
            "pre_tokenizer": data.get("pre_tokenizer"),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: is not a tokenizer ({error!r}). Download it again."
        ) from error
