"""Proof that an engine of the stack profile runs the stacks it is told to run.

A short stack of both parents (out of order, with a layer that repeats, between the
probe's embedding and head) is written as an ordinary folder and loaded cold by a plain
engine of the same kind; swapped in, it must answer with the same bits. That is another
path to the same model: it shares neither slots, nor borrowed caches, nor the order in
which layers run, and a stale copy of the embedding or the head is seen as well.

Scales have no folder to be compared with, but an identity: a layer of nothing but zeros
adds nothing, so doubling its input and halving that of the next layer changes no bit,
while doubling alone changes the answers. An engine that scales only a part of the
hidden state fails the first, one that scales nothing the second.

At last the frame must answer as it did before. The cold measurement is kept, so that it
costs one short engine start for each study and machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import ANY_ROLE, Checkpoint, Recipe, Slot
from evomerge.core.work import WorkerSetup
from evomerge.errors import SelfTestError, WorkerError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.scoring.engine import Engine, SelfTest
from evomerge.scoring.self_test import ColdProbe, Probe, compare, kept
from evomerge.scoring.stacks.slots import FULL, home, slot_kinds

_FRAME, _PROBE = "frame", "probe"


def run_stack_self_test(
    engine: Engine, setup: WorkerSetup, cold_probe: ColdProbe
) -> SelfTest:
    """Swap stacks in, comparing them with a cold load and with each other.

    Args:
        engine: Of the stack profile; it holds the frame afterwards.
        setup: Names the frame, the probe and the folder for kept measurements.
        cold_probe: Called where no kept measurement fits.

    Raises:
        SelfTestError: Something differs; the message names what, and by how much.
    """
    engine.swap(home(setup))
    frame = Probe.take(engine)
    cold = kept_stack_probe(engine.facts, setup, cold_probe)
    stack = trial_stack(setup)
    report = engine.swap(stack)
    hot = _run(engine, setup)
    difference = compare(hot, cold, "a stack of layers, swapped in,", setup)
    if hot == frame:
        raise SelfTestError(
            "A stack of layers answers exactly as the frame does, so the self-test "
            "proves nothing; give parents with different weights."
        )
    if _has_room(setup):
        _check_scales(engine, setup, stack)
    engine.swap(home(setup))
    back = compare(Probe.take(engine), frame, "the frame, swapped back,", setup)
    return SelfTest(difference, back, report.materialise_s + report.swap_s)


def _run(engine: Engine, setup: WorkerSetup) -> Probe:
    """Ask an engine that could answer with the frame's own layers."""
    try:
        return Probe.take(engine)
    except WorkerError as error:
        if "memory" in str(error):
            raise
        raise SelfTestError(
            f"Self-test of the {setup.engine.kind} engine: other layers in another "
            f"order cannot be run ({error}), so this family keeps by more than a "
            "layer's place what it remembers of a text. Use engine.profile: weights "
            "for these parents."
        ) from error


def _has_room(setup: WorkerSetup) -> bool:
    """Tell whether the engine has a slot left for a layer of zeros."""
    probe = setup.sources[setup.probe or setup.frame]
    model = read_model(probe, cache_dir=setup.cache_dir)
    kinds = Counter(slot_kinds(setup))
    return kinds[model.layer_types[-1].attention or FULL] > 1


def _check_scales(engine: Engine, setup: WorkerSetup, stack: Recipe) -> None:
    def answers(into: float, after: float) -> Probe:
        engine.swap(with_silence(stack, into, after))
        return Probe.take(engine)

    # The sum that is rounded between two layers is another one with a layer of zeros.
    unscaled = answers(1.0, 1.0)
    compare(answers(2.0, 0.5), unscaled, "a stack scaled there and back", setup)
    if answers(2.0, 1.0) == unscaled:
        raise SelfTestError(
            f"Self-test of the {setup.engine.kind} engine: doubling the input of a "
            "layer changes nothing, as where a norm stands on the hidden state itself: "
            "scales would be ignored. Use engine.profile: weights for these parents."
        )


def kept_stack_probe(
    facts: Mapping[str, Any], setup: WorkerSetup, cold_probe: ColdProbe
) -> Probe:
    """Return what a plain engine answers with the trial stack's folder.

    Args:
        facts: Of the engine that will be compared with it.
        setup: Names the parents and the folder.
        cold_probe: Makes the measurement, if none is kept.

    Raises:
        WorkerError: Another worker holds the lock for too long.
        ExportError: The disk has no room for the folder.
    """
    stack = trial_stack(setup)

    def measure() -> Probe:
        plain = replace(setup.engine, profile="weights", slots=None, slot_kinds={})
        with (
            TemporaryDirectory(dir=setup.cache_dir) as scratch,
            Sources(setup.sources, cache_dir=setup.cache_dir) as sources,
        ):
            folder = write_model(stack, sources, Path(scratch) / "stack").path
            name = read_model(folder).fingerprint
            return cold_probe(
                replace(
                    setup,
                    engine=plain,
                    sources={name: str(folder)},
                    frame=name,
                    probe=None,
                )
            )

    return kept(facts, setup, stack.digest, measure)


def trial_stack(setup: WorkerSetup) -> Recipe:
    """Write the recipe of the stack that is tried.

    The ends of both parents and one layer of each kind, in an order that neither has,
    one of them twice; fewer where the engine has fewer slots.

    Raises:
        CheckpointError: A parent is missing or broken.
    """
    names = {_FRAME: setup.frame, _PROBE: setup.probe or setup.frame}
    models = {
        name: read_model(setup.sources[fingerprint], cache_dir=setup.cache_dir)
        for name, fingerprint in names.items()
    }
    kinds = {
        name: [kind.attention or FULL for kind in model.layer_types]
        for name, model in models.items()
    }
    last = len(kinds[_PROBE]) - 1
    wanted = [(_PROBE, last), (_FRAME, 0), (_PROBE, last)]
    wanted += [(_PROBE, kinds[_PROBE].index(kind)) for kind in sorted({*kinds[_PROBE]})]
    wanted += [(_FRAME, len(kinds[_FRAME]) - 1)]
    free = Counter(slot_kinds(setup))
    # One is left for the layer of zeros, which is of the kind of the first.
    first = kinds[_PROBE][last]
    free[first] = max(1, free[first] - 1)
    slots = []
    for name, layer in wanted:
        kind = kinds[name][layer]
        if free[kind] > 0:
            free[kind] -= 1
            slots.append(Slot.copy_of(name, layer))
    return Recipe(
        frame=_FRAME,
        dtype=setup.engine.dtype,
        inputs=tuple((name, Checkpoint(one)) for name, one in names.items()),
        embed=Slot.copy_of(_PROBE),
        slots=tuple(slots),
        head=Slot.copy_of(_PROBE),
    )


def with_silence(stack: Recipe, into: float, after: float) -> Recipe:
    """Put a layer of zeros before a stack's last layer.

    Args:
        stack: To be changed.
        into: Scale of the hidden state that enters the layer of zeros.
        after: Scale of what enters the layer after it.
    """
    *before, last = stack.slots
    source, layer = stack.slots[0].layers[0]
    zeros = Slot.copy_of(source, layer, factor=0.0, scale=into)
    # What weighs the hidden state itself stays: without it nothing would be left.
    kept = Slot.copy_of(source, layer).operation(ANY_ROLE)
    zeros = replace(zeros, roles=(*zeros.roles, ("scalar", kept)))
    slots = (*before, zeros, replace(last, scale=after))
    return replace(stack, slots=slots)
