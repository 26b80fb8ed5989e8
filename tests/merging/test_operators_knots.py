import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.operations import operation

from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.operators import ARITHMETIC, apply
from evomerge.merging.operators.directions.knots import share
from evomerge.merging.operators.directions.singular_vectors import Matrices
from evomerge.merging.operators.inputs import Inputs

JOINS = pytest.mark.parametrize("join", ["in", "out"])
INNER = pytest.mark.parametrize("inner", ["sum", "ties", "dare_ties", "tsv", "iso"])


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrices(deltas):
    operands = Inputs(resolve(operation("knots", len(deltas))), deltas, None, "w")
    return Matrices(tuple(deltas), operands, (0.0,) * len(deltas))


def merge(deltas, name="knots", **knobs):
    tensors = [delta.float() for delta in deltas]
    asked = operation(name, len(deltas), **knobs)
    return apply(asked, tensors, torch.zeros_like(tensors[0]), "w")


def assert_close(result, expected, tolerance=1e-5):
    expected = expected.to(result.dtype)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def low_rank(seed, rank=2):
    return randn(12, rank, seed=seed), randn(rank, 10, seed=seed + 50)


@pytest.mark.parametrize("turned", [False, True])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 8), n=st.integers(1, 3))
def test_the_shared_basis_is_orthonormal_and_holds_every_difference(
    turned, seed, rows, n
):
    deltas = [randn(rows, 5, seed=seed + i) for i in range(n)]
    found = share(matrices(deltas), turned=turned)
    rank = found.left.shape[1]
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(found.left.T @ found.left, eye, rtol=0, atol=1e-12)
    for delta, part in zip(deltas, found.parts, strict=True):
        rebuilt = found.left @ part
        wanted = delta.T if turned else delta
        torch.testing.assert_close(rebuilt, wanted, rtol=0, atol=5e-14)


@JOINS
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_a_plain_sum_in_the_basis_is_a_plain_sum(join, seed):
    deltas = [randn(6, 9, seed=seed + i) for i in range(3)]
    merged = merge(
        deltas, inner="sum", join=join, normalize=False, weight=(1.0, -0.5, 2.0)
    )
    expected = deltas[0] - 0.5 * deltas[1] + 2 * deltas[2]
    assert_close(merged, expected, 1e-6)


@JOINS
def test_shared_directions_that_no_input_has_are_left_out(join):
    deltas = [torch.matmul(*low_rank(seed)).float().double() for seed in (1, 2, 3)]
    found = share(matrices(deltas), turned=join == "out")
    assert found.left.shape[1] == 6
    merged = merge(deltas, inner="sum", join=join, normalize=False)
    assert_close(merged, sum(deltas), 1e-5)


@INNER
@JOINS
def test_equal_inputs_share_the_basis_of_one(inner, join):
    delta = torch.matmul(*low_rank(1, 4))
    knobs = {"rank_frac": 1.0} if inner == "tsv" else {}
    merged = merge([delta] * 2, inner=inner, join=join, **knobs)
    if inner == "iso":  # levels what the inputs have: four directions
        values = torch.linalg.svdvals(merged.double())
        assert_close(values[:4], values[0].expand(4))
        assert float(values[4:].max()) < 1e-4
    else:
        assert_close(merged, delta)


def test_ties_elects_and_averages_along_the_shared_directions():
    turn, _ = torch.linalg.qr(randn(4, 4))
    parts = [
        torch.tensor([[8.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[4.0, 0.0], [0.0, -3.0], [0.0, 0.0], [0.0, 0.0]]),
    ]
    deltas = [turn @ part.double() for part in parts]
    expected = turn @ torch.diag_embed(torch.tensor([6.0, -3.0])).double().new_tensor(
        [[6.0, 0.0], [0.0, -3.0], [0.0, 0.0], [0.0, 0.0]]
    )
    assert_close(merge(deltas), expected)
    # Where every second entry goes, each input keeps its large direction alone.
    trimmed = merge(deltas, density=(0.25, 0.25))
    assert_close(
        trimmed, turn @ parts[0].new_tensor([[6, 0], [0, 0], [0, 0], [0, 0]]).double()
    )


@INNER
@JOINS
def test_the_factors_of_an_adapter_may_be_written_in_any_basis(inner, join):
    pairs = [low_rank(seed) for seed in (1, 2)]
    gauges = [randn(2, 2, seed=seed) for seed in (3, 4)]
    plain = [b @ a for b, a in pairs]
    turned = [
        (b @ g) @ torch.linalg.solve(g, a)
        for (b, a), g in zip(pairs, gauges, strict=True)
    ]
    knobs = {"inner": inner, "join": join, "density": (0.5, 0.5)}
    assert_close(merge(turned, **knobs), merge(plain, **knobs), 1e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_a_rotation_of_the_outputs_rotates_the_result(seed):
    turn, _ = torch.linalg.qr(randn(6, 6, seed=seed))
    deltas = [randn(6, 9, seed=seed + i) for i in (1, 2)]
    turned = merge([turn @ delta for delta in deltas], density=(0.5, 0.5))
    expected = turn @ merge(deltas, density=(0.5, 0.5)).double()
    # A rounding may swap two entries at the edge of the trim; hardly any do.
    off = (turned.double() - expected).norm() / expected.norm()
    assert float(off) < 1e-4


def test_inner_tsv_is_tsv_with_the_ranks_of_the_basis():
    deltas = [randn(6, 9, seed=i) for i in (1, 2)]
    assert_close(merge(deltas, inner="tsv"), merge(deltas, "tsv"))


def test_masks_follow_the_seed():
    deltas = [randn(6, 9, seed=i) for i in (1, 2)]
    knobs = {"inner": "dare_ties", "density": (0.5, 0.5)}
    first, again, other = (merge(deltas, seed=s, **knobs) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@INNER
def test_no_difference_gives_exactly_the_base(inner):
    base = randn(4, 5).float()
    asked = operation("knots", 2, inner=inner)
    assert torch.equal(apply(asked, [base, base], base, "w"), base)


def test_knobs_of_the_inner_method_are_checked():
    with pytest.raises(RecipeError, match="'inner' of 'knots' must be one of 'sum'"):
        merge([randn(4, 5)] * 2, inner="slerp")
    with pytest.raises(RecipeError, match="'density' of 'knots' must be"):
        merge([randn(4, 5)] * 2, density=(0.5, 2.0))


def test_a_memo_spares_the_next_candidate_the_basis():
    memo = CountingMemo()
    base, *tensors = (randn(6, 5, seed=i).float() for i in range(3))
    for inner in ("sum", "ties"):
        asked = operation("knots", inner=inner)
        merged = ARITHMETIC["knots"](Inputs(resolve(asked), tensors, base, "w", memo))
        assert torch.equal(merged, apply(asked, tensors, base, "w"))
    assert memo.computed == [("shared basis False", "w", "base", "m1", "m2")]
