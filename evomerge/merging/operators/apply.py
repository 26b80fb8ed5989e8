"""The one entrance: an operation and its tensors in, the merged tensor out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch

from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators.directions.karcher import karcher, multislerp
from evomerge.merging.operators.directions.knots import core_space, knots
from evomerge.merging.operators.directions.spectral import iso_c, iso_cts, tsv
from evomerge.merging.operators.directions.spherical import nuslerp, slerp
from evomerge.merging.operators.directions.wudi import wudi
from evomerge.merging.operators.elementwise.largest import emr, magmax
from evomerge.merging.operators.elementwise.pairs import arcee_fusion, nearswap
from evomerge.merging.operators.elementwise.pcb import pcb
from evomerge.merging.operators.elementwise.ram import ram, ramplus_tl
from evomerge.merging.operators.elementwise.tall import consensus
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import NOTHING_KEPT, Beside, Inputs, Memo
from evomerge.merging.operators.staged import staged
from evomerge.merging.operators.sums.breadcrumbs import breadcrumbs, breadcrumbs_ties
from evomerge.merging.operators.sums.dare import dare_linear, dare_ties, mixout
from evomerge.merging.operators.sums.della import della, della_linear
from evomerge.merging.operators.sums.fisher import fisher
from evomerge.merging.operators.sums.linear import (
    bcwi,
    linear,
    lora_linear,
    task_arithmetic,
)
from evomerge.merging.operators.sums.model_stock import model_stock
from evomerge.merging.operators.sums.sce import sce
from evomerge.merging.operators.sums.ties import ties
from evomerge.plugins import find

Merge = torch.Tensor | LazyMerge
"""A fresh fp32 tensor, or what it takes to write one anywhere."""

Arithmetic = Callable[[Inputs], Merge]
"""What an operator is: its inputs, with checked settings, to the merge."""

ARITHMETIC: Mapping[str, Arithmetic] = {
    "linear": linear,
    "lora_linear": lora_linear,
    "task_arithmetic": task_arithmetic,
    "model_stock": model_stock,
    "bcwi": bcwi,
    "fisher": fisher,
    "ties": ties,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "della_linear": della_linear,
    "mixout": mixout,
    "sce": sce,
    "magmax": magmax,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "pcb": pcb,
    "consensus": consensus,
    "emr": emr,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "tsv": tsv,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "knots": knots,
    "core_space": core_space,
    "wudi": wudi,
    "staged": staged,
}
"""Operator name to its arithmetic; holds exactly the names of the catalogue."""


def apply(
    operation: Operation,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
    **beside: Unpack[Beside],
) -> torch.Tensor:
    """Merge one tensor of every input.

    Args:
        operation: What to do, every knob decided or left at its default.
        tensors: One per entry of ``operation.inputs``, in that order; fp32, bf16 or
            fp16, all of one shape and on one device.
        base: The base's tensor, where the operation names a base.
        key: Name of the tensor in its source; random masks are drawn by it.
        memo: What is kept of these inputs from one candidate to the next.
        beside: What else :class:`Inputs` may hold.

    Returns:
        Same shape and device, fp32, owning its memory.

    Raises:
        RecipeError: The operation breaks the catalogue's rules, or the tensors are not
            the ones it names.
        CandidateError: The weights leave the result undefined, or are too large.
    """
    with _said_of(operation, key):
        merge = _decide(Inputs(resolve(operation), tensors, base, key, memo, **beside))
        return merge if isinstance(merge, torch.Tensor) else merge.fresh()


def apply_into(
    out: torch.Tensor,
    operation: Operation,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
    **beside: Unpack[Beside],
) -> bool:
    """Merge one tensor of every input and write it where it is wanted.

    As :func:`apply`, but without a tensor in between where one pass over the inputs is
    enough.

    Args:
        out: Of the inputs' shape; the result is rounded once to its type.
        operation: As for :func:`apply`, like what follows.
        tensors: One per entry of ``operation.inputs``.
        base: The base's tensor, where the operation names a base.
        key: Name of the tensor in its source.
        memo: What is kept of these inputs.
        beside: What else :class:`Inputs` may hold.

    Returns:
        Whether every number written is known to be finite; if not, look.
    """
    with _said_of(operation, key):
        merge = _decide(Inputs(resolve(operation), tensors, base, key, memo, **beside))
        if out.shape != tensors[0].shape:
            raise RecipeError(
                f"{key}: the inputs have shape {list(tensors[0].shape)}, but "
                f"{list(out.shape)} was expected. Merge models of one shape."
            )
        if not isinstance(merge, torch.Tensor):
            return merge.into(out)
        out.copy_(merge)
        return False


def _decide(inputs: Inputs) -> Merge:
    _check_tensors(inputs)
    name = inputs.operation.operator
    arithmetic = ARITHMETIC.get(name)
    if arithmetic is None:
        part: Any = find("operators", name)
        arithmetic = part.merge
    return arithmetic(inputs)


@contextmanager
def _said_of(operation: Operation, key: str) -> Iterator[None]:
    """Put what torch says of too large a factor in our words."""
    try:
        yield
    except RuntimeError as error:
        # torch's words for a factor beyond fp32; a smaller one would give infinity.
        if "without overflow" not in str(error):
            raise
        raise CandidateError(
            f"{key}: a weight of operator {operation.operator!r} is too large for "
            "float32, so the result would not be finite."
        ) from error


def _check_tensors(inputs: Inputs) -> None:
    operation, tensors = inputs.operation, inputs.tensors
    base, key = inputs.base, inputs.key
    if len(tensors) != len(operation.inputs):
        raise RecipeError(
            f"{key}: operator {operation.operator!r} names {len(operation.inputs)} "
            f"inputs {list(operation.inputs)}, but got {len(tensors)} tensors."
        )
    if (base is None) != (operation.base is None):
        raise RecipeError(
            f"{key}: operator {operation.operator!r} names the base "
            f"{operation.base!r}, but got {'no' if base is None else 'a'} base tensor."
        )
    first = tensors[0]
    for tensor in tensors if base is None else (*tensors, base):
        if tensor.shape != first.shape:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            wanted = "" if base is None else f" and base {tuple(base.shape)}"
            raise RecipeError(
                f"{key}: tensors of one shape are merged, but got {shapes}{wanted}."
            )
        if not tensor.is_floating_point():
            raise RecipeError(
                f"{key}: only floating-point tensors are merged, but got "
                f"{tensor.dtype}. Copy such a tensor from the base."
            )
