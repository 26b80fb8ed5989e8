"""Tokenizer facts: do two models give equal ids to equal text?"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import parse_json, read_bytes
from evomerge.checkpoints.tokenizers.canonical_form import canonical
from evomerge.checkpoints.tokenizers.conversion import OLD_FILES, named_tokens
from evomerge.checkpoints.tokenizers.tokens import TOKENIZER, read_vocabulary, readable
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

RARE_FILES = ("vocab.txt", "spiece.model", "tekken.json", "tiktoken.model")
"""Likewise, of few models; fingerprints leave them out."""

TEMPLATES = "additional_chat_templates"
"""Folder of a model's further chat templates."""


def template_files(folder: Path) -> list[str]:
    """Return the files of further chat templates, as paths within a model's folder."""
    found = sorted((folder / TEMPLATES).glob("*.jinja"))
    return [f"{TEMPLATES}/{file.name}" for file in found if file.is_file()]


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What decides which rows of an embedding a text selects.

    Attributes:
        rows: Name of the map from token to id; empty if it cannot be told.
        ways: What else decides ids, by what messages call it, to the name of its
            canonical form.
        largest: The largest id of any token, of those named beside it too.
        problem: Why nothing can be told.
    """

    rows: str = ""
    ways: Mapping[str, str] = field(default_factory=dict)
    largest: int = -1
    problem: str = ""


def read_tokenizer(folder: Path) -> TokenizerFacts | None:
    """Read what a folder's tokenizer does; None if it has none.

    Older files are converted; what cannot be is told as a problem.
    """
    names = (TOKENIZER, *OLD_FILES, *RARE_FILES)
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        found = read_vocabulary(folder)
        with readable(found.file):
            ways = {part: digest(form) for part, form in canonical(found.data).items()}
            further = [entry["id"] for entry in named_tokens(folder).values()]
    except CheckpointError as error:
        return TokenizerFacts(problem=str(error))
    return TokenizerFacts(
        rows=digest(dict(found.ids)),
        ways=ways,
        largest=max([found.size - 1, *further]),
    )


def tokenizer_digest(folder: Path) -> str:
    """Name a tokenizer as its files are written; empty if there is none.

    Chat templates, padding and the way merges are written down do not count. Recorded
    recipes rest on which models share this name; whether ids are equal is told by
    ``read_tokenizer``.

    Raises:
        CheckpointError: ``tokenizer.json`` is not a tokenizer.
    """
    file = folder / TOKENIZER
    if file.is_file():
        with readable(file):
            return digest(_as_written(parse_json(read_bytes(file))))
    parts = {
        name: hashlib.blake2b(read_bytes(folder / name), digest_size=16).hexdigest()
        for name in OLD_FILES
        if (folder / name).is_file()
    }
    return digest(parts) if parts else ""


def _as_written(data: dict[str, Any]) -> dict[str, Any]:
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
