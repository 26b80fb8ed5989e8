"""A merged model written to disk as an ordinary model folder.

Weights are streamed, tokenizer and generation settings are the frame's. Everything is
written into a hidden folder beside the target, and only a complete folder, safely on
disk, is renamed into place: what has the target's name is whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from evomerge.checkpoints import INDEX
from evomerge.checkpoints.documents import read_bytes, read_json
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
from evomerge.errors import CheckpointError, ExportError
from evomerge.merging.materialise import describe, materialise, merged_config
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.merging.output.shards import (
    Shard,
    index_json,
    plan_shards,
    write_shard,
)
from evomerge.merging.sources import Sources
from evomerge.merging.views.revocabulated import name_within, opened_alignment

TEMPLATE = "chat_template.jinja"
PROCESSORS = (
    *("processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "image_processor_config.json"),
)
"""What prepares the images and sounds of models that see and hear."""
COPIED = (*TOKENIZER_FILES, *RARE_FILES, GENERATION, *PROCESSORS)
_TEMPLATES = (TEMPLATE, "chat_template.json")
_OF_ONE_VOCABULARY = frozenset((*OLD_FILES, *RARE_FILES))
"""Older forms of what ``tokenizer.json`` says, which a union does not write."""
SHARD_BYTES = 5_000_000_000
RECIPE_NAME = "recipe.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


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


@dataclass(frozen=True, slots=True)
class Written:
    """A finished model folder.

    Attributes:
        size_bytes: Bytes of the weights.
        shards: Names of the weight files, in order.
    """

    path: Path
    size_bytes: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A model folder that is to be written.

    Attributes:
        stream: Begins to give the tensors of all shards, in order.
        texts: Text files, by name.
        copies: Files that are taken over as they are, by name.
    """

    stream: Callable[[], Iterator[tuple[str, torch.Tensor]]]
    shards: tuple[Shard, ...]
    texts: Mapping[str, str]
    copies: Mapping[str, Path]

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        texts = sum(len(text.encode()) for text in self.texts.values())
        copies = sum(file.stat().st_size for file in self.copies.values())
        return self.weights_bytes + texts + copies

    def write(
        self, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write all files into a folder that is there.

        Raises:
            CheckpointError: A source is broken, or changed since it was recorded.
            CandidateError: The merged weights are not finite.
        """
        _write_weights(folder, self.shards, self.stream(), progress)
        for name, file in self.copies.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _write_bytes(folder / name, read_bytes(file))
        for name, text in self.texts.items():
            _write_bytes(folder / name, text.encode())

    def written(self, path: Path) -> Written:
        """Say what was written."""
        names = tuple(shard.name for shard in self.shards)
        return Written(path, self.weights_bytes, names)


def plan_model(
    recipe: Recipe,
    sources: Sources,
    shard_bytes: int = SHARD_BYTES,
    extra: Mapping[str, str] | None = None,
) -> Planned:
    """Say which files a model's folder will hold; arguments as of ``write_model``."""
    texts = _texts(recipe, sources, extra or {})
    files = frame_files(recipe, sources)
    if TEMPLATE in texts:
        files = without_template(files)
    texts |= {name: file for name, file in files.items() if isinstance(file, str)}
    copies = {name: file for name, file in files.items() if isinstance(file, Path)}
    shards = plan_shards(describe(recipe, sources), shard_bytes)
    if len(shards) > 1:
        texts[INDEX] = index_json(shards)
    stream = partial(materialise, recipe, sources, reuse=True)
    return Planned(stream, shards, texts, copies)


def write_model(
    recipe: Recipe,
    sources: Sources,
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    extra: Mapping[str, str] | None = None,
) -> Written:
    """Merge and write a model folder that plain transformers loads.

    Args:
        recipe: What to merge.
        sources: Where its inputs lie.
        out: Folder to make; must not exist.
        shard_bytes: Largest weight file, in bytes.
        progress: Told bytes written and bytes in all, after each tensor.
        extra: Further text files, by name: the model card, a chat template that goes
            before the tokenizer's own, or the recipe with what stands beside it.

    Raises:
        ExportError: The folder exists, the disk is too small or refuses, or an extra
            name is not a plain file name. Nothing half-written is left.
        RecipeError: The recipe does not fit its sources.
        CheckpointError: A source is missing, broken, or changed since it was recorded.
        CandidateError: The merged weights are not finite.
    """
    target = Path(out)
    planned = plan_model(recipe, sources, shard_bytes, extra)
    with atomic_folder(target, planned.size_bytes) as folder:
        planned.write(folder, progress)
    return planned.written(target)


def recipe_text(recipe: Recipe, allow: Sequence[str] = ()) -> str:
    """Return a recipe as it is written beside its weights.

    Args:
        recipe: What was merged.
        allow: Kinds of differences between its inputs that were allowed; beside the
            recipe, and no part of it.
    """
    beside = {"allow": list(allow)} if allow else {}
    return json.dumps(recipe.to_json() | beside, indent=2) + "\n"


def _write_weights(
    folder: Path,
    shards: tuple[Shard, ...],
    stream: Iterator[tuple[str, torch.Tensor]],
    progress: Callable[[int, int], None] | None,
) -> None:
    total = sum(shard.size_bytes for shard in shards)
    done = 0
    for shard in shards:
        for written in write_shard(folder / shard.name, shard, stream):
            done += written
            if progress is not None:
                progress(done, total)


def _texts(
    recipe: Recipe, sources: Sources, extra: Mapping[str, str]
) -> dict[str, str]:
    config = json.dumps(merged_config(recipe, sources), indent=2) + "\n"
    texts = {"config.json": config, RECIPE_NAME: recipe_text(recipe)}
    taken = {*texts, *COPIED, INDEX} - {TEMPLATE, RECIPE_NAME}
    for name, text in extra.items():
        plain = _PLAIN_NAME.fullmatch(name)
        if not plain or name in taken or name.endswith(".safetensors"):
            raise ExportError(
                f"The extra file {name!r} cannot be written: expected a plain file "
                f"name that is no weight file and none of {sorted(taken)}."
            )
        texts[name] = text
    return texts


def _write_bytes(file: Path, data: bytes) -> None:
    with file.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
