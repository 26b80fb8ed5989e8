import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.operations import operation

from evomerge.core.recipes.settings import resolve
from evomerge.core.roles import for_role
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators import ARITHMETIC, apply
from evomerge.merging.operators.directions.singular_vectors import Matrices
from evomerge.merging.operators.directions.wudi import Interference
from evomerge.merging.operators.inputs import Inputs


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem(deltas, shares=None, *, mean=False):
    operands = Inputs(resolve(operation("wudi", len(deltas))), deltas, None, "w")
    matrices = Matrices(tuple(deltas), operands, (0.0,) * len(deltas))
    shares = shares or [1 / len(deltas)] * len(deltas)
    return Interference.of(matrices, shares, mean=mean)


def merge(deltas, **knobs):
    tensors = [delta.float() for delta in deltas]
    asked = operation("wudi", len(deltas), **knobs)
    return apply(asked, tensors, torch.zeros_like(tensors[0]), "w")


def loss(at, deltas):
    return sum(
        float(((at.double() - d) @ d.T).square().sum() / d.square().sum())
        for d in deltas
    )


def assert_close(result, expected, tolerance=1e-5):
    expected = expected.to(result.dtype)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), rows=st.integers(1, 9))
def test_the_closed_form_solves_the_normal_equations(seed, n, rows):
    deltas = [randn(rows, 5, seed=seed + i) for i in range(n)]
    interference = problem(deltas)
    found = interference.closed(0.0)
    assert float(interference.slope(found).abs().max()) < 1e-11
    shifted = found + 1e-3 * randn(rows, 5, seed=seed + 9)
    assert loss(found, deltas) <= loss(shifted, deltas)


def test_the_gradient_at_the_closed_form_vanishes():
    deltas = [randn(4, 5, seed=i) for i in range(3)]
    at = problem(deltas).closed(0.0).requires_grad_()
    total = sum(((at - d) @ d.T).square().sum() / d.square().sum() for d in deltas)
    total.backward()
    assert float(at.grad.abs().max()) < 1e-12


def test_sum_mean_and_closed_form_come_in_this_order():
    deltas = [randn(4, 5, seed=i) for i in range(3)]
    summed, mean = sum(deltas), sum(deltas) / 3
    closed = merge(deltas, ridge=0.0)
    assert loss(closed, deltas) < loss(mean, deltas) < loss(summed, deltas)


@pytest.mark.parametrize(
    "knobs", [{"ridge": 0.0}, {"anchor": "mean"}, {"anchor": "mean", "ridge": 0.1}]
)
@pytest.mark.parametrize("shape", [(4, 5), (7, 3)])
def test_equal_inputs_give_their_difference(knobs, shape):
    delta = randn(*shape)
    assert_close(merge([delta] * 3, **knobs), delta)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1])
def test_inputs_with_orthogonal_rows_give_their_sum(ridge):
    turn, _ = torch.linalg.qr(randn(6, 6))
    a = randn(4, 3, seed=1) @ turn[:3]
    b = randn(4, 3, seed=2) @ turn[3:]
    assert_close(merge([a, b], ridge=ridge), a + b)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_a_small_ridge_comes_near_the_exact_solution(seed):
    deltas = [randn(8, 5, seed=seed + i) for i in range(3)]
    interference = problem(deltas)
    exact = interference.closed(0.0)
    far = [float((interference.closed(r) - exact).norm()) for r in (1e-6, 1e-3, 1e-1)]
    assert far[0] < far[1] < far[2]
    assert far[0] < 1e-3


@pytest.mark.parametrize("ridge", [1e-12, 1e-9, 1e-8])
def test_next_to_no_ridge_is_solved_too_where_inputs_say_little(ridge):
    deltas = [randn(2, 40, seed=i) for i in range(2)]  # rank 4 of 40
    interference = problem(deltas)
    found = interference.closed(ridge)
    assert float(interference.slope(found).abs().max()) < 1e-6
    assert_close(found, interference.closed(0.0), 1e-4)


def test_a_large_ridge_keeps_the_anchor():
    deltas = [randn(4, 5, seed=i) for i in range(3)]
    assert_close(merge(deltas, ridge=1e9), sum(deltas))
    assert_close(merge(deltas, ridge=1e9, anchor="mean"), sum(deltas) / 3)


