"""Laws of operators that prune, select or elect entries, each where it is claimed."""

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
few = settings(max_examples=4)  # each law is tried on many operators

WEIGHT = (0.25, 0.5, -0.5)
KNOBS = {
    "breadcrumbs": {"weight": WEIGHT, "density": (0.3, 0.6, 1.0), "gamma": (0.1,) * 3},
    "breadcrumbs_ties": {"density": (0.3, 0.6, 1.0), "gamma": (0.3, 0.2, 0.1)},
    "della": {"weight": (0.25, 0.5, 1.0), "density": (0.3, 0.6, 1.0)},
    "della_linear": {"weight": WEIGHT, "density": (0.3, 0.6, 1.0)},
    "mixout": {"p": 0.4},
    "model_stock": {},
    "bcwi": {"alpha": 0.3},
    "sce": {"select_topk": 0.5},
    "magmax": {},
    "ram": {"epsilon": 0.125},
    "ramplus_tl": {"epsilon": 0.125},
    "pcb": {"weight": (0.5, 1.2, 2.0), "r": 0.3},
    "consensus": {"lambda_t": 0.6},
    "emr": {},
    "arcee_fusion": {},
    "nearswap": {"t": 0.25},
}
"""Distinct knobs for three inputs, or for the one that an operator takes."""

VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in KNOBS),
    pytest.param("breadcrumbs", {"axis": "row"}, id="breadcrumbs-row"),
    pytest.param("breadcrumbs_ties", {"rescale": "l1"}, id="breadcrumbs_ties-l1"),
    pytest.param("della", {"rescale": "l1"}, id="della-l1"),
    pytest.param("della", {"rank_by": "tensor_rank"}, id="della-tensor"),
    pytest.param("della_linear", {"rank_by": "row_minmax"}, id="della_linear-minmax"),
    pytest.param("mixout", {"unit": "element"}, id="mixout-element"),
    pytest.param("model_stock", {"filter_wise": True}, id="model_stock-row"),
    pytest.param("model_stock", {"clamp": False}, id="model_stock-free"),
    pytest.param("sce", {"mask_scope": "all"}, id="sce-all"),
    pytest.param("pcb", {"inter": "product"}, id="pcb-product"),
    pytest.param("consensus", {"source": "ties"}, id="consensus-ties"),
]
PAIRS = ("arcee_fusion", "nearswap")
RANDOM = ("della", "della_linear", "mixout")
FIXED_SIZES = ("ram", "ramplus_tl")  # epsilon is a size of its own


def only(*names):
    return [variant for variant in VARIANTS if variant.values[0] in names]


def without(*names):
    return [variant for variant in VARIANTS if variant.values[0] not in names]


def build(name, extra=None):
    n = 1 if name in (*PAIRS, "mixout") else 3
    return operation(name, n, **{**KNOBS[name], **(extra or {})})


def normal(merge, shape, seed):
    """As experts, but no two differences are equal in size."""
    generator = torch.Generator().manual_seed(seed)
    n = len(merge.inputs) + 1
    base, *tensors = (torch.randn(shape, generator=generator) for _ in range(n))
    return [base + 0.25 * tensor for tensor in tensors], base


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_experts_equal_to_the_base_give_the_base(name, extra, shape, seed):
    merge, base = build(name, extra), dyadic(shape, seed)
    assert torch.equal(apply(merge, [base] * len(merge.inputs), base, "w"), base)


SELF = [
    ("model_stock", 3, {}),
    ("model_stock", 3, {"filter_wise": True}),
    ("bcwi", 3, {"alpha": 0.0}),
    ("sce", 3, {}),
    ("magmax", 3, {"lambda_": 1.0}),
    ("ram", 3, {"epsilon": 0.0}),
    ("ramplus_tl", 3, {"epsilon": 0.0}),
    ("emr", 3, {}),
    ("mixout", 1, {"p": 0.0}),
    ("nearswap", 1, {"t": 1e6}),
    ("breadcrumbs", 2, {"density": (1.0,) * 2, "weight": (0.25, 0.75), "lambda_": 1.0}),
    ("breadcrumbs_ties", 1, {"density": (1.0,), "lambda_": 1.0}),
    ("della", 3, {"density": (1.0,) * 3}),
    ("della_linear", 1, {"density": (1.0,)}),
    ("consensus", 1, {"k": 1, "lambda_": 1.0}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "n", "knobs"), SELF)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_equal_experts_give_themselves(name, n, knobs, dtype, shape, seed):
    expert = dyadic(shape, seed).to(dtype)
    base = (expert.float() * (1 + 0.1 * dyadic(shape, seed + 1))).to(dtype)
    merged = apply(operation(name, n, **knobs), [expert] * n, base, "w")
    if dtype is torch.bfloat16:
        assert torch.equal(merged.to(dtype), expert)
    else:
        assert_close(merged, expert, 1e-6)


