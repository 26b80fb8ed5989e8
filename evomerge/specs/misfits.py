"""What keeps models from being merged, or their layers from being set on each other."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoints import Model, compatibility, remarks
from evomerge.checkpoints.configs.families import gives_reward
from evomerge.checkpoints.configs.layer_types import LayerType
from evomerge.checkpoints.configs.stack_counts import side_of
from evomerge.checkpoints.foldable import unfoldable
from evomerge.checkpoints.tokenizer_notes import tokenizer_notes
from evomerge.core.flow.blueprint import MERGE
from evomerge.core.recipes.recipe import Recipe, Slot
from evomerge.errors import CheckpointError
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import FlowSpec, SpaceSpec


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


def note_unscored(model: Model, kind: str, key: str, mistakes: Mistakes) -> None:
    """Note a model that merges, but that no engine gives answers of.

    Args:
        model: The frame of a study.
        kind: The engine's; ``hf`` runs reward models.
        key: Where the file names it.
        mistakes: Where to note it.
    """
    what = ""
    if model.layout.further:
        sides = {side_of(kind.stack) for kind in model.layer_types}
        paired = sides == {"encoder", "decoder"}
        what = "an encoder-decoder" if paired else "a model of several stacks of layers"
    elif model.layout.is_headless and gives_reward(model.config):
        if kind != "hf":
            mistakes.add(
                key,
                f"expected a text decoder for engine {kind}, got a reward model "
                f"({model.architecture}); set engine: {{kind: hf}}.",
            )
    elif model.layout.is_headless:
        what = "a model without an output head, such as a classifier"
    if what:
        mistakes.add(
            key,
            f"expected a text decoder that gives tokens, got {what} "
            f"({model.architecture}): engines do not score such models yet. Merge "
            "without a search: `evomerge merge`.",
        )


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


def merged_sources(space: SpaceSpec) -> tuple[str, ...]:
    """Return the sources whose layers are merged one by one."""
    if space.flow is not None and not space.operator:
        return ()
    base = () if space.base is None else (space.base,)
    return tuple(dict.fromkeys((*base, *space.experts)))


def check_mixing(
    space: SpaceSpec, models: Mapping[str, Model], frame: str, mistakes: Mistakes
) -> None:
    """Note why layers cannot run together, or their stack not be written.

    Args:
        space: What was written, its experts and flow filled in.
        models: The sources that could be read, by name.
        frame: Name of the frame.
        mistakes: Where to note what is wrong.
    """
    flow = space.flow
    if flow is None:
        return
    if MERGE in models:
        mistakes.add(
            f"sources.{MERGE}",
            f"expected another name: in a flow {MERGE!r} is what the operator makes.",
        )
    merged = {name: models[name] for name in merged_sources(space) if name in models}
    refuse_misfits(merged, mistakes, same_vocabulary=False)
    _check_ends(flow, models, frame, mistakes)
    if flow.scales != "none" and flow.export:
        _check_scales({*flow.sources, *merged, frame}, models, mistakes)


def _check_ends(
    flow: FlowSpec, models: Mapping[str, Model], frame: str, mistakes: Mistakes
) -> None:
    """Note an embedding and a head that a tied model cannot have."""
    if frame not in models or not models[frame].tied:
        return
    first = flow.sources[:1]
    ends = {"embed": flow.embed or first, "head": flow.head or first}
    for which, names in ends.items():
        for name in names:
            if name in models and not models[name].tied:
                mistakes.add(
                    f"space.flow.{which}",
                    f"expected a source whose head is its embedding, as in the frame "
                    f"{frame!r}, got {name!r}; or choose an untied frame.",
                )
    if len({*ends["embed"], *ends["head"]}) > 1:
        mistakes.add(
            "space.flow.head",
            f"expected the source of the embedding, {_listed(ends['embed'])}, got "
            f"{_listed(ends['head'])}: in the frame {frame!r} the head is the "
            "embedding.",
        )


def _check_scales(
    names: set[str], models: Mapping[str, Model], mistakes: Mistakes
) -> None:
    for name in sorted(names & models.keys()):
        reason = unfoldable(models[name])
        if reason is not None:
            mistakes.add(
                "space.flow.scales",
                f"expected none: scales of layers of {name!r} cannot be written into "
                f"weights: {reason} Or say `export: false` and score stacks that "
                "cannot be exported.",
            )


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)
