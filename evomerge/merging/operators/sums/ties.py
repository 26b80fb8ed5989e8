"""TIES-Merging (Yadav et al. 2023): trim, elect, merge those who agree."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import Ballot, Form, Step, Votes
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.thresholds.model_thresholds import trim_in_model
from evomerge.merging.operators.thresholds.sparsify import keep_l1, trim


def ties(inputs: Inputs) -> LazyMerge:
    """Trim each input's differences, elect a sign per entry, average who agrees.

    With the scope ``model`` a tensor is trimmed together with those that it is
    told of; one that is merged alone is the whole model.
    """
    settings = inputs.settings
    densities = settings.numbers("density")
    guard = settings.choice("rounding") != "int"
    deltas = Deltas.of(inputs)
    if inputs.in_model is None:
        thin = trim(deltas, densities, guard=guard)
    else:
        shares = [inputs.in_model(name) for name in inputs.operation.inputs]
        thin = trim_in_model(deltas, shares, densities, guard=guard)
    if settings.choice("rescale") == "l1":
        thin = keep_l1(deltas, thin)
    majority = settings.choice("zero_rule") == "majority"
    votes = Votes(
        by_count=settings.choice("consensus") == "count",
        plus=None if majority else True,
    )
    return LazyMerge(deltas, elected(settings, thin, votes), inputs.key)


def elected(
    settings: Settings, thin: Sequence[Step], votes: Votes | None = None
) -> Form:
    """Return the form of a merge of those who agree, by the knobs of such methods.

    Args:
        settings: Read for ``weight``, ``normalize`` and ``lambda``.
        thin: What thins each input.
        votes: How signs are elected; by the weighted sum if not given.
    """
    how = ballot(
        settings.numbers("weight"), votes or Votes(), mean=settings.flag("normalize")
    )
    return Form(how, tuple(thin), scale=settings.number("lambda"))


def ballot(weights: Sequence[float], votes: Votes, *, mean: bool) -> Ballot:
    """Return a merge of those who agree, told whether their weights may cancel."""
    return Ballot(tuple(weights), votes, mean, mixed=mean and min(weights) < 0.0)
