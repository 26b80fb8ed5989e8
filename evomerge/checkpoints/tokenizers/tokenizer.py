"""A model's tokenizer: which text each row of the embedding stands for.

Read from ``tokenizer.json``, or from older files converted to it. Two vocabularies are
compared token by token: by spelling where both spell alike, else by the bytes a token
stands for, since ``Ġthe`` of a byte-level tokenizer and ``▁the`` of a SentencePiece one
are the same text. Whether two models give equal ids to equal text is told by digests of
all rows and of every step that cuts text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evomerge.checkpoints.documents import parse_json, read_bytes
from evomerge.checkpoints.tokenizers.canonical_form import (
    byte_alphabet,
    canonical,
    model_kind,
)
from evomerge.checkpoints.tokenizers.conversion import (
    OLD_FILES,
    converted,
    named_tokens,
)
from evomerge.core.digest import digest
from evomerge.errors import CheckpointError

TOKENIZER = "tokenizer.json"
LISTED = "Unigram"
"""The kind of model whose vocabulary is a list of tokens and scores."""

Spelling = Literal["byte-level", "metaspace", "plain"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"

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


@dataclass(frozen=True)
class Vocabulary:
    """What a ``tokenizer.json`` says of its tokens.

    Attributes:
        file: Where it was read, or would be if it were not converted.
        data: The whole document.
        kind: Type of its model: ``BPE``, ``Unigram``, ``WordPiece`` or ``WordLevel``.
        spelling: How ordinary tokens are written.
        ids: Token to id; added tokens win over ordinary ones.
        added: Tokens matched as they stand before text is cut up.
    """

    file: Path
    data: Mapping[str, Any]
    kind: str
    spelling: Spelling
    ids: Mapping[str, int]
    added: frozenset[str]

    @cached_property
    def size(self) -> int:
        """The largest id and one more; ids may have gaps."""
        return max(self.ids.values()) + 1

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """Id to token; of several with one id, the last in the file."""
        return {number: token for token, number in self.ids.items()}

    @cached_property
    def _by_bytes(self) -> Mapping[bytes, int]:
        """Bytes to id; of several, a token that is not spelt as a bare byte."""
        found: dict[bytes, int] = {}
        for token, number in sorted(self.ids.items(), key=lambda t: t[1]):
            text = self.bytes_of(token)
            if text not in found or _BYTE_TOKEN.fullmatch(self.tokens[found[text]]):
                found[text] = number
        return found

    def bytes_of(self, token: str) -> bytes:
        """Return the bytes of text that a token stands for."""
        if token in self.added or self.spelling == "plain":
            return token.encode()
        if self.spelling == "byte-level":
            table = byte_alphabet()
            if all(letter in table for letter in token):
                return bytes(table[letter] for letter in token)
            return token.encode()
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(match[1])
        return token.replace(_SPACE, " ").encode()

    def find(self, token: str, of: Vocabulary) -> int | None:
        """Return the id here of another vocabulary's token; None if it has none."""
        found = self.ids.get(token)
        if self.spelling == of.spelling or token in of.added & self.added:
            return found
        return self._by_bytes.get(of.bytes_of(token))


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the tokens of a model folder.

    Raises:
        CheckpointError: It has no ``tokenizer.json`` nor older files that can be
            converted, or they are malformed.
    """
    file = folder / TOKENIZER
    with readable(file):
        data = read_data(folder)
        model, kind = data["model"], model_kind(data["model"])
        ids = dict(_model_tokens(model, kind))
        added = [(t["content"], t["id"]) for t in data.get("added_tokens") or ()]
    ids |= added
    _check(file, ids)
    names = frozenset(token for token, _ in added)
    return Vocabulary(file, data, kind, _spelling(data), ids, names)


def read_data(folder: Path) -> dict[str, Any]:
    """Return a ``tokenizer.json`` as it stands, or what it would hold."""
    file = folder / TOKENIZER
    if file.is_file():
        found: dict[str, Any] = parse_json(read_bytes(file))
        return found
    return converted(folder)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what reading a malformed ``tokenizer.json`` raises into one error.

    Raises:
        CheckpointError: It is not a tokenizer.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: is not a tokenizer ({error!r}). Download it again."
        ) from error


def _model_tokens(model: Mapping[str, Any], kind: str) -> Iterator[tuple[str, int]]:
    if kind == LISTED:
        yield from ((piece[0], number) for number, piece in enumerate(model["vocab"]))
    else:
        yield from model["vocab"].items()


def _check(file: Path, ids: Mapping[Any, Any]) -> None:
    """A stranger's ids become places in memory: believe none that is out of reach."""
    limit = 1 << 26
    for token, number in ids.items():
        if not isinstance(token, str) or type(number) is not int:
            break
        if not 0 <= number < limit:
            break
    else:
        if ids:
            return
        raise CheckpointError(f"{file}: has no tokens. Download it again.")
    raise CheckpointError(
        f"{file}: token {token!r} has id {number!r}; expected whole numbers from 0 up "
        f"to {limit}. Download it again."
    )


def _spelling(data: Mapping[str, Any]) -> Spelling:
    """Tell how tokens are written from the steps before and after the model."""
    parts = [data.get(key) for key in ("pre_tokenizer", "decoder", "normalizer")]
    kinds = {kind for part in parts for kind in _kinds(part)}
    if "ByteLevel" in kinds:
        return "byte-level"
    if "Metaspace" in kinds or _SPACE in json.dumps(parts, ensure_ascii=False):
        return "metaspace"
    return "plain"


def _kinds(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        yield str(part.get("type"))
        for value in part.values():
            yield from _kinds(value)
    elif isinstance(part, list):
        for value in part:
            yield from _kinds(value)


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
