"""Laws of merges in stages and in a core space, each where it is claimed."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merging.operators import apply
from evomerge.testing.operations import dyadic, experts, operation, permuted
from evomerge.testing.operator_checks import (
    check_narrow_inputs,
    check_threads_and_layout,
)

# Hundreds of merges: each fast, together not.
pytestmark = pytest.mark.slow

SHAPES = st.sampled_from([(), (1,), (7,), (4, 6), (3, 5, 2), (2, 1, 9)])
SEEDS = st.integers(0, 2**16)
few = settings(max_examples=4)

DENSITY = (0.3, 0.6, 1.0)
WEIGHT = (0.25, 0.5, -0.5)
ROWS = {
    "sum": {"weight": WEIGHT},
    "trimmed": {"sparsify": "magnitude", "density": DENSITY, "consensus": "count_sign"},
    "masked": {"sparsify": "bernoulli", "density": DENSITY, "reduce": "mean"},
    "ranked": {"sparsify": "rank_bernoulli", "density": DENSITY, "reduce": "max"},
    "middle": {
        "sparsify": "two_sided",
        "density": DENSITY,
        "rescale": "l1",
        "consensus": "sum_sign",
        "reduce": "max",
    },
    "varied": {"sparsify": "variance", "select_topk": 0.5, "reduce": "energy"},
    "used": {"sparsify": "tall", "consensus": "mean_sign", "reduce": "mean"},
    "draws": {"consensus": "mean_sign", "zero_rule": "minus", "weight": WEIGHT},
    "flat": {"post": "flat", "consensus": "sum_sign"},
    "svd": {"basis": "svd", "consensus": "sum_sign", "reduce": "mean"},
    "core": {"basis": "core", "reduce": "max", "post": "flat"},
}
VARIANTS = [
    *(pytest.param("staged", knobs, id=f"staged-{row}") for row, knobs in ROWS.items()),
    *(
        pytest.param("core_space", {"inner": inner, "weight": WEIGHT}, id=inner)
        for inner in ("sum", "ties", "dare_ties", "tsv", "iso")
    ),
]
EVERY = pytest.mark.parametrize(("name", "knobs"), VARIANTS)


def without(*rows):
    return [v for v in VARIANTS if v.id not in rows]


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def normal(shape, seed):
    """As experts, but no two differences are equal in size."""
    generator = torch.Generator().manual_seed(seed)
    base, *tensors = (torch.randn(shape, generator=generator) for _ in range(4))
    return [base + 0.25 * tensor for tensor in tensors], base


SELF = [
    ("staged", {"weight": (0.25, 0.5, 0.25)}),
    *(
        ("staged", {"reduce": reduce, "consensus": consensus, "basis": basis})
        for reduce in ("mean", "max", "energy")
        for consensus in ("none", "sum_sign")
        for basis in ("none", "core")
        if (reduce, basis) != ("max", "core") or consensus == "none"
    ),
    ("core_space", {"inner": "ties"}),
    ("core_space", {"inner": "sum"}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "knobs"), SELF)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_equal_experts_give_themselves(name, knobs, dtype, shape, seed):
    expert = dyadic(shape, seed).to(dtype)
    base = (expert.float() * (1 + 0.1 * dyadic(shape, seed + 1))).to(dtype)
    merged = apply(operation(name, 3, **knobs), [expert] * 3, base, "w")
    if dtype is torch.bfloat16:
        assert torch.equal(merged.to(dtype), expert)
    else:
        assert_close(merged, expert, 1e-6)


@EVERY
@few
@given(shape=SHAPES, seed=SEEDS)
def test_experts_equal_to_the_base_give_the_base(name, knobs, shape, seed):
    base = dyadic(shape, seed)
    assert torch.equal(apply(operation(name, 3, **knobs), [base] * 3, base, "w"), base)


@EVERY
@few
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_experts_changes_nothing(name, knobs, shape, seed):
    merge = operation(name, 3, **knobs)
    tensors, base = normal(shape, seed)
    expected = apply(merge, tensors, base, "w")
    for order in itertools.permutations(range(3)):
        shuffled = [tensors[i] for i in order]
        assert_close(apply(permuted(merge, order), shuffled, base, "w"), expected)


@EVERY
@few
@given(shape=SHAPES, seed=SEEDS)
def test_no_lambda_gives_exactly_the_base(name, knobs, shape, seed):
    merge = operation(name, 3, **knobs, lambda_=0.0)
    tensors, base = experts(merge, shape, seed)
    assert torch.equal(apply(merge, tensors, base, "w"), base)


@EVERY
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_shift_of_everything_shifts_the_result(name, knobs, shape, seed):
    merge = operation(name, 3, **knobs)
    tensors, base = experts(merge, shape, seed)
    shift = dyadic(shape, seed + 9)
    moved = apply(merge, [tensor + shift for tensor in tensors], base + shift, "w")
    assert_close(moved, apply(merge, tensors, base, "w") + shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EVERY
@few
@given(shape=SHAPES, seed=SEEDS)
def test_scale_twice_the_inputs_give_exactly_twice_the_result(
    name, knobs, dtype, shape, seed
):
    merge = operation(name, 3, **knobs)
    tensors, base = experts(merge, shape, seed)
    tensors, base = [tensor.to(dtype) for tensor in tensors], base.to(dtype)
    merged = apply(merge, tensors, base, "w")
    doubled = apply(merge, [2 * tensor for tensor in tensors], 2 * base, "w")
    assert torch.equal(doubled, 2 * merged)


@pytest.mark.parametrize("chosen", range(3))
@pytest.mark.parametrize("basis", ["none", "svd", "core"])
@few
@given(shape=SHAPES, seed=SEEDS)
def test_end_all_weight_on_one_expert_gives_that_expert(basis, chosen, shape, seed):
    weight = tuple(float(i == chosen) for i in range(3))
    merge = operation("staged", 3, basis=basis, weight=weight)
    tensors, base = experts(merge, shape, seed)
    assert_close(apply(merge, tensors, base, "w"), tensors[chosen], 1e-6)


@pytest.mark.parametrize(
    ("name", "knobs"), without("staged-masked", "staged-ranked", "dare_ties")
)
@few
@given(seed=SEEDS)
def test_axis_permuted_neurons_give_the_permuted_result(name, knobs, seed):
    merge = operation(name, 3, **knobs)
    tensors, base = normal((6, 8), seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    moved = apply(merge, [tensor[order] for tensor in tensors], base[order], "w")
    assert_close(moved, apply(merge, tensors, base, "w")[order])


@EVERY
def test_threads_and_memory_layout_do_not_change_a_byte(name, knobs):
    merge = operation(name, 3, **knobs)
    tensors, base = normal((80, 501), 0)
    assert check_threads_and_layout(merge, tensors, base).shape == (80, 501)


@EVERY
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_tensor_stays_empty(name, knobs, shape):
    merge = operation(name, 3, **knobs)
    tensors, base = experts(merge, shape, 0)
    assert apply(merge, tensors, base, "w").shape == shape


@EVERY
def test_one_input_without_difference_does_no_harm(name, knobs):
    tensors, base = normal((6, 9), 2)
    merged = apply(
        operation(name, 3, **knobs), [tensors[0], base, tensors[2]], base, "w"
    )
    assert torch.isfinite(merged).all()


@EVERY
def test_half_precision_differences_are_formed_in_full_precision(name, knobs):
    merge = operation(name, 3, **knobs)
    tensors, base = experts(merge, (6, 9), 4)
    assert check_narrow_inputs(merge, tensors, base).shape == (6, 9)
