"""SCE (Wan et al. 2024, 2408.07990): select by variance, weigh by energy, erase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import Form, Varied, Votes
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.ties import ballot
from evomerge.merging.operators.sums.variances import Selection, selection


def sce(inputs: Inputs) -> LazyMerge:
    """Average those who agree, by their energy where the inputs differ most.

    The selection of entries decides the weights; with the scope ``all``, as mergekit
    has it, it drops the other entries as well.
    """
    settings, deltas = inputs.settings, Deltas.of(inputs)
    found = selected(settings, deltas)
    weights = shares_of(found.energies, settings.number("floor") * deltas.n)
    everywhere = settings.choice("mask_scope") == "all"
    form = Form(
        ballot(weights, Votes(plain=True), mean=True),
        among=where(found) if everywhere else None,
        scale=settings.number("lambda"),
    )
    return LazyMerge(deltas, form, inputs.key)


def selected(settings: Settings, deltas: Deltas) -> Selection:
    """Return the entries, the same of every input, in which the inputs vary most.

    Args:
        settings: Read for ``select_topk`` and ``rounding``.
        deltas: What to thin.
    """
    guard = settings.choice("rounding") != "int"
    return selection(deltas, settings.number("select_topk"), guard=guard)


def where(found: Selection) -> Varied | None:
    """Return a selection as it thins inputs; None if all entries are selected."""
    return None if found.cut is None else Varied(found.cut, found.near)


def shares_of(squared: Sequence[float], least: float = 0.0) -> tuple[float, ...]:
    """Return each sum's part of all; where they sum to less, all are alike."""
    whole = sum(squared)
    if whole == 0.0 or whole < least:
        return (1.0 / len(squared),) * len(squared)
    if math.isinf(whole):  # nothing can be said of the parts
        return (math.nan,) * len(squared)
    return tuple(part / whole for part in squared)
