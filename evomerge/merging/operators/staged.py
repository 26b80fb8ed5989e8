"""Differences merged in stages, each of them a choice.

``basis -> sparsify -> rescale -> weight -> consensus -> reduce -> post``; the stages
are those that the named operators are made of, so a row of choices that is a named
method gives its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.directions.knots import Find, core, share, within
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    by_matrix,
    in_fp32,
    is_matrix,
    svd,
)
from evomerge.merging.operators.directions.spectral import flat
from evomerge.merging.operators.elementwise.largest import largest, largest_of_sign
from evomerge.merging.operators.elementwise.tall import used
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas, check_finite, stacks
from evomerge.merging.operators.loops.onepass import Rule
from evomerge.merging.operators.loops.order_statistics import row_length
from evomerge.merging.operators.loops.thinning import Thin, scaled
from evomerge.merging.operators.sums.breadcrumbs import band
from evomerge.merging.operators.sums.dare import drop
from evomerge.merging.operators.sums.della import prune
from evomerge.merging.operators.sums.linear import Sum, delta_factors, whole_factors
from evomerge.merging.operators.sums.sce import energies, nothing, select
from evomerge.merging.operators.sums.ties import Election
from evomerge.merging.operators.thresholds.sparsify import keep_l1, trim

_MASKED: Mapping[tuple[str, bool], str] = {
    ("bernoulli", False): "dare_linear",
    ("bernoulli", True): "dare_ties",
    ("rank_bernoulli", False): "della_linear",
    ("rank_bernoulli", True): "della",
}
"""Random sparsifier, and whether signs are elected, to whose masks it draws."""


def staged(inputs: Inputs) -> torch.Tensor | Sum | Election:
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


def _entries(inputs: Inputs) -> torch.Tensor | Sum | Election:
    """Go through the stages that work on entries."""
    settings = inputs.settings
    key = inputs.key
    deltas = Deltas.of(inputs, multiple_of=_whole(settings, inputs.shape))
    thin = _thin(settings, deltas, key)
    if settings.choice("reduce") == "energy":
        shares = energies(deltas, thin or nothing(deltas))
        settings = replace(settings, each={**settings.each, "weight": shares})
        if settings.choice("mask_scope") == "weights_only":
            thin = None
    if settings.choice("reduce") == "max":
        return _largest(settings, deltas, thin or nothing(deltas), key)
    if settings.choice("consensus") != "none":
        return _elect(settings, deltas, thin or nothing(deltas))
    return Sum(deltas, *_weights(settings), thin)


def _whole(settings: Settings, shape: torch.Size) -> int:
    """Return how many entries have to be seen together."""
    sparsify = settings.choice("sparsify")
    by_row = (sparsify == "two_sided" and settings.choice("axis") == "row") or (
        sparsify == "rank_bernoulli" and settings.choice("rank_by") != "tensor_rank"
    )
    return row_length(shape) if by_row else 1


def _thin(settings: Settings, deltas: Deltas, key: str) -> Thin | None:
    """Return what the sparsify stage does, its rescaling included; None if nothing."""
    sparsify = settings.choice("sparsify")
    if sparsify == "none":
        return None
    if sparsify == "variance":
        return select(deltas, settings)
    if sparsify == "tall":
        return used(settings, deltas, key)
    densities = settings.numbers("density")
    if sparsify in ("magnitude", "two_sided"):
        return _cut(settings, deltas, densities)
    elected = settings.choice("consensus") != "none"
    masks = replace(settings.operation, operator=_MASKED[sparsify, elected])
    named = replace(settings, operation=masks)
    if sparsify == "bernoulli":
        return drop(named, deltas, key, densities)
    return prune(named, deltas, key)


def _cut(settings: Settings, deltas: Deltas, densities: Sequence[float]) -> Thin:
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


def _weights(settings: Settings) -> tuple[tuple[float, ...], float, float]:
    """Return what ``delta_factors`` does, for a sum or a mean."""
    return delta_factors(_averaged(settings))


def _averaged(settings: Settings) -> Settings:
    """Return the settings with what is here called a mean said as elsewhere."""
    mean = settings.choice("reduce") == "mean"
    return replace(settings, shared={**settings.shared, "normalize": mean})


def _elect(settings: Settings, deltas: Deltas, thin: Thin) -> Election:
    """Merge those who agree with the elected sign, by sum or by mean."""
    scale = settings.number("lambda")
    if settings.choice("zero_rule") == "minus":
        # A draw goes to plus; seen from the other side that is minus.
        thin, scale = scaled(thin, (-1.0,) * len(deltas)), -scale
    consensus = settings.choice("consensus")
    rule = Rule(
        settings.numbers("weight"),
        scale,
        count=consensus == "count_sign",
        normalize=settings.choice("reduce") != "sum",
        majority=settings.choice("zero_rule") == "majority",
        plain=consensus == "mean_sign",
    )
    return Election(deltas, thin, rule)


def _largest(settings: Settings, deltas: Deltas, thin: Thin, key: str) -> torch.Tensor:
    """Take the largest weighted difference, of those with the elected sign if any."""
    out = deltas.fresh()
    into, scale = out.view(-1), settings.number("lambda")
    elected = settings.choice("consensus") != "none"
    plus = elected and _plus_on_draw(settings, deltas, thin, key)
    for block, base, read, tally in _tallied(settings, deltas, thin, key):
        if elected:
            won = tally >= 0.0 if plus else tally > 0.0
            merged = largest_of_sign(read, won.to(torch.float32).mul_(2.0).sub_(1.0))
        else:
            merged = largest(read)
        part = torch.mul(merged, scale, out=into[block])
        if base is not None:
            part.add_(base)
    return out


def _plus_on_draw(settings: Settings, deltas: Deltas, thin: Thin, key: str) -> bool:
    rule = settings.choice("zero_rule")
    if rule != "majority":
        return rule == "plus"
    tallied = _tallied(settings, deltas, thin, key)
    return sum(int(tally.sign().sum()) for _, _, _, tally in tallied) >= 0


def _tallied(
    settings: Settings, deltas: Deltas, thin: Thin, key: str
) -> Iterator[tuple[slice, torch.Tensor | None, list[torch.Tensor], torch.Tensor]]:
    """Read thinned and weighted blocks with the tally that elects signs."""
    weights = settings.numbers("weight")
    consensus = settings.choice("consensus")
    for block, base, read in stacks(deltas):
        check_finite(read, key)
        tally = torch.zeros_like(read[0])
        for index, (delta, weight) in enumerate(zip(read, weights, strict=True)):
            thin(index, block, delta)
            if consensus == "mean_sign":
                tally.add_(delta)
            delta.mul_(weight)
            if consensus != "mean_sign":
                tally.add_(delta.sign() if consensus == "count_sign" else delta)
        yield block, base, read, tally
