import itertools
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.operations import dyadic, operation

from evomerge.core.operators import CATALOGUE
from evomerge.core.roles import for_role
from evomerge.errors import CandidateError
from evomerge.merging.operators import apply
from evomerge.merging.operators.directions.spherical import dot_products
from evomerge.merging.operators.loops.blocks import Deltas

EYE = torch.eye(3)
AXES = list(EYE)
BOTH = pytest.mark.parametrize("name", ["multislerp", "karcher"])


def merge(name, tensors, base=None, **knobs):
    asked = operation(name, len(tensors), base=base is not None, **knobs)
    return apply(asked, tensors, base, "w")


def assert_close(result, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts(n, shape=(6, 9), first=1, scale=1.0):
    return [scale * randn(*shape, seed=first + i) for i in range(n)]


def test_multislerp_of_three_axes():
    merged = merge("multislerp", AXES, weight=(0.6, 0.3, 0.1))
    assert_close(merged, [0.884652, 0.442326, 0.147442])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ((1.0, 1.0, 1.0), [0.57735, 0.57735, 0.57735]),
        ((0.6, 0.3, 0.1), [0.850651, 0.490474, 0.18928]),
    ],
)
def test_karcher_mean_of_three_axes(weight, expected):
    assert_close(merge("karcher", AXES, weight=weight), expected)


def test_karcher_mean_of_two_is_slerp_at_the_second_share():
    merged = merge("karcher", [2 * EYE[0], EYE[1]], weight=(0.75, 0.25))
    assert_close(merged, [1.616789, 0.669696, 0.0])
    a, b = (x / x.norm() for x in experts(2))
    for t in (0.1, 0.5, 0.9):
        slerp = apply(operation("slerp", t=t), [a, b], None, "w")
        assert_close(merge("karcher", [a, b], weight=(1 - t, t)), slerp)


def test_multislerp_of_two_equal_shares_is_slerp_at_the_middle():
    a, b = (x / x.norm() for x in experts(2))
    middle = apply(operation("slerp", t=0.5), [a, b], None, "w")
    assert_close(merge("multislerp", [a, b]), middle)


@BOTH
def test_nearly_parallel_inputs_give_their_average(name):
    start = randn(40, 50)
    tensors = [start + 1e-4 * x for x in experts(3, (40, 50))]
    weight = (0.5, 0.3, 0.2)
    average = apply(operation("linear", 3, weight=weight), tensors, None, "w")
    assert_close(merge(name, tensors, weight=weight), average, 1e-6)


@BOTH
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_only_the_ratio_of_the_shares_matters(name, scale):
    tensors = experts(3)
    weight = (0.5, 0.3, 0.2)
    more = tuple(scale * w for w in weight)
    assert_close(merge(name, tensors, weight=more), merge(name, tensors, weight=weight))


def test_multislerp_without_normalize_keeps_the_scale_of_the_weights():
    tensors = experts(3)
    weight = (0.5, 0.3, 0.2)
    twice = merge("multislerp", tensors, weight=(1.0, 0.6, 0.4), normalize=False)
    assert_close(twice, 2 * merge("multislerp", tensors, weight=weight))


@BOTH
def test_with_a_base_the_differences_are_turned(name):
    base, tensors = randn(6, 9, seed=99), experts(3)
    turned = merge(name, [x - base for x in tensors], weight=(0.5, 0.3, 0.2))
    assert_close(merge(name, tensors, base, weight=(0.5, 0.3, 0.2)), base + turned)


@BOTH
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_a_rotation_of_the_inputs_rotates_the_result(name, seed):
    rotation, _ = torch.linalg.qr(randn(6, 6, seed=seed).double())
    tensors = [dyadic((6, 4), seed + i) for i in range(1, 4)]
    weight = (0.5, 0.3, 0.2)
    turned = [(rotation @ x.double()).float() for x in tensors]
    merged = merge(name, tensors, weight=weight)
    assert_close(
        merge(name, turned, weight=weight), (rotation @ merged.double()).float()
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), n=st.integers(2, 6))
def test_at_the_karcher_mean_the_ways_to_the_inputs_balance(seed, n):
    rng = torch.Generator().manual_seed(seed)
    shares = torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    shares /= shares.sum()
    tensors = [dyadic((50,), seed + i) + 0.5 for i in range(n)]
    merged = merge("karcher", tensors, weight=tuple(shares.tolist())).double()
    at = merged / merged.norm()
    balance = torch.zeros_like(at)
    for share, tensor in zip(shares, tensors, strict=True):
        unit = tensor.double() / tensor.double().norm()
        cosine = (unit @ at).clamp(-1, 1)
        away = unit - cosine * at
        balance += share * torch.arccos(cosine) * away / away.norm()
    assert float(balance.norm()) < 1e-6
    length = sum(s * float(x.norm()) for s, x in zip(shares, tensors, strict=True))
    assert float(merged.norm()) == pytest.approx(float(length), rel=1e-6)


