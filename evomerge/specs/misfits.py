"""What keeps models apart, and what must be seen of models that are merged."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoints import Model, compatibility, remarks
from evomerge.checkpoints.configs.layer_types import LayerType
from evomerge.checkpoints.tokenizer_notes import tokenizer_notes
from evomerge.core.recipes.recipe import Recipe, Slot
from evomerge.errors import CheckpointError
from evomerge.specs.reading.mistakes import Mistakes


def refuse_misfits(
    models: Mapping[str, Model],
    mistakes: Mistakes,
    *,
    key: str = "sources",
    same_vocabulary: bool = True,
    same_depth: bool = True,
) -> None:
    """Note every reason why models cannot be merged with each other."""
    if len(models) < 2:
        return
    misfits = compatibility(
        models,
        same_vocabulary=same_vocabulary,
        same_depth=same_depth,
        allow=mistakes.allow,
    )
    for said in remarks(models, same_depth=same_depth, allow=mistakes.allow):
        mistakes.warn(key, said)
    if misfits:
        mistakes.add(key, "expected models that fit together: " + " ".join(misfits))


def note_tokenizers(
    models: Mapping[str, Model],
    giver: str,
    mistakes: Mistakes,
    *,
    key: str = "sources",
    templates: bool = True,
) -> None:
    """Warn of what a merge takes no notice of: see ``tokenizer_notes``.

    Args:
        models: All that were read, by name.
        giver: The one that gives the tokenizer; nothing is said if it was not read.
        mistakes: Where to note it.
        key: Where the file names the models.
        templates: Compare chat templates too; False where the file gives one.
    """
    if giver not in models or mistakes.found:
        return
    try:
        for name, said in tokenizer_notes(models, giver, templates=templates):
            mistakes.warn(f"{key}.{name}", said)
    except (CheckpointError, OSError) as error:
        mistakes.warn(key, f"tokenizers and templates cannot be compared: {error}")


def check_slots(
    recipe: Recipe,
    models: Mapping[str, Model],
    mistakes: Mistakes,
    *,
    key: str = "slots",
) -> None:
    """Note layers that an input lacks, or that compute different things.

    Args:
        recipe: The merge.
        models: Its inputs, as far as they were read.
        mistakes: Where to note it.
        key: Where the file has the layers; empty where they are not listed.
    """
    for i, slot in enumerate(recipe.slots):
        for name, said in _odd_layers(slot, models, "layer_types" in mistakes.allow):
            where = f"{key}.{i}.layers.{name}" if key else ""
            mistakes.add(where, said if key else f"layer {i} of the result: {said}")


def _odd_layers(
    slot: Slot, models: Mapping[str, Model], is_any_type: bool
) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    kinds: dict[str, LayerType] = {}
    for name, layer in slot.layers:
        types = models[name].layer_types if name in models else ()
        if 0 <= layer < len(types):
            kinds[name] = types[layer]
        elif name in models:
            said = f"expected a layer from 0 to {len(types) - 1}, got {layer}."
            out.append((name, said))
    first = next(iter(kinds), "")
    out += [
        (
            name,
            f"expected {kinds[first]}, as layer {slot.layer_of(first)} of {first!r} "
            f"has, got {kind}, as layer {slot.layer_of(name)} of {name!r} has. To "
            "merge them all the same, say `allow: [layer_types]`.",
        )
        for name, kind in kinds.items()
        if not is_any_type and not kinds[first].fits(kind)
    ]
    return out
