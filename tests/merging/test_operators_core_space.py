"""Merging in the core that the differences' bases span (A24)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.operations import operation

from evomerge.core.recipes.settings import resolve
from evomerge.merging.operators import ARITHMETIC, apply
from evomerge.merging.operators.directions.knots import core
from evomerge.merging.operators.directions.singular_vectors import Matrices
from evomerge.merging.operators.inputs import Inputs

INNER = pytest.mark.parametrize("inner", ["sum", "ties", "dare_ties", "tsv", "iso"])
WEIGHT = (0.25, 1.5, -0.5)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def adapters(ranks, seed=0):
    """Return factors (B, A) of differences of shape (12, 10)."""
    return [
        (randn(12, rank, seed=seed + i), randn(rank, 10, seed=seed + 50 + i))
        for i, rank in enumerate(ranks)
    ]


def matrices(deltas):
    operands = Inputs(resolve(operation("core_space", len(deltas))), deltas, None, "w")
    return Matrices(tuple(deltas), operands, (0.0,) * len(deltas))


def merge(deltas, **knobs):
    tensors = [delta.float() for delta in deltas]
    asked = operation("core_space", len(deltas), **knobs)
    return apply(asked, tensors, torch.zeros_like(tensors[0]), "w")


def assert_close(result, expected, tolerance=1e-5):
    expected = expected.to(result.dtype)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_nothing_is_lost_in_the_core(seed, ranks):
    deltas = [b @ a for b, a in adapters(ranks, seed)]
    found = core(matrices(deltas))
    for side in (found.left.T @ found.left, found.right @ found.right.T):
        eye = torch.eye(len(side), dtype=torch.float64)
        torch.testing.assert_close(side, eye, rtol=0, atol=1e-12)
    assert found.parts[0].shape == (min(sum(ranks), 12), min(sum(ranks), 10))
    for delta, part in zip(deltas, found.parts, strict=True):
        torch.testing.assert_close(found.back(part), delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 3, 2), (4, 1, 5)])
def test_a_plain_sum_in_the_core_is_a_plain_sum(ranks):
    deltas = [b @ a for b, a in adapters(ranks)]
    found = core(matrices(deltas))
    summed = found.back(sum(found.parts))
    torch.testing.assert_close(summed, sum(deltas), rtol=0, atol=5e-14)
    merged = merge(deltas, inner="sum", normalize=False, weight=WEIGHT)
    expected = sum(w * d for w, d in zip(WEIGHT, deltas, strict=True))
    assert_close(merged, expected, 1e-6)


@INNER
def test_the_factors_of_an_adapter_may_be_written_in_any_basis(inner):
    factors = adapters((2, 3, 2))
    deltas = [b @ a for b, a in factors]
    turned = []
    for i, (b, a) in enumerate(factors):
        gauge = randn(b.shape[1], b.shape[1], seed=90 + i)
        turned.append((b @ gauge) @ (torch.linalg.inv(gauge) @ a))
    knobs = {"inner": inner, "density": (0.5, 0.5, 0.5)}
    assert_close(merge(turned, **knobs), merge(deltas, **knobs), 1e-4)


@INNER
def test_a_rotation_on_either_side_rotates_the_result(inner):
    deltas = [b @ a for b, a in adapters((2, 3, 2))]
    left = torch.linalg.qr(randn(12, 12, seed=7)).Q
    right = torch.linalg.qr(randn(10, 10, seed=8)).Q
    merged = merge([left @ delta @ right for delta in deltas], inner=inner)
    # The signs of singular vectors may turn; they turn every input alike.
    assert_close(merged, left @ merge(deltas, inner=inner).double() @ right, 1e-4)


@pytest.mark.parametrize("inner", ["sum", "ties", "dare_ties"])
def test_equal_inputs_share_the_core_of_one(inner):
    delta = randn(12, 3) @ randn(3, 10, seed=1)
    assert_close(merge([delta] * 3, inner=inner, normalize=True), delta, 1e-5)


@INNER
def test_no_difference_gives_exactly_the_base(inner):
    base = randn(5, 4).float()
    merged = apply(operation("core_space", inner=inner), [base, base], base, "w")
    assert torch.equal(merged, base)


def test_vectors_get_the_weighted_sum():
    base, *tensors = (randn(7, seed=i).float() for i in range(3))
    knobs = {"weight": (0.3, 0.9), "lambda_": 0.5}
    expected = apply(
        operation("task_arithmetic", normalize=True, **knobs), tensors, base, "w"
    )
    merged = apply(operation("core_space", **knobs), tensors, base, "w")
    torch.testing.assert_close(merged, expected)


def test_a_memo_spares_the_next_candidate_the_bases():
    memo = CountingMemo()
    tensors = [randn(6, 5, seed=i).float() for i in range(2)]
    base = torch.zeros(6, 5)
    for weight in ((1.0, 0.5), (0.2, 0.9)):
        settled = resolve(operation("core_space", weight=weight))
        again = ARITHMETIC["core_space"](Inputs(settled, tensors, base, "w", memo))
        fresh = apply(operation("core_space", weight=weight), tensors, base, "w")
        assert torch.equal(again, fresh)
    assert memo.computed == [("core", "w", "base", "m1", "m2")]
