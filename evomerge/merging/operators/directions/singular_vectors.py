"""Singular vectors of differences, for the operators that merge matrix by matrix.

Decompositions run in fp64 (fp32 beyond 8192 x 8192) and on one thread, one at a time:
with another number of threads the same library sums in another order, and a merge must
have the same bytes wherever it runs. Singular values up to 1e-10 of the largest count
as zero, and so do those that rounding the weights to fp32 explains: their vectors are
arbitrary, and would turn those that matter.

Signs are fixed, so a decomposition is one value. Where singular values are equal, their
vectors are any basis of one space; then another device may give another basis, and what
truncates or merges entry by entry within it may differ.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from evomerge.core.operators.derived import SVD, Derived
from evomerge.core.recipes.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import NOTHING_KEPT, Inputs, Value
from evomerge.merging.operators.sums.linear import weighted

FLOOR = 1e-10
"""Part of the largest singular value up to which one counts as zero."""
_ROUNDING = 2.0**-22
"""Four times half a unit in the last place of fp32: entries of random rounding errors
are below it, and a few of them added up."""
_FAINT = 1e-12
"""Part of the largest entry of a merged difference up to which one is rounding."""
_WIDEST = 8192**2
"""Elements of the largest matrix worked on in fp64."""

_ALONE = threading.RLock()


@dataclass(frozen=True, slots=True)
class Svd:
    """Singular triplets, largest first; those that count as zero are left out.

    Attributes:
        left: Shape ``(rows, r)``: orthonormal columns.
        values: Shape ``(r,)``, positive.
        right: Shape ``(r, columns)``: orthonormal rows.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def top(self, n: int) -> Svd:
        """Return the ``n`` leading triplets, or all there are."""
        return Svd(self.left[:, :n], self.values[:n], self.right[:n])