def test_log_map_goes_one_step_from_multislerp_towards_the_karcher_mean():
    weight = (0.6, 0.3, 0.1)
    plain = merge("multislerp", AXES, weight=weight)
    stepped = merge("multislerp", AXES, weight=weight, log_map=True)
    mean = merge("karcher", AXES, weight=weight)
    assert_close(stepped, merge("karcher", AXES, weight=weight, max_iter=1))
    assert float((stepped - mean).norm()) < 0.5 * float((plain - mean).norm())


@BOTH
def test_an_input_without_length_gives_no_direction(name):
    a, b, zero = *experts(2), torch.zeros(6, 9)
    merged = merge(name, [a, b, zero])
    pair = merge(name, [a, b])
    # Multi-SLERP averages its length in; the Karcher mean leaves the input out.
    assert_close(merged, pair * (2 / 3 if name == "multislerp" else 1.0))


@BOTH
@pytest.mark.parametrize("based", [False, True])
def test_inputs_that_are_all_zero_give_zero_or_the_base(name, based):
    base = randn(6, 9) if based else None
    zero = torch.zeros(6, 9) if base is None else base
    assert torch.equal(merge(name, [zero] * 3, base), zero)


@BOTH
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_number_is_averaged(name, shape):
    tensors = [torch.full(shape, x) for x in (1.0, -2.0, 5.0)]
    assert_close(merge(name, tensors, weight=(0.2, 0.3, 0.5)), torch.full(shape, 2.1))
    base = torch.full(shape, 4.0)
    assert_close(
        merge(name, tensors, base, weight=(0.2, 0.3, 0.5)), torch.full(shape, 2.1)
    )


@BOTH
def test_one_input_is_itself(name):
    (a,) = experts(1)
    assert_close(merge(name, [a]), a)


def test_two_balanced_opposite_inputs_of_multislerp_are_averaged():
    a = experts(1)[0]
    assert_close(merge("multislerp", [a, -a]), torch.zeros(6, 9))
    assert_close(merge("multislerp", [4 * a, -a]), 1.5 * a)


def test_more_directions_that_cancel_are_refused():
    a, b = experts(2)
    with pytest.raises(CandidateError, match=r"w: .*'m1', 'm2', 'm3', 'm4'.*cancel"):
        merge("multislerp", [a, -a, b, -b])


@pytest.mark.parametrize("others", [0, 2])
def test_antipodal_inputs_have_no_karcher_mean(others):
    a, *rest = experts(1 + others)
    with pytest.raises(CandidateError, match=r"w: inputs 'm1' and 'm2' point in opp"):
        merge("karcher", [a, -2 * a, *rest])


def test_an_antipodal_input_of_no_weight_does_not_matter():
    a, b = experts(2)
    expected = merge("karcher", [a, b], weight=(0.6, 0.4))
    assert_close(merge("karcher", [a, -a, b], weight=(0.6, 0.0, 0.4)), expected)


def test_a_karcher_mean_that_does_not_settle_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        merged = merge("karcher", AXES, weight=(0.6, 0.3, 0.1), max_iter=2)
    assert "w: the Karcher mean did not settle within 2 iterations" in caplog.text
    assert float(merged.norm()) == pytest.approx(1.0)
    caplog.clear()
    merge("karcher", AXES, weight=(0.6, 0.3, 0.1))
    assert not caplog.text


@BOTH
def test_shares_that_sum_to_zero_are_refused(name):
    for weight in ((0.5, -0.5), (0.0, 0.0)):
        with pytest.raises(CandidateError, match=r"w: the weights .* sum to zero"):
            merge(name, experts(2), weight=weight)


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_named(name, bad):
    a, b = experts(2)
    b[3, 3] = bad
    with pytest.raises(CandidateError, match=r"w: input 'm2' .* is not finite"):
        merge(name, [a, b])


def test_norms_are_averaged_with_the_same_shares():
    asked = operation("karcher", 3, weight=(1.0, 2.0, 1.0))
    linear = for_role(asked, "norm")
    gains = experts(3, (9,))
    expected = 0.25 * gains[0] + 0.5 * gains[1] + 0.25 * gains[2]
    assert_close(apply(linear, gains, None, "norm"), expected)


def test_dot_products_are_exact_and_do_not_depend_on_the_blocks():
    tensors = [randn(100_003, seed=i) for i in range(3)]
    products = dot_products(Deltas(tensors, None))
    for i, j in itertools.product(range(3), repeat=2):
        exact = float(tensors[i].double() @ tensors[j].double())
        assert float(products[i, j]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_a_memo_spares_the_next_candidate_the_angles(name):
    memo = CountingMemo()
    tensors, knobs = experts(2), CATALOGUE[name].knobs
    for t in (0.25, 0.5):
        given = {"t": t} if knobs[0].name == "t" else {"weight": (1.0, t)}
        asked = operation(name, **given)
        merged = apply(asked, tensors, None, "w", memo)
        assert torch.equal(merged, apply(asked, tensors, None, "w"))
    assert memo.computed == [("dot products", "w", None, "m1", "m2")]
