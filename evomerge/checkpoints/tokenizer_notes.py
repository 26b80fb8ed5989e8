"""What users must know of the tokenizers of models that are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.documents import read_bytes, read_json
from evomerge.checkpoints.tokenizers.conversion import SETTINGS, named_tokens
from evomerge.checkpoints.tokenizers.tokenizer import (
    TokenizerFacts,
    read_tokenizer,
    read_vocabulary,
    template_files,
)
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    from evomerge.checkpoints.model import Model

_SHOWN = 3


def different_rows(one: tuple[str, Model], other: tuple[str, Model]) -> str:
    """Say why tokens of two models have different rows; empty if they have not.

    Args:
        one: What messages call a model, and the model.
        other: Likewise; it is the one to blame.
    """
    (first, a), (name, b) = one, other
    if a.vocabulary == b.vocabulary or not (a.tokenizer_digest and b.tokenizer_digest):
        return ""
    for model in (b, a):
        if model.tokenizer and model.tokenizer.problem:
            return (
                f"{name!r} and {first!r} have different tokenizers, or such as cannot "
                f"be compared: {model.tokenizer.problem}"
            )
    odd = _difference(repr(name), b.path, repr(first), a.path)
    return (
        f"{name!r} and {first!r} have different tokenizers: {odd}, so equal text would "
        "select different rows of the embedding. Say with the key `vocabulary` whose "
        "tokens the merge has, or use models of one vocabulary."
    )


def tokenizer_notes(
    models: Mapping[str, Model], giver: str, *, templates: bool = True
) -> Iterator[tuple[str, str]]:
    """Say what a merge takes no notice of.

    Args:
        models: What messages call each model, to the model.
        giver: The one whose tokenizer the merge has.
        templates: Whether it has that one's chat template too.

    Yields:
        A model and a sentence about it, for the user to see.
    """
    used = models[giver]
    for name, model in models.items():
        said = [*_beyond(model)]
        if name != giver:
            said += _other_ways(giver, used.tokenizer, model.tokenizer, "it")
            said += _other_template(model.path, giver, used.path, "it", templates)
        if model.adapter is not None:
            folder = model.adapter.path
            said += _other_tokenizer(model, folder, giver)
            said += _other_template(folder, giver, used.path, "its adapter", templates)
        yield from ((name, one) for one in said)


def _beyond(model: Model) -> Iterator[str]:
    """Name tokens that have no row."""
    rows = model.tensors[model.layout.embed].shape[0]
    if model.tokenizer is None or model.tokenizer.largest < rows:
        return
    ids = {t: entry["id"] for t, entry in named_tokens(model.path).items()}
    ids |= read_vocabulary(model.path).ids
    odd = sorted((number, token) for token, number in ids.items() if number >= rows)
    shown = ", ".join(f"{token!r} ({number})" for number, token in odd[:_SHOWN])
    yield (
        f"{_count(odd)} ids beyond the {rows} rows of its embedding (0 to {rows - 1}), "
        f"for example {shown}. Text with such a token cannot be run."
    )


def _other_ways(
    giver: str, used: TokenizerFacts | None, own: TokenizerFacts | None, who: str
) -> Iterator[str]:
    """Say how one of two tokenizers of equal rows cuts text otherwise."""
    if not used or not own or not own.rows or used.rows != own.rows:
        return
    if odd := [part for part, form in own.ways.items() if used.ways[part] != form]:
        yield (
            f"{who} cuts text in another way than {giver!r}, by its "
            f"{' and '.join(odd)}, though every token has the same row. The merge has "
            f"the tokenizer of {giver!r}."
        )


def _other_tokenizer(model: Model, folder: Path, giver: str) -> Iterator[str]:
    """Say how the tokenizer of an adapter differs from that of its base."""
    own, base = read_tokenizer(folder), model.tokenizer
    if own is None:
        return
    if own.rows and base and base.rows == own.rows:
        yield from _other_ways(giver, base, own, "its adapter")
        return
    odd = own.problem or "its base has none that can be compared"
    if own.rows and base and base.rows:
        odd = _difference("the adapter", folder, "the base", model.path)
    yield (
        f"its adapter has another tokenizer than its base: {odd.removesuffix('.')}. "
        "Only the adapter's weights are used; the merge has the tokenizer of "
        f"{giver!r}."
    )


def _other_template(
    folder: Path, giver: str, used: Path, who: str, templates: bool
) -> Iterator[str]:
    if not templates:
        return
    own, theirs = chat_templates(folder), chat_templates(used)
    odd = [key for key, text in own.items() if theirs.get(key) != text]
    if odd:
        which = "" if odd == ["default"] else f" ({', '.join(odd)})"
        has = "another chat template than" if theirs else "a chat template, unlike"
        left = f"that of {giver!r}" if theirs else "none"
        yield f"{who} has {has} {giver!r}{which}. The merge has {left}."


def chat_templates(folder: Path) -> dict[str, str]:
    """Return a model's chat templates by name; the usual one is ``default``."""
    found: dict[str, str] = {}
    for file in (folder / SETTINGS, folder / "chat_template.json"):
        said = _settings(file).get("chat_template")
        if isinstance(said, str):
            found["default"] = said
        for one in said if isinstance(said, list) else ():
            if isinstance(one, dict):
                found[str(one.get("name"))] = str(one.get("template"))
    files = {"default": folder / "chat_template.jinja"}
    files |= {Path(name).stem: folder / name for name in template_files(folder)}
    for key, file in files.items():
        if file.is_file():
            found[key] = read_bytes(file).decode(errors="replace")
    return {key: text.removesuffix("\n") for key, text in found.items()}


def _settings(file: Path) -> Mapping[str, Any]:
    with suppress(CheckpointError):
        return read_json(file)
    return {}


def _difference(name: str, folder: Path, first: str, other: Path) -> str:
    """Name tokens whose numbers differ in two folders."""
    ours, theirs = read_vocabulary(folder).ids, read_vocabulary(other).ids
    odd = [t for t in {**ours, **theirs} if ours.get(t) != theirs.get(t)]
    shown = ", ".join(
        f"{token!r} ({ours.get(token, 'none')} in {name}, "
        f"{theirs.get(token, 'none')} in {first})"
        for token in odd[:_SHOWN]
    )
    return f"{_count(odd)} other rows, for example {shown}"


def _count(tokens: Sized) -> str:
    return "1 token has" if len(tokens) == 1 else f"{len(tokens)} tokens have"