@dataclass(frozen=True, slots=True)
class Matrices:
    """One matrix of every input: its difference from the base.

    Attributes:
        deltas: Each of shape ``(rows, columns)``, fp64 or fp32; never write to them.
        inputs: Whose they are; the key tells which matrix of a stack of them.
        noise: Of each difference: singular values that rounding may explain.
    """

    deltas: tuple[torch.Tensor, ...]
    inputs: Inputs
    noise: tuple[float, ...]

    @property
    def key(self) -> str:
        """Name of the tensor, and which matrix of a stack of them, for messages."""
        return self.inputs.key

    @property
    def everyone(self) -> Sequence[int]:
        """The places of all inputs."""
        return range(len(self.deltas))

    @property
    def smaller_side(self) -> int:
        """The largest rank there can be."""
        return min(self.deltas[0].shape)

    def of(self, parts: tuple[torch.Tensor, ...]) -> Matrices:
        """Return what the same inputs are in another basis, with nothing kept."""
        inputs = replace(self.inputs, memo=NOTHING_KEPT)
        return replace(self, deltas=parts, inputs=inputs)

    def recall(
        self, kind: Derived, which: Sequence[int], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept of some inputs' matrices, else compute, and keep it."""
        return self.inputs.recall(kind, which, compute)

    def svd(self, index: int) -> Svd:
        """Decompose one difference, once for all candidates."""
        return self.recall(
            SVD,
            (index,),
            lambda: svd(self.deltas[index], self.key, noise=self.noise[index]),
        )

    def total_svd(self, factors: Sequence[float]) -> Svd:
        """Decompose the sum of the differences times their factors."""
        noise = zip(self.noise, factors, strict=True)
        return svd(
            self.total(factors),
            self.key,
            noise=sum(size * abs(factor) for size, factor in noise),
        )

    def total(self, factors: Sequence[float]) -> torch.Tensor:
        """Return the sum of the differences times their factors; fresh."""
        total = self.deltas[0] * factors[0]
        for delta, factor in zip(self.deltas[1:], factors[1:], strict=True):
            total.add_(delta, alpha=factor)
        return total


Merge = Callable[[Matrices], torch.Tensor]
"""Merges one matrix of every input into the difference of the result."""


def by_matrix(inputs: Inputs, merge: Merge) -> torch.Tensor:
    """Return ``base + lambda * merge(differences)``, one matrix at a time; fp32.

    A tensor of more than two dimensions is a stack of matrices.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    base, scale = inputs.base, inputs.settings.number("lambda")
    assert base is not None
    rows, columns = base.shape[-2:]
    stacks = [tensor.reshape(-1, rows, columns) for tensor in inputs.tensors]
    start = base.reshape(-1, rows, columns)
    out = torch.empty(start.shape, dtype=torch.float32, device=base.device)
    dtype = torch.float64 if rows * columns <= _WIDEST else torch.float32
    for place in range(len(start)):
        key = inputs.key if base.dim() == 2 else f"{inputs.key}[{place}]"
        # Contiguous, because products of transposed memory round in another way.
        below = start[place].to(dtype).contiguous()
        deltas = tuple(stack[place].to(dtype).contiguous() - below for stack in stacks)
        for source, delta in zip(inputs.operation.inputs, deltas, strict=True):
            _check_finite(delta, source, key)
        with _alone():
            noise = tuple(_noise(stack[place], below) for stack in stacks)
            matrices = Matrices(deltas, replace(inputs, key=key), noise)
            merged = _without_rounding(merge(matrices))
            out[place] = below.add_(merged, alpha=scale)
    return out.reshape(base.shape)


def _without_rounding(merged: torch.Tensor) -> torch.Tensor:
    """Return a merged difference without what only rounding in fp64 left in it.

    A weight that is zero everywhere stays one, though it went to a basis and back.
    """
    sizes = merged.abs()
    return merged.masked_fill(sizes <= _FAINT * sizes.amax(), 0.0)


def in_fp32(
    merge: Callable[[Inputs], torch.Tensor | LazyMerge],
    settings: Settings,
    matrices: Matrices,
) -> torch.Tensor:
    """Merge differences by an operator that takes fp32, as ones from a base of zero.

    Args:
        merge: The operator.
        settings: Its settings.
        matrices: The differences.

    Returns:
        In the differences' own precision.
    """
    narrow = [delta.to(torch.float32) for delta in matrices.deltas]
    base = torch.zeros_like(narrow[0])
    inputs = replace(matrices.inputs, settings=settings, tensors=narrow, base=base)
    merged = merge(replace(inputs, memo=NOTHING_KEPT))
    merged = merged if isinstance(merged, torch.Tensor) else merged.fresh()
    return merged.to(matrices.deltas[0].dtype)


def is_matrix(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is a matrix, or a stack of them, with anything in it."""
    return tensor.dim() >= 2 and tensor.numel() > 0


def mean_delta(inputs: Inputs, weights: Sequence[float]) -> torch.Tensor:
    """Return ``base + lambda * mean(w_i delta_i)``: what vectors get instead."""
    scale = inputs.settings.number("lambda") / len(weights)
    factors = tuple(scale * weight for weight in weights)
    return weighted(inputs, factors).fresh()


def svd(
    matrix: torch.Tensor, key: str, *, floor: float = FLOOR, noise: float = 0.0
) -> Svd:
    """Decompose a matrix; the largest entry of each left vector is positive.

    Args:
        matrix: Shape ``(rows, columns)``, finite, fp64 or fp32.
        key: Name of the tensor, for messages.
        floor: Singular values up to this part of the largest one are left out.
        noise: And so are those up to this size.

    Raises:
        CandidateError: The decomposition does not converge.
    """
    with _alone():
        try:
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise CandidateError(
                f"{key}: the singular value decomposition of a matrix of shape "
                f"{list(matrix.shape)} did not converge ({error})."
            ) from error
    # In fp32 the errors of the decomposition itself are above the floor.
    floor = max(floor, torch.finfo(values.dtype).eps * math.sqrt(max(matrix.shape)))
    rank = int((values > max(floor * float(values[0]), noise)).sum())
    found = Svd(left, values, right).top(rank)
    sign = torch.sign(found.left.gather(0, found.left.abs().argmax(0, keepdim=True)))
    return Svd(found.left * sign, found.values, found.right * sign.T)


def polar(matrix: torch.Tensor, key: str) -> torch.Tensor:
    """Return the nearest matrix whose singular values are all one, or zero.

    Directions that count as zero stay zero instead of being filled arbitrarily.
    """
    if matrix.numel() == 0:
        return matrix
    found = svd(matrix, key)
    return found.left @ found.right


def _noise(tensor: torch.Tensor, base: torch.Tensor) -> float:
    """Return the largest singular value that rounding both to fp32 is likely to make.

    That of a random matrix is its entries' size times the roots of both sides' sum.
    """
    rows, columns = base.shape
    size = float(tensor.to(base.dtype).norm()) + float(base.norm())
    sides = math.sqrt(rows) + math.sqrt(columns)
    return _ROUNDING * size / math.sqrt(rows * columns) * sides


def _check_finite(delta: torch.Tensor, source: str, key: str) -> None:
    if not bool(torch.isfinite(delta).all()):
        raise CandidateError(
            f"{key}: input {source!r} (or the base) is not finite, so it has no "
            "singular vectors. Leave that input out, or repair it."
        )


@contextmanager
def _alone() -> Iterator[None]:
    """Let linear algebra run on one thread, and nobody else meanwhile."""
    with _ALONE:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