@pytest.mark.parametrize(("name", "extra"), without(*PAIRS, "mixout"))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_experts_changes_nothing(name, extra, shape, seed):
    merge = build(name, extra)
    tensors, base = normal(merge, shape, seed)
    expected = apply(merge, tensors, base, "w")
    for order in itertools.permutations(range(3)):
        shuffled = [tensors[i] for i in order]
        assert_close(apply(permuted(merge, order), shuffled, base, "w"), expected)


LAMBDA = ("sce", "magmax", "ram", "ramplus_tl", "consensus", "emr")
CRUMBS = ("breadcrumbs", "breadcrumbs_ties", "della", "della_linear")


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        *((name, {"lambda_": 0.0}) for name in (*LAMBDA, *CRUMBS)),
        *((name, {"weight": (0.0,) * 3}) for name in (*CRUMBS, "pcb")),
        ("model_stock", {"t_scale": 0.0}),
        ("bcwi", {"alpha": 1.0}),
        ("consensus", {"k": 4}),
        ("nearswap", {"t": 0.0}),
    ],
)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_nothing_added_is_exactly_the_base(name, nothing, shape, seed):
    merge = build(name, nothing)
    tensors, base = experts(merge, shape, seed)
    assert torch.equal(apply(merge, tensors, base, "w"), base)


@pytest.mark.parametrize(("name", "extra"), without("arcee_fusion"))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_shift_of_everything_shifts_the_result(name, extra, shape, seed):
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    shift = dyadic(shape, seed + 9)
    moved = apply(merge, [tensor + shift for tensor in tensors], base + shift, "w")
    assert_close(moved, apply(merge, tensors, base, "w") + shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "extra"), without(*PAIRS, *FIXED_SIZES))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_scale_twice_the_inputs_give_exactly_twice_the_result(
    name, extra, dtype, shape, seed
):
    if extra.get("inter") == "product":
        return  # tanh of raw products is not free of scale
    merge = build(name, extra)
    tensors, base = experts(merge, shape, seed)
    tensors, base = [tensor.to(dtype) for tensor in tensors], base.to(dtype)
    merged = apply(merge, tensors, base, "w")
    doubled = apply(merge, [2 * tensor for tensor in tensors], 2 * base, "w")
    assert torch.equal(doubled, 2 * merged)


@pytest.mark.parametrize(
    ("name", "knob"), [("ram", "epsilon"), ("ramplus_tl", "epsilon"), ("nearswap", "t")]
)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_what_has_a_size_of_its_own_scales_with_it(name, knob, shape, seed):
    merge, wide = (build(name, {knob: size}) for size in (0.125, 0.25))
    tensors, base = experts(merge, shape, seed)
    doubled = apply(wide, [2 * tensor for tensor in tensors], 2 * base, "w")
    assert torch.equal(doubled, 2 * apply(merge, tensors, base, "w"))


@pytest.mark.parametrize("name", ["bcwi", "nearswap", "arcee_fusion", "model_stock"])
@few
@given(shape=SHAPES, seed=SEEDS)
def test_hull_an_interpolation_lies_between_its_inputs(name, shape, seed):
    merge = build(name)
    tensors, base = experts(merge, shape, seed)
    merged, stack = apply(merge, tensors, base, "w"), torch.stack([*tensors, base])
    slack = 2.0**-21 * stack.abs().amax(0)
    assert (merged >= stack.amin(0) - slack).all()
    assert (merged <= stack.amax(0) + slack).all()


@pytest.mark.parametrize(("name", "extra"), without(*RANDOM))
@few
@given(seed=SEEDS)
def test_axis_permuted_neurons_give_the_permuted_result(name, extra, seed):
    merge = build(name, extra)
    tensors, base = normal(merge, (6, 8), seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    moved = apply(merge, [tensor[order] for tensor in tensors], base[order], "w")
    assert_close(moved, apply(merge, tensors, base, "w")[order])


@pytest.mark.parametrize("name", ["magmax", "ram", "consensus", "emr", "nearswap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_seven_chunks_give_the_same_bytes_as_one(name, dtype):
    merge = build(name)
    tensors, base = normal(merge, (100_003,), 0)
    tensors, base = [tensor.to(dtype) for tensor in tensors], base.to(dtype)
    pieces = zip(*(tensor.chunk(7) for tensor in (*tensors, base)), strict=True)
    parts = [apply(merge, piece[:-1], piece[-1], "w") for piece in pieces]
    assert torch.equal(torch.cat(parts), apply(merge, tensors, base, "w"))


@pytest.mark.parametrize("shape", [(80, 501), (40_001,)])
@pytest.mark.parametrize(("name", "extra"), VARIANTS)
def test_threads_and_memory_layout_do_not_change_a_byte(name, extra, shape):
    merge = build(name, extra)
    tensors, base = normal(merge, shape, 0)
    assert check_threads_and_layout(merge, tensors, base).shape == shape


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
