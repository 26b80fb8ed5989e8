"""From a point to the stack of layers it stands for, as a recipe.

The kinds of data flow decide which layers run; this puts the layers' slots together.
One source may be the merge of this very candidate: its layer ``l`` is the operator over
layer ``l`` of every input, at the depth the layer has there, so a layer that runs twice
has equal slots and its weights can be shared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from evomerge.core.blueprint import MergeBlueprint, Term, read
from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.flow.scales import Matrix, Sites
from evomerge.core.recipes.recipe import VERSION, Input, Recipe, Slot
from evomerge.core.trial import Point

MERGE = "merge"
"""What the merge of a candidate is called among the sources of its layers."""


class Flow(Protocol):
    """A kind of data flow: which layers run, in which order, how strongly."""

    @property
    def stock(self) -> LayerPool:
        """The layers at hand, and how many may run."""

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes in order, by the places of what is decided."""

    @property
    def n_stacks(self) -> int | None:
        """How many different stacks there are, scales apart; None if not countable."""

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs, at least one.

        Raises:
            SpaceError: The point lacks an axis.
        """


@dataclass(frozen=True)
class FlowBlueprint:
    """Slots are layers of sources, or of the candidate's own merge.

    Equal stacks have equal recipes, whatever point they come from.

    Attributes:
        frame: Name of the input that gives config and tokenizer.
        dtype: Element type of the weights.
        inputs: Name to input, for every source of layers and the frame.
        flow: Which layers run.
        matrix: A scale for every pair of layers that meet, if there is one.
        merge: What the source ``merge`` is; None where there is none.
        embed: Whose token embedding.
        head: Whose final norm and head.
        version: Of the recipes.
    """

    frame: str
    dtype: str
    inputs: Mapping[str, Input]
    flow: Flow
    embed: Term
    head: Term
    matrix: Matrix | None = None
    merge: MergeBlueprint | None = None
    version: int = VERSION

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of the data flow in order, by the places of what is decided."""
        return (
            *self.flow.strands,
            *([] if self.matrix is None else [self.matrix.sites]),
        )

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks an axis.
        """
        steps = self.flow.steps(point)
        return steps if self.matrix is None else self.matrix.scaled(steps, point)

    def recipe(self, point: Point) -> Recipe:
        """Return the decided stack.

        Raises:
            SpaceError: The point lacks an axis this blueprint needs.
        """
        steps = self.steps(point)
        embed, head = str(read(self.embed, point)), str(read(self.head, point))
        merged = None
        if self.merge and MERGE in (embed, head, *(step.source for step in steps)):
            merged = self.merge.recipe(point)
        slots = tuple(_slot(step, merged) for step in steps)
        first = merged.embed if merged and embed == MERGE else Slot.copy_of(embed)
        last = merged.head if merged and head == MERGE else Slot.copy_of(head)
        inputs = {**self.inputs, **(dict(merged.inputs) if merged else {})}
        parts = merged.parts if merged else ()
        beside = Slot(parts)
        used = {self.frame}.union(*(s.reads for s in (first, *slots, last, beside)))
        return Recipe(
            frame=self.frame,
            dtype=self.dtype,
            inputs=tuple((name, inputs[name]) for name in sorted(used)),
            embed=first,
            slots=slots,
            head=last,
            version=self.version,
            parts=parts,
        )


def _slot(step: Step, merged: Recipe | None) -> Slot:
    if merged is not None and step.source == MERGE:
        return replace(merged.slots[step.index], scale=step.scale)
    return Slot.copy_of(step.source, step.index, scale=step.scale)
