"""Laws that merge operators keep, each for the operators that claim it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.core.recipe import Operation
from evomerge.merging.operators import apply
from evomerge.testing.operations import dyadic, operation
from evomerge.testing.operator_checks import (
    check_narrow_inputs,
    check_threads_and_layout,
)

# Hundreds of merges: each fast, together not.
pytestmark = pytest.mark.slow

SHAPES = st.sampled_from([(), (1,), (7,), (4, 6), (3, 5, 2), (2, 1, 9)])
SEEDS = st.integers(0, 2**16)
ONE = (1.0,)
few = settings(max_examples=8)  # each law is tried on many operators

SPECTRAL = ("tsv", "iso_c", "iso_cts")
DELTA_METHODS = (
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    *SPECTRAL,
    "knots",
)
KNOBS = {
    "linear": {"weight": (0.2, 0.5, 0.3)},
    "task_arithmetic": {"weight": (0.25, 0.5, -0.5), "lambda_": 0.75},
    "ties": {"weight": (0.25, 0.5, 1.0), "density": (0.3, 0.6, 1.0), "lambda_": 0.75},
    "dare_linear": {"weight": (0.25, 0.5, -0.5), "density": (0.3, 0.6, 1.0)},
    "dare_ties": {"weight": (0.25, 0.5, 1.0), "density": (0.3, 0.6, 1.0)},
    "slerp": {"t": 0.3},
    "nuslerp": {"t": 0.3},
    "multislerp": {"weight": (0.2, 0.5, 0.3)},
    "karcher": {"weight": (0.2, 0.5, 0.3)},
    **{name: {"weight": (0.25, 0.5, -0.5), "lambda_": 0.75} for name in SPECTRAL},
    "knots": {"weight": (0.25, 0.5, 1.0), "density": (0.3, 0.6, 1.0)},
    "wudi": {"weight": (0.2, 0.5, 0.3), "lambda_": 0.75},
}
"""Distinct knobs for three inputs, or for the two of a spherical operator."""

VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in KNOBS),
    pytest.param("ties", {"normalize": False}, id="ties-sum"),
    pytest.param("ties", {"consensus": "count"}, id="ties-count"),
    pytest.param("ties", {"zero_rule": "majority"}, id="ties-majority"),
    pytest.param("dare_linear", {"rescale": "l1"}, id="dare_linear-l1"),
    pytest.param("dare_linear", {"unit": "column"}, id="dare_linear-column"),
    pytest.param("dare_ties", {"normalize": True}, id="dare_ties-mean"),
    pytest.param("nuslerp", {"axis": "in"}, id="nuslerp-in"),
    pytest.param("nuslerp", {"axis": "out"}, id="nuslerp-out"),
    pytest.param("nuslerp", {"base": True}, id="nuslerp-base"),
    pytest.param("multislerp", {"base": True}, id="multislerp-base"),
    pytest.param("multislerp", {"log_map": True}, id="multislerp-log_map"),
    pytest.param("karcher", {"base": True}, id="karcher-base"),
    pytest.param("tsv", {"rank_frac": 1.0}, id="tsv-lossless"),
    pytest.param("iso_cts", {"common_frac": 0.3}, id="iso_cts-own"),
    pytest.param("iso_c", {"mean_over": "nonzero"}, id="iso_c-nonzero"),
    *(
        pytest.param("knots", {"inner": inner}, id=f"knots-{inner}")
        for inner in ("sum", "dare_ties", "tsv", "iso")
    ),
    pytest.param("knots", {"join": "out"}, id="knots-out"),
    pytest.param("wudi", {"ridge": 0.0}, id="wudi-exact"),
    pytest.param("wudi", {"solver": "adam", "steps": 20}, id="wudi-adam"),
]


def only(*names):
    return [variant for variant in VARIANTS if variant.values[0] in names]


def without(*names):
    return [variant for variant in VARIANTS if variant.values[0] not in names]


def build(name, extra=None):
    n = 2 if name in ("slerp", "nuslerp") else 3
    return operation(name, n, **{**KNOBS[name], **(extra or {})})


def experts(merge, shape, seed):
    """Return a base, or None, and experts near it; all multiples of 1/4096."""
    base = dyadic(shape, seed)
    tensors = [
        base + dyadic(shape, seed + i + 1, 0.25) for i in range(len(merge.inputs))
    ]
    return tensors, None if merge.base is None else base


def permuted(merge, order):
    return Operation(
        merge.operator,
        tuple(merge.inputs[i] for i in order),
        merge.base,
        merge.shared,
        tuple((knob, tuple(values[i] for i in order)) for knob, values in merge.each),
    )


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


SELF = [
    ("linear", 3, {}),
    ("linear", 3, {"weight": (0.2, 1.5, -0.3)}),
    ("task_arithmetic", 2, {"weight": (0.25, 0.75)}),
    ("task_arithmetic", 3, {"normalize": True}),
    ("ties", 3, {"density": ONE * 3}),
    ("ties", 3, {"density": ONE * 3, "consensus": "count", "weight": (0.2, 3.0, 1.0)}),
    ("dare_linear", 2, {"density": ONE * 2, "weight": (0.25, 0.75)}),
    ("dare_ties", 2, {"density": ONE * 2, "normalize": True}),
    ("slerp", 2, {"t": 0.3}),
    ("nuslerp", 2, {"t": 0.3}),
    ("nuslerp", 2, {"t": 0.3, "axis": "in"}),
    ("nuslerp", 2, {"t": 0.3, "axis": "out", "base": True}),
    ("multislerp", 3, {}),
    ("multislerp", 3, {"weight": (0.2, 1.5, 0.3), "log_map": True, "base": True}),
    ("karcher", 3, {"weight": (0.2, 1.5, 0.3)}),
    ("karcher", 3, {"base": True}),
    ("knots", 3, {}),
    ("knots", 3, {"inner": "sum", "join": "out"}),
    ("wudi", 3, {"anchor": "mean"}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "n", "knobs"), SELF)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_equal_experts_give_themselves(name, n, knobs, dtype, shape, seed):
    merge = operation(name, n, **knobs)
    expert = dyadic(shape, seed).to(dtype)
    nearby = (expert.float() * (1 + 0.1 * dyadic(shape, seed + 1))).to(dtype)
    base = None if merge.base is None else nearby
    merged = apply(merge, [expert] * n, base, "w")
    if dtype is torch.bfloat16:
        assert torch.equal(merged.to(dtype), expert)
    else:
        assert_close(merged, expert, 1e-6)


@pytest.mark.parametrize(
    ("name", "knobs", "shape", "seed"),
    [
        ("knots", {"inner": "sum", "join": "out"}, (3, 5, 2), 353),
        ("wudi", {"anchor": "mean"}, (4, 6), 6356),
    ],
)
def test_a_zero_that_goes_through_equations_stays_one(name, knobs, shape, seed):
    expert = dyadic(shape, seed).bfloat16()
    nearby = (expert.float() * (1 + 0.1 * dyadic(shape, seed + 1))).bfloat16()
    merged = apply(operation(name, 3, **knobs), [expert] * 3, nearby, "w")
    assert (expert == 0).any()
    assert torch.equal(merged.bfloat16(), expert)


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_experts_equal_to_the_base_give_the_base(name, extra, shape, seed):
    merge = build(name, extra)
    base = dyadic(shape, seed)
    merged = apply(
        merge, [base] * len(merge.inputs), None if merge.base is None else base, "w"
    )
    assert_close(merged, base, 1e-6)


@pytest.mark.parametrize(
    ("name", "extra"), without("slerp", "nuslerp"), ids=lambda v: str(v)
)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_experts_changes_nothing(name, extra, shape, seed):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    expected = apply(merge, tensors, base, "w")
    for order in itertools.permutations(range(3)):
        shuffled = [tensors[i] for i in order]
        assert_close(apply(permuted(merge, order), shuffled, base, "w"), expected, 1e-6)


@pytest.mark.parametrize(("name", "extra"), only(*DELTA_METHODS))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_no_weight_or_no_lambda_gives_exactly_the_base(name, extra, shape, seed):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    for nothing in ({"lambda_": 0.0}, {"weight": (0.0,) * 3}):
        merged = apply(build(name, {**extra, **nothing}), tensors, base, "w")
        assert torch.equal(merged, base)


BASED = [
    *only(*DELTA_METHODS, "wudi"),
    *(variant for variant in VARIANTS if variant.values[1].get("base")),
]


@pytest.mark.parametrize(("name", "extra"), BASED)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_shift_of_everything_shifts_the_result(name, extra, shape, seed):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    shift = dyadic(shape, seed + 9)
    moved = apply(merge, [tensor + shift for tensor in tensors], base + shift, "w")
    assert_close(moved, apply(merge, tensors, base, "w") + shift)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_hull_an_average_lies_between_its_inputs(shape, seed):
    merge = build("linear")
    tensors, _ = experts(merge, shape, seed)
    merged, stack = apply(merge, tensors, None, "w"), torch.stack(tensors)
    slack = 2.0**-22 * stack.abs().amax(0)
    assert (merged >= stack.amin(0) - slack).all()
    assert (merged <= stack.amax(0) + slack).all()


END = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": ONE * 3},
    "dare_linear": {"density": ONE * 3},
    "dare_ties": {"density": ONE * 3},
    "knots": {"inner": "sum"},
    "wudi": {"anchor": "mean"},
}


@pytest.mark.parametrize("name", END)
@pytest.mark.parametrize("chosen", range(3))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_end_all_weight_on_one_expert_gives_that_expert(name, chosen, shape, seed):
    weight = tuple(float(i == chosen) for i in range(3))
    merge = operation(name, 3, **{**END[name], "weight": weight})
    tensors, base = experts(merge, shape, seed)
    assert_close(apply(merge, tensors, base, "w"), tensors[chosen], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "extra"), VARIANTS)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_scale_twice_the_inputs_give_exactly_twice_the_result(
    name, extra, dtype, shape, seed
):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    tensors = [tensor.to(dtype) for tensor in tensors]
    base = None if base is None else base.to(dtype)
    merged = apply(merge, tensors, base, "w")
    doubled_base = None if base is None else 2 * base
    doubled = apply(merge, [2 * tensor for tensor in tensors], doubled_base, "w")
    assert torch.equal(doubled, 2 * merged)


@pytest.mark.parametrize(("name", "extra"), without("dare_linear", "dare_ties"))
@few
@given(seed=SEEDS)
def test_axis_permuted_neurons_give_the_permuted_result(name, extra, seed):
    merge = build(name, extra)
    generator = torch.Generator().manual_seed(seed)
    base, *tensors = (torch.randn(6, 8, generator=generator) for _ in range(4))
    tensors = tensors[: len(merge.inputs)]
    order = torch.randperm(6, generator=generator)
    start = None if merge.base is None else base
    moved_start = None if merge.base is None else base[order]
    moved = apply(merge, [tensor[order] for tensor in tensors], moved_start, "w")
    assert_close(moved, apply(merge, tensors, start, "w")[order], 1e-6)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_seven_chunks_give_the_same_bytes_as_one(name, dtype):
    merge = build(name)
    generator = torch.Generator().manual_seed(0)
    base, *tensors = (
        torch.randn(100_003, generator=generator).to(dtype) for _ in range(4)
    )
    start = None if merge.base is None else base
    whole = apply(merge, tensors, start, "w")
    pieces = zip(*(tensor.chunk(7) for tensor in (*tensors, base)), strict=True)
    parts = [
        apply(merge, piece[:3], None if start is None else piece[3], "w")
        for piece in pieces
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
def test_threads_and_memory_layout_do_not_change_a_byte(name, extra):
    merge = build(name, extra)
    generator = torch.Generator().manual_seed(0)
    base, *tensors = (torch.randn(401, 500, generator=generator) for _ in range(4))
    tensors = tensors[: len(merge.inputs)]
    start = None if merge.base is None else base
    assert check_threads_and_layout(merge, tensors, start).shape == base.shape


@few
@given(shape=SHAPES, seed=SEEDS)
def test_task_arithmetic_is_an_average_with_the_base_as_an_input(shape, seed):
    weight, scale = (0.4, -0.3, 0.8), 0.6
    merge = operation("task_arithmetic", 3, weight=weight, lambda_=scale)
    tensors, base = experts(merge, shape, seed)
    average = operation(
        "linear",
        4,
        weight=(*(scale * w for w in weight), 1 - scale * sum(weight)),
        normalize=False,
    )
    expected = apply(average, [*tensors, base], None, "w")
    assert_close(apply(merge, tensors, base, "w"), expected, 1e-6)


@few
@given(n=st.integers(1, 6), shape=SHAPES, seed=SEEDS)
def test_an_average_equals_the_running_mean(n, shape, seed):
    tensors = [dyadic(shape, seed + i) for i in range(n)]
    mean = tensors[0].clone()
    for k, tensor in enumerate(tensors[1:], start=2):
        mean += (tensor - mean) / k
    largest = torch.stack(tensors).abs().max()
    slack = float(4 * 2.0**-23 * largest)
    merged = apply(operation("linear", n), tensors, None, "w")
    torch.testing.assert_close(merged, mean, rtol=0, atol=slack)


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_tensor_stays_empty(name, extra, shape):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, 0)
    assert apply(merge, tensors, base, "w").shape == shape


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
def test_half_precision_differences_are_formed_in_full_precision(name, extra):
    merge = build(name, extra)
    tensors, base = experts(merge, (6, 9), 4)
    assert check_narrow_inputs(merge, tensors, base).shape == (6, 9)
