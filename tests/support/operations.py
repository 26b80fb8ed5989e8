"""Operations written short, and tensors whose sums are exact."""

from collections.abc import Sequence

import torch

from evomerge.core.digest import Scalar
from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.recipe import Operation

ON_MODELS = [
    name
    for name, one in CATALOGUE.items()
    if one.factors_with is None and not one.statistics
]
"""Operators that merge any models; others work on adapters, or need statistics."""


def operation(
    name: str,
    n: int | None = None,
    *,
    base: bool | None = None,
    **knobs: Scalar | tuple[Scalar, ...],
) -> Operation:
    """Return an operation on inputs ``m1``, ``m2``, ... and perhaps ``base``.

    Args:
        name: The operator.
        n: How many inputs; two, or as many as the operator merges, if None.
        base: Name a base; None does so where the operator needs one.
        knobs: A tuple is one value per input; ``lambda_`` stands for ``lambda``.
    """
    known = CATALOGUE.get(name)
    if base is None:
        base = known is not None and known.needs_base
    if n is None:
        n = 2 if known is None else known.n_inputs or 2
    named = {key.rstrip("_"): value for key, value in knobs.items()}
    return Operation(
        name,
        tuple(f"m{i + 1}" for i in range(n)),
        "base" if base else None,
        shared=tuple((k, v) for k, v in named.items() if not isinstance(v, tuple)),
        each=tuple((k, v) for k, v in named.items() if isinstance(v, tuple)),
    )


def dyadic(shape: Sequence[int], seed: int, scale: float = 1.0) -> torch.Tensor:
    """Return about normal numbers that are multiples of ``scale / 1024``, fp32.

    Sums and differences of such numbers are exact in fp32, so laws of arithmetic can
    be tested without the noise of rounding; many of them are equal in size.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tuple(shape), generator=generator)
    return (values * 1024).round_() * (scale / 1024)


def experts(
    merge: Operation, shape: Sequence[int], seed: int
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Return tensors for an operation: experts near a base, and the base if it has one.

    All are multiples of 1/4096, see :func:`dyadic`.
    """
    base = dyadic(shape, seed)
    n = len(merge.inputs)
    tensors = [base + dyadic(shape, seed + i + 1, 0.25) for i in range(n)]
    return tensors, None if merge.base is None else base


def permuted(merge: Operation, order: Sequence[int]) -> Operation:
    """Return the operation with its inputs, and their knobs, in another order."""
    return Operation(
        merge.operator,
        tuple(merge.inputs[i] for i in order),
        merge.base,
        merge.shared,
        tuple((knob, tuple(values[i] for i in order)) for knob, values in merge.each),
    )
