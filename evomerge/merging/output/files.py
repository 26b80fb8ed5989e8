"""The files that go with merged weights: tokenizer and generation settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from evomerge.checkpoints.documents import read_json
from evomerge.checkpoints.model import GENERATION
from evomerge.checkpoints.tokenizers.conversion import (
    OLD_FILES,
    SETTINGS,
    needs_converting,
)
from evomerge.checkpoints.tokenizers.tokenizer import (
    RARE_FILES,
    TOKENIZER,
    TOKENIZER_FILES,
    read_vocabulary,
    template_files,
)
from evomerge.core.recipes.recipe import Nested, Recipe, Transformed
from evomerge.errors import CheckpointError
from evomerge.merging.sources import Sources
from evomerge.merging.views.revocabulated import name_within, opened_alignment

TEMPLATE = "chat_template.jinja"
COPIED = (*TOKENIZER_FILES, *RARE_FILES, GENERATION)
_TEMPLATES = (TEMPLATE, "chat_template.json")
_OF_ONE_VOCABULARY = frozenset((*OLD_FILES, *RARE_FILES))
"""Older forms of what ``tokenizer.json`` says, which a union does not write."""


def frame_files(recipe: Recipe, sources: Sources) -> dict[str, Path | str]:
    """Return the files a merged model takes over from its frame.

    An adapted model has those of its base. A model brought to another vocabulary has
    the tokenizer of the model that gives the vocabulary, chat template included.

    Returns:
        File name to the file that is copied, or to its text.

    Raises:
        RecipeError: The frame's vocabulary comes out otherwise than recorded.
        CheckpointError: A source cannot be opened.
    """
    source = recipe.input(recipe.frame)
    while isinstance(source, Nested):
        source = source.recipe.input(source.recipe.frame)
    if isinstance(source, Transformed):
        return _transformed(source, sources)
    return _there(sources.model(source.fingerprint).path, COPIED)


def without_template(files: Mapping[str, Path | str]) -> dict[str, Path | str]:
    """Return the same files without the chat template they hold."""
    out = {name: file for name, file in files.items() if name not in _TEMPLATES}
    written = out.get(SETTINGS)
    if isinstance(written, Path):
        settings = read_json(written)
        if settings.pop("chat_template", None) is not None:
            out[SETTINGS] = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    return out


def _there(folder: Path, names: tuple[str, ...]) -> dict[str, Path | str]:
    """Return the files of a folder; an old tokenizer as transformers needs it."""
    there = [name for name in names if (folder / name).is_file()]
    files: dict[str, Path | str] = {
        name: folder / name for name in (*there, *template_files(folder))
    }
    if TOKENIZER not in files and needs_converting(folder):
        with suppress(CheckpointError):
            data = read_vocabulary(folder).data
            files[TOKENIZER] = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
    return files


def _transformed(source: Transformed, sources: Sources) -> dict[str, Path | str]:
    aligned = opened_alignment(source, sources)
    alignment, name = aligned.alignment, name_within(source)
    own, donor = (aligned.models[n].path for n in (name, alignment.plan.donor))
    files = _there(donor, (*TOKENIZER_FILES, *RARE_FILES))
    if alignment.tokenizer is not None:
        files = {n: file for n, file in files.items() if n not in _OF_ONE_VOCABULARY}
        files[TOKENIZER] = alignment.tokenizer
    settings, theirs = (
        read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
        for folder in (own, donor)
    )
    settings |= alignment.special_tokens(name, settings, theirs)
    if settings:
        files[GENERATION] = json.dumps(settings, indent=2) + "\n"
    return files
