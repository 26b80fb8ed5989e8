"""How many slots an engine of the stack profile has, of which kinds; torch-free.

Only architectures on which stacks were proved exact are let in: there the layers are
run by one plain loop, and nothing else in the model counts them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from evomerge.checkpoints import Model, read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import Problem, SpecError

FULL = "full_attention"
"""The kind of a layer whose configuration says nothing of kinds."""

PROVED = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Architectures whose stacks equal a model built from the same layers."""


def slot_kinds(setup: WorkerSetup) -> tuple[str, ...]:
    """Return the kind of attention of every slot; the frame's own layers come first.

    Raises:
        SpecError: The frame's architecture is not proved, or a kind is unknown to it.
        CheckpointError: The frame cannot be read.
    """
    settings = setup.engine
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    _check_architecture(model, settings.profile)
    own = [kind.attention or FULL for kind in model.layer_types]
    if unknown := sorted(settings.slot_kinds.keys() - set(own)):
        raise SpecError(
            [
                Problem(
                    f"engine.slot_kinds.{unknown[0]}",
                    f"The frame has no layers of this kind; it has {sorted(set(own))}.",
                )
            ]
        )
    wanted = dict(settings.slot_kinds)
    if not wanted:
        counts = Counter(own)
        wanted = {kind: settings.slots or counts[kind] for kind in counts}
    out: list[str] = []
    for kind in own:
        if out.count(kind) < wanted.get(kind, 0):
            out.append(kind)
    for kind, n in wanted.items():
        out += [kind] * (n - out.count(kind))
    return tuple(out)


def home(setup: WorkerSetup) -> Recipe:
    """Write the recipe an engine starts with: the frame.

    Of a frame with more layers than slots these are the first ones that fit.
    """
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    found = passthrough("frame", setup.frame, model.n_layers, setup.engine.dtype)
    if not setup.engine.stacks:
        return found
    free = Counter(slot_kinds(setup))
    slots = []
    for slot, kind in zip(found.slots, model.layer_types, strict=True):
        if free[kind.attention or FULL] > 0:
            free[kind.attention or FULL] -= 1
            slots.append(slot)
    return replace(found, slots=tuple(slots))


def _check_architecture(model: Model, profile: str) -> None:
    found = model.config.get("architectures") or ["none"]
    if found[0] not in PROVED:
        raise SpecError(
            [
                Problem(
                    "engine.profile",
                    f"{profile} runs layers in other orders, which is proved exact for "
                    f"{', '.join(PROVED)}, but not for {found[0]}. Use profile: "
                    "weights, or other models.",
                )
            ]
        )
