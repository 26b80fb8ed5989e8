"""Differences merged in stages, each of them a choice.

``basis -> sparsify -> rescale -> weight -> consensus -> reduce -> post``; the stages
are those that the named operators are made of, so a row of choices that is a named
method gives its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import (
    Form,
    Largest,
    LargestOf,
    Reduce,
    Step,
    Total,
    Votes,
)
from evomerge.merging.operators.directions.knots import Find, core, share, within
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    by_matrix,
    in_fp32,
    is_matrix,
    svd,
)
from evomerge.merging.operators.directions.spectral import flat
from evomerge.merging.operators.elementwise.tall import used
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import row_length
from evomerge.merging.operators.sums.breadcrumbs import band
from evomerge.merging.operators.sums.dare import drop
from evomerge.merging.operators.sums.della import prune
from evomerge.merging.operators.sums.linear import summed, whole_factors
from evomerge.merging.operators.sums.sce import selected, shares_of, where
from evomerge.merging.operators.sums.ties import ballot
from evomerge.merging.operators.sums.variances import energies
from evomerge.merging.operators.thresholds.sparsify import keep_l1, scaled, trim

_MASKED: Mapping[tuple[str, bool], str] = {
    ("bernoulli", False): "dare_linear",
    ("bernoulli", True): "dare_ties",
    ("rank_bernoulli", False): "della_linear",
    ("rank_bernoulli", True): "della",
}
"""Random sparsifier, and whether signs are elected, to whose masks it draws."""


def staged(inputs: Inputs) -> torch.Tensor | LazyMerge:
    """Merge the differences by the chosen stages.

    Vectors have no basis and no spectrum; they go through the other stages.

    Raises:
        CandidateError: An input is not finite where differences are chosen among, or
            a decomposition fails.
    """
    settings = inputs.settings
    matrices = is_matrix(inputs.tensors[0])
    find = _basis(settings) if matrices else None
    if find is None and not (matrices and settings.choice("post") == "flat"):
        return _entries(inputs)
    merge = partial(_merge, settings)
    chosen = merge if find is None else within(find, merge)
    return by_matrix(inputs, chosen)


def _basis(settings: Settings) -> Find | None:
    basis = settings.choice("basis")
    if basis == "svd":
        return partial(share, turned=settings.choice("join") == "out")
    return core if basis == "core" else None


def _merge(settings: Settings, matrices: Matrices) -> torch.Tensor:
    """Merge one matrix of every input, or what it is in a basis; without lambda."""
    inner = replace(settings, shared={**settings.shared, "lambda": 1.0})
    plain = _is_plain(settings)
    if plain:
        merged = matrices.total(_factors(inner))
    else:
        merged = in_fp32(_entries, inner, matrices)
    if settings.choice("post") == "none":
        return merged
    noise = math.hypot(*matrices.noise)
    found = (
        matrices.total_svd(_factors(inner))
        if plain
        else svd(merged, matrices.key, noise=noise)
    )
    return flat(settings, found, matrices.smaller_side)


def _is_plain(settings: Settings) -> bool:
    """Tell whether the differences are only added up."""
    return settings.choice("sparsify") == settings.choice(
        "consensus"
    ) == "none" and settings.choice("reduce") in ("sum", "mean")


def _entries(inputs: Inputs) -> LazyMerge:
    """Go through the stages that work on entries."""
    settings, key = inputs.settings, inputs.key
    deltas = Deltas.of(inputs, multiple_of=_whole(settings, inputs.shape))
    form = _thinned(settings, deltas, key)
    if settings.choice("reduce") == "energy":
        shares = shares_of(energies(deltas, form))
        settings = replace(settings, each={**settings.each, "weight": shares})
        if settings.choice("mask_scope") == "weights_only":
            form = form._replace(thin=None, among=None)
    return LazyMerge(deltas, _reduced(settings, form), key)


def _thinned(settings: Settings, deltas: Deltas, key: str) -> Form:
    """Return a form of what the sparsify stage leaves, and of nothing else yet."""
    plain = Form(Total(()))
    sparsify = settings.choice("sparsify")
    if sparsify == "variance":
        return plain._replace(among=where(selected(settings, deltas)))
    if sparsify == "tall":
        return plain._replace(among=used(settings), checked=True)
    return plain._replace(thin=_thin(settings, deltas, key))


def _reduced(settings: Settings, form: Form) -> Form:
    """Return the form with what the stages after sparsifying ask for."""
    consensus, rule = settings.choice("consensus"), settings.choice("zero_rule")
    weights, largest = settings.numbers("weight"), settings.choice("reduce") == "max"
    votes = Votes(
        by_count=consensus == "count_sign",
        plain=consensus == "mean_sign",
        plus=None if rule == "majority" else rule == "plus",
    )
    if consensus == "none":
        how: Reduce = summed(_averaged(settings)).reduce
        how = Largest(weights) if largest else how
    elif largest:
        how = LargestOf(weights, votes)
    else:
        how = ballot(weights, votes, mean=settings.choice("reduce") != "sum")
    return form._replace(
        reduce=how,
        scale=settings.number("lambda"),
        checked=form.checked or largest,
    )


def _whole(settings: Settings, shape: torch.Size) -> int:
    """Return how many entries have to be seen together."""
    sparsify = settings.choice("sparsify")
    by_row = (sparsify == "two_sided" and settings.choice("axis") == "row") or (
        sparsify == "rank_bernoulli" and settings.choice("rank_by") != "tensor_rank"
    )
    return row_length(shape) if by_row else 1


def _thin(settings: Settings, deltas: Deltas, key: str) -> tuple[Step, ...] | None:
    """Return what the sparsify stage does, its rescaling included; None if nothing."""
    sparsify = settings.choice("sparsify")
    if sparsify == "none":
        return None
    densities = settings.numbers("density")
    if sparsify in ("magnitude", "two_sided"):
        return _cut(settings, deltas, densities)
    elected = settings.choice("consensus") != "none"
    masks = replace(settings.operation, operator=_MASKED[sparsify, elected])
    named = replace(settings, operation=masks)
    if sparsify == "bernoulli":
        return drop(named, deltas, key, densities)
    return prune(named, deltas, key)


def _cut(
    settings: Settings, deltas: Deltas, densities: Sequence[float]
) -> tuple[Step, ...]:
    """Keep entries by their size."""
    rescale = settings.choice("rescale")
    if settings.choice("sparsify") == "two_sided":
        thin = band(settings, deltas)  # keeps the L1 norm by itself
    else:
        guard = settings.choice("rounding") != "int"
        thin = trim(deltas, densities, guard=guard)
        thin = keep_l1(deltas, thin) if rescale == "l1" else thin
    if rescale != "inverse":
        return thin
    return scaled(thin, tuple(1.0 / density for density in densities))


def _factors(settings: Settings) -> tuple[float, ...]:
    """Return the whole factor of each input's difference in a sum or a mean."""
    return whole_factors(_averaged(settings))


def _averaged(settings: Settings) -> Settings:
    """Return the settings with what is here called a mean said as elsewhere."""
    mean = settings.choice("reduce") == "mean"
    return replace(settings, shared={**settings.shared, "normalize": mean})