def test_shares_draw_the_result_to_an_input():
    deltas = [randn(9, 5, seed=i) for i in range(2)]
    far = [
        float((merge(deltas, ridge=0.0, weight=(w, 1.0)) - deltas[0]).norm())
        for w in (0.1, 1.0, 10.0)
    ]
    assert far[0] > far[1] > far[2]
    assert_close(merge(deltas, ridge=0.0, weight=(2.0, 0.0)), deltas[0])
    assert_close(merge(deltas, weight=(2.0, 6.0)), merge(deltas, weight=(0.25, 0.75)))


def test_adam_takes_the_steps_of_torch():
    deltas = [randn(4, 5, seed=i) for i in range(3)]
    size = (sum(d.square().mean() for d in deltas) / 3).sqrt()
    units = [d / size for d in deltas]
    at = sum(units).clone().requires_grad_()
    optimizer = torch.optim.Adam([at], lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        total = sum(((at - d) @ d.T).square().sum() / d.square().sum() for d in units)
        total.backward()
        optimizer.step()
    found = problem(deltas).descend(50, 0.01)
    torch.testing.assert_close(found, at.detach() * size, rtol=0, atol=1e-10)


def test_adam_moves_an_entry_by_a_step_at_a_time_and_comes_down():
    deltas = [1e-3 * randn(4, 5, seed=i) for i in range(3)]
    rms = float((sum(d.square().mean() for d in deltas) / 3).sqrt())
    near = merge(deltas, solver="adam", steps=10)
    assert float((near - sum(deltas)).abs().max()) < 10 * 0.01 * rms * 1.05
    far = merge(deltas, solver="adam", steps=300)
    assert loss(far, deltas) < loss(near, deltas) < loss(sum(deltas), deltas)
    best = merge(deltas, ridge=0.0)
    assert loss(best, deltas) <= loss(far, deltas)
    settled = merge(deltas, solver="adam", steps=5000)
    assert loss(settled, deltas) < loss(best, deltas) * 1.001


@pytest.mark.parametrize(
    "knobs", [{"ridge": 0.0}, {"ridge": 1e-6}, {"solver": "adam", "steps": 10}]
)
def test_an_input_equal_to_the_base_takes_no_part(knobs):
    a, b, zero = randn(4, 5, seed=1), randn(4, 5, seed=2), torch.zeros(4, 5)
    assert_close(merge([a, b, zero], **knobs), merge([a, b], **knobs), 1e-4)


def test_no_lambda_gives_exactly_the_base():
    base, *tensors = (randn(4, 5, seed=i).float() for i in range(4))
    asked = operation("wudi", 3, lambda_=0.0)
    assert torch.equal(apply(asked, tensors, base, "w"), base)


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(CandidateError, match=r"w: the weights .* of wudi sum to zero"):
        merge([randn(4, 5)] * 2, weight=(0.0, 0.0))
    with pytest.raises(RecipeError, match=r"'weight' of 'wudi' must be .* at least 0"):
        merge([randn(4, 5)] * 2, weight=(1.0, -0.5))


def test_norms_get_the_mean_difference_with_the_same_shares():
    asked = operation("wudi", 2, weight=(1.0, 3.0), lambda_=0.5)
    base, a, b = (randn(7, seed=i).float() for i in range(3))
    expected = base + 0.5 * (0.25 * (a - base) + 0.75 * (b - base))
    assert_close(apply(for_role(asked, "norm"), [a, b], base, "w"), expected, 1e-6)
    assert_close(apply(asked, [a, b], base, "w"), expected, 1e-6)


def test_a_memo_spares_the_next_candidate_the_products_of_an_input():
    memo = CountingMemo()
    base, *tensors = (randn(4, 5, seed=i).float() for i in range(3))
    for ridge in (1e-3, 1e-2):
        asked = operation("wudi", ridge=ridge, weight=(ridge, 1.0))
        merged = ARITHMETIC["wudi"](Inputs(resolve(asked), tensors, base, "w", memo))
        assert torch.equal(merged, apply(asked, tensors, base, "w"))
    assert memo.computed == [
        ("interference", "w", "base", name) for name in ("m1", "m2")
    ]
