"""The export itself: weights, recipe and card as one folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoints import read_model
from evomerge.errors import ExportError
from evomerge.export.card import CardFacts, card
from evomerge.masking import masked
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.merging.output.writer import (
    PROCESSORS,
    RECIPE_NAME,
    SHARD_BYTES,
    frame_files,
    plan_model,
    recipe_text,
)
from evomerge.merging.sources import Sources

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A finished export.

    Attributes:
        size_bytes: Bytes of the weights.
        shards: Names of the weight files, in order.
        fingerprint: Of the folder's content, as a source of further merges.
    """

    path: Path
    size_bytes: int
    shards: tuple[str, ...]
    fingerprint: str


def export_model(
    facts: CardFacts,
    sources: Sources,
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    replace: bool = False,
) -> ExportedModel:
    """Merge the recipe and write it with its card as an ordinary model folder.

    The folder is read back before it is called done.

    Args:
        facts: The recipe, and what its card says.
        sources: Where the recipe's inputs lie.
        out: Folder to make.
        shard_bytes: Largest weight file, in bytes.
        progress: Told bytes written and bytes in all, after each tensor.
        replace: Put the new folder in the place of an earlier export; anything else
            is never removed.

    Raises:
        ExportError: The folder exists, or the disk is too small or refuses. Nothing
            half-written is left, and an earlier export is kept.
        RecipeError: The recipe does not fit its sources.
        CheckpointError: A source is missing, broken, or changed since it was recorded.
        CandidateError: The merged weights are not finite.
    """
    target = Path(out)
    refuse_taken(target, replace=replace)
    sees = not frame_files(facts.recipe, sources).keys().isdisjoint(PROCESSORS)
    extra = {
        CARD_NAME: masked(card(facts, sees=sees)),
        RECIPE_NAME: recipe_text(facts.recipe, facts.allow),
    }
    planned = plan_model(facts.recipe, sources, shard_bytes, extra)
    with atomic_folder(target, planned.size_bytes, replace=replace) as folder:
        planned.write(folder, progress)
        fingerprint = read_model(folder).fingerprint
    done = planned.written(target)
    return ExportedModel(target, done.size_bytes, done.shards, fingerprint)


def refuse_taken(target: Path, *, replace: bool) -> None:
    """Refuse a folder that an export may not make, before any work is done for it.

    Raises:
        ExportError: It exists, and is no earlier export or is not to be replaced.
    """
    if not target.exists() and not target.is_symlink():
        return
    if not replace:
        raise ExportError(
            f"{target} exists already; nothing is overwritten. Choose another folder, "
            "or replace an earlier export with --replace."
        )
    is_export = (target / RECIPE_NAME).is_file() and (target / CARD_NAME).is_file()
    if target.is_symlink() or not is_export:
        raise ExportError(
            f"{target} is no folder that was exported before (it lacks {RECIPE_NAME} "
            f"or {CARD_NAME}), so it is not replaced. Choose another folder."
        )
