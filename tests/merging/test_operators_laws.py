"""Laws that merge operators keep: all of the catalogue, or it stands here why not."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.operations import (
    ON_MODELS,
    dyadic,
    experts,
    operation,
    permuted,
)
from support.operator_checks import (
    check_narrow_inputs,
    check_threads_and_layout,
)
from support.operator_knobs import DENSITY, KNOBS
from support.single_steps import single_steps

from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.derived import SVD
from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.operators import apply
from evomerge.merging.operators.inputs import Inputs

# Hundreds of merges: each fast, together not.
pytestmark = pytest.mark.slow

SHAPES = st.sampled_from([(), (1,), (7,), (4, 6), (3, 5, 2), (2, 1, 9)])
SEEDS = st.integers(0, 2**16)
few = settings(max_examples=4)  # each law is tried on many operators

ONE = (1.0,)
INNERS = ("sum", "ties", "dare_ties", "tsv", "iso")
DTYPES = [torch.float32, torch.bfloat16]

MORE = {
    "ties": {
        "sum": {"normalize": False},
        "count": {"consensus": "count"},
        "majority": {"zero_rule": "majority"},
    },
    "dare_linear": {"l1": {"rescale": "l1"}, "column": {"unit": "column"}},
    "dare_ties": {"mean": {"normalize": True}},
    "nuslerp": {"in": {"axis": "in"}, "out": {"axis": "out"}, "base": {"base": True}},
    "multislerp": {"base": {"base": True}, "log_map": {"log_map": True}},
    "karcher": {"base": {"base": True}},
    "tsv": {"lossless": {"rank_frac": 1.0}},
    "iso_cts": {"own": {"common_frac": 0.3}},
    "iso_c": {"nonzero": {"mean_over": "nonzero"}},
    "knots": {
        **{inner: {"inner": inner} for inner in ("sum", "dare_ties", "tsv", "iso")},
        "out": {"join": "out"},
    },
    "wudi": {"exact": {"ridge": 0.0}, "adam": {"solver": "adam", "steps": 20}},
    "breadcrumbs": {"row": {"axis": "row"}},
    "breadcrumbs_ties": {"l1": {"rescale": "l1"}},
    "della": {"l1": {"rescale": "l1"}, "tensor": {"rank_by": "tensor_rank"}},
    "della_linear": {"minmax": {"rank_by": "row_minmax"}},
    "mixout": {"element": {"unit": "element"}},
    "model_stock": {"row": {"filter_wise": True}, "free": {"clamp": False}},
    "sce": {"all": {"mask_scope": "all"}},
    "pcb": {"product": {"inter": "product"}},
    "consensus": {"ties": {"source": "ties"}},
    "staged": {
        "trimmed": {
            "sparsify": "magnitude",
            "density": DENSITY,
            "consensus": "count_sign",
        },
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
        "draws": {"consensus": "mean_sign", "zero_rule": "minus"},
        "flat": {"post": "flat", "consensus": "sum_sign"},
        "svd": {"basis": "svd", "consensus": "sum_sign", "reduce": "mean"},
        "core": {"basis": "core", "reduce": "max", "post": "flat"},
    },
    "core_space": {inner: {"inner": inner} for inner in INNERS},
}
"""Further settings of an operator by name, laid over its knobs."""

UNWEIGHTED = {"staged": set(MORE["staged"]) - {"draws"}}
"""Settings laid over nothing, since stages may leave no use for weights."""


def settings_of(*names):
    """Return every setting of these operators, by what it is called, with its knobs."""
    out = {}
    for name in names:
        out[name] = name, KNOBS[name]
        for row, more in MORE.get(name, {}).items():
            under = {} if row in UNWEIGHTED.get(name, ()) else KNOBS[name]
            out[f"{name}-{row}"] = name, {**under, **more}
    return out


SETTINGS = settings_of(*ON_MODELS)
"""Every operator that merges models: a new one without knobs here ends the run."""

DRAWN = (
    *settings_of("dare_linear", "dare_ties", "della", "della_linear", "mixout"),
    *("staged-masked", "staged-ranked", "core_space-dare_ties", "knots-dare_ties"),
)
LAWLESS = {
    "order": {
        **dict.fromkeys(settings_of("slerp", "nuslerp"), "two ends, and a way between"),
        **dict.fromkeys(settings_of("arcee_fusion", "nearswap", "mixout"), "one input"),
    },
    "shift": {
        **dict.fromkeys(
            ("linear", "slerp", "nuslerp", "nuslerp-in", "nuslerp-out", "multislerp"),
            "there is no base: sums and directions are those of whole weights",
        ),
        **dict.fromkeys(("multislerp-log_map", "karcher"), "likewise"),
        "arcee_fusion": "importance looks at whole weights",
    },
    "scale": {
        "arcee_fusion": "divergences are of exponentials",
        **dict.fromkeys(("nearswap", "ram", "ramplus_tl"), "it has a size of its own"),
        "pcb-product": "hyperbolic tangents of raw products",
    },
    "neurons": dict.fromkeys(DRAWN, "masks are drawn by place"),
}
"""Law to the settings that do not keep it, and why."""

LOOSE = ("linear", "slerp", "nuslerp", "multislerp", "karcher", "wudi", "knots")
"""Operators that give a base back up to rounding, and not to the bit."""


def kept_by_all(law=None):
    return pytest.mark.parametrize(
        ("name", "knobs"),
        [
            pytest.param(name, knobs, id=called)
            for called, (name, knobs) in SETTINGS.items()
            if called not in LAWLESS.get(law, {})
        ],
    )


def n_of(name):
    return CATALOGUE[name].n_inputs or 3


def build(name, knobs=None, **more):
    return operation(name, n_of(name), **{**(knobs or KNOBS[name]), **more})


def normal(merge, shape, seed):
    """As experts, but hardly two differences are equal in size."""
    generator = torch.Generator().manual_seed(seed)
    n = len(merge.inputs) + 1
    base, *tensors = (torch.randn(shape, generator=generator) for _ in range(n))
    return [base + 0.25 * tensor for tensor in tensors], base if merge.base else None


def are_distinct(tensor, base):
    sizes = (tensor if base is None else tensor - base).abs()
    return sizes.unique().numel() == sizes.numel()


def moved(tensors, base, change):
    """Return inputs after the same change to each of them."""
    return [change(tensor) for tensor in tensors], None if base is None else change(
        base
    )


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_every_exception_from_a_law_is_a_setting_there_is():
    assert {name for law in LAWLESS.values() for name in law} <= SETTINGS.keys()


@kept_by_all()
@few
@given(shape=SHAPES, seed=SEEDS)
def test_experts_equal_to_the_base_give_the_base(name, knobs, shape, seed):
    merge, base = build(name, knobs), dyadic(shape, seed)
    merged = apply(merge, [base] * n_of(name), base if merge.base else None, "w")
    assert_close(merged, base, 1e-6 if name in LOOSE else 0)


@kept_by_all("order")
@few
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_experts_changes_nothing(name, knobs, shape, seed):
    merge = build(name, knobs)
    tensors, base = normal(merge, shape, seed)
    expected = apply(merge, tensors, base, "w")
    for order in itertools.permutations(range(3)):
        shuffled = [tensors[i] for i in order]
        assert_close(apply(permuted(merge, order), shuffled, base, "w"), expected)


@kept_by_all("shift")
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_shift_of_everything_shifts_the_result(name, knobs, shape, seed):
    merge, shift = build(name, knobs), dyadic(shape, seed + 9)
    inputs = experts(merge, shape, seed)
    shifted = apply(merge, *moved(*inputs, lambda tensor: tensor + shift), "w")
    assert_close(shifted, apply(merge, *inputs, "w") + shift)


@pytest.mark.parametrize("dtype", DTYPES)
@kept_by_all("scale")
@few
@given(shape=SHAPES, seed=SEEDS)
def test_scale_twice_the_inputs_give_exactly_twice_the_result(
    name, knobs, dtype, shape, seed
):
    merge = build(name, knobs)
    inputs = moved(*experts(merge, shape, seed), lambda tensor: tensor.to(dtype))
    doubled = apply(merge, *moved(*inputs, lambda tensor: 2 * tensor), "w")
    assert torch.equal(doubled, 2 * apply(merge, *inputs, "w"))


@kept_by_all("neurons")
@few
@given(seed=SEEDS)
def test_axis_permuted_neurons_give_the_permuted_result(name, knobs, seed):
    merge = build(name, knobs)
    inputs = normal(merge, (6, 8), seed)
    # Of two that are equal in size the first one goes, whichever neuron it is of.
    assume(all(are_distinct(tensor, inputs[1]) for tensor in inputs[0]))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    turned = apply(merge, *moved(*inputs, lambda tensor: tensor[order]), "w")
    assert_close(turned, apply(merge, *inputs, "w")[order])


@pytest.mark.parametrize("shape", [(80, 501), (40_001,)])
@kept_by_all()
def test_threads_memory_layout_and_one_pass_do_not_change_a_byte(name, knobs, shape):
    merge = build(name, knobs)
    inputs = normal(merge, shape, 0)
    merged = check_threads_and_layout(merge, *inputs)
    assert merged.shape == shape
    with single_steps():
        assert torch.equal(apply(merge, *inputs, "w"), merged)


@kept_by_all()
def test_an_empty_tensor_stays_empty(name, knobs):
    merge = build(name, knobs)
    for shape in ((0,), (0, 4), (3, 0)):
        assert apply(merge, *experts(merge, shape, 0), "w").shape == shape


@kept_by_all()
def test_half_precision_differences_are_formed_in_full_precision(name, knobs):
    merge = build(name, knobs)
    inputs = experts(merge, (6, 9), 4)
    assert check_narrow_inputs(merge, *inputs).shape == (6, 9)


@kept_by_all()
def test_one_input_without_difference_does_no_harm(name, knobs):
    merge = build(name, knobs)
    (first, *others), base = normal(merge, (6, 9), 2)
    still = first if base is None else base
    assert torch.isfinite(apply(merge, [still, *others], base, "w")).all()


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
    ("breadcrumbs", 2, {"density": ONE * 2, "weight": (0.25, 0.75), "lambda_": 1.0}),
    ("breadcrumbs_ties", 1, {"density": ONE, "lambda_": 1.0}),
    ("della", 3, {"density": ONE * 3}),
    ("della_linear", 1, {"density": ONE}),
    ("consensus", 1, {"k": 1, "lambda_": 1.0}),
    ("staged", 3, {"weight": (0.25, 0.5, 0.25)}),
    *(
        ("staged", 3, {"reduce": reduce, "consensus": consensus, "basis": basis})
        for reduce in ("mean", "max", "energy")
        for consensus in ("none", "sum_sign")
        for basis in ("none", "core")
        if (reduce, basis) != ("max", "core") or consensus == "none"
    ),
    ("core_space", 3, {"inner": "ties"}),
    ("core_space", 3, {"inner": "sum"}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "n", "knobs"), SELF)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_equal_experts_give_themselves(name, n, knobs, dtype, shape, seed):
    merge = operation(name, n, **knobs)
    expert = dyadic(shape, seed).to(dtype)
    nearby = (expert.float() * (1 + 0.1 * dyadic(shape, seed + 1))).to(dtype)
    merged = apply(merge, [expert] * n, nearby if merge.base else None, "w")
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


NO_LAMBDA = [
    called
    for called, (name, _) in SETTINGS.items()
    if CATALOGUE[name].needs_base and CATALOGUE[name].knob("lambda") is not None
]
UNWEIGHED = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "tsv", "iso_c")
UNWEIGHED += ("iso_cts", "knots", "breadcrumbs", "breadcrumbs_ties", "della", "pcb")
NOTHING = [
    *((called, {"lambda_": 0.0}) for called in NO_LAMBDA),
    *((called, {"weight": (0.0,) * 3}) for called in settings_of(*UNWEIGHED)),
    ("della_linear", {"weight": (0.0,) * 3}),
    ("model_stock", {"t_scale": 0.0}),
    ("bcwi", {"alpha": 1.0}),
    ("consensus", {"k": 4}),
    ("nearswap", {"t": 0.0}),
]


@pytest.mark.parametrize(("called", "nothing"), NOTHING, ids=str)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_nothing_added_is_exactly_the_base(called, nothing, shape, seed):
    name, knobs = SETTINGS[called]
    merge = build(name, {**knobs, **nothing})
    tensors, base = experts(merge, shape, seed)
    assert torch.equal(apply(merge, tensors, base, "w"), base)


HULL = ("linear", "bcwi", "nearswap", "arcee_fusion", "model_stock")


@pytest.mark.parametrize("name", HULL)
@few
@given(shape=SHAPES, seed=SEEDS)
def test_hull_an_average_lies_between_its_inputs(name, shape, seed):
    merge = build(name)
    tensors, base = experts(merge, shape, seed)
    merged = apply(merge, tensors, base, "w")
    stack = torch.stack(tensors if base is None else [*tensors, base])
    slack = (2.0**-22 if name == "linear" else 2.0**-21) * stack.abs().amax(0)
    assert (merged >= stack.amin(0) - slack).all()
    assert (merged <= stack.amax(0) + slack).all()


END = [
    ("linear", {}),
    ("task_arithmetic", {}),
    ("ties", {"density": ONE * 3}),
    ("dare_linear", {"density": ONE * 3}),
    ("dare_ties", {"density": ONE * 3}),
    ("knots", {"inner": "sum"}),
    ("wudi", {"anchor": "mean"}),
    *(("staged", {"basis": basis}) for basis in ("none", "svd", "core")),
]


@pytest.mark.parametrize(("name", "knobs"), END)
@pytest.mark.parametrize("chosen", range(3))
@few
@given(shape=SHAPES, seed=SEEDS)
def test_end_all_weight_on_one_expert_gives_that_expert(
    name, knobs, chosen, shape, seed
):
    weight = tuple(float(i == chosen) for i in range(3))
    merge = operation(name, 3, **knobs, weight=weight)
    tensors, base = experts(merge, shape, seed)
    assert_close(apply(merge, tensors, base, "w"), tensors[chosen], 1e-6)


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


CHUNKED = ("linear", "task_arithmetic", "magmax", "ram", "consensus", "emr", "nearswap")


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.long)]
)
def test_seven_chunks_give_the_same_bytes_as_one(name, dtype):
    merge = build(name)
    tensors, base = moved(*normal(merge, (100_003,), 0), lambda t: t.to(dtype))
    pieces = zip(*(tensor.chunk(7) for tensor in tensors), strict=True)
    starts = [None] * 7 if base is None else base.chunk(7)
    parts = [
        apply(merge, piece, start, "w")
        for piece, start in zip(pieces, starts, strict=True)
    ]
    assert torch.equal(torch.cat(parts), apply(merge, tensors, base, "w"))


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


class Listing:
    """A memo that keeps nothing and lists the kinds it was asked for."""

    def __init__(self):
        self.kinds = set()

    def recall(self, kind, what, compute):
        self.kinds.add(kind.at())
        return compute()


OPEN = {
    "consensus": ({"source": "ties", "density": DENSITY},),
    "breadcrumbs_ties": ({"axis": "row"},),
    "della": ({"rank_by": "row_minmax"},),
    "della_linear": ({"rank_by": "tensor_rank"},),
    "staged": (
        {"sparsify": "rank_bernoulli", "rank_by": "tensor_rank"},
        {"sparsify": "rank_bernoulli", "rank_by": "row_minmax"},
    ),
    "pcb": ({"r": 0.123456789},),
    "sce": ({"select_topk": 0.123456789},),
}
"""Knobs with which operators keep what they do not keep with those of the laws."""


@pytest.mark.parametrize("name", [n for n in ON_MODELS if CATALOGUE[n].keeps])
def test_an_operator_keeps_every_kind_that_its_row_names(name):
    memo = Listing()
    asked = [knobs for other, knobs in SETTINGS.values() if other == name]
    asked += [{**asked[0], **more} for more in OPEN.get(name, ())]
    for knobs in asked:
        # Beside the grid of the catalogue, numbers that no table is kept for.
        for off_grid in ({}, {"density": (0.1234567,) * n_of(name)}):
            merge = build(name, {**knobs, **(off_grid if "density" in knobs else {})})
            for shape in ((8, 40), (192, 256)):  # some is only counted in large ones
                tensors, base = normal(merge, shape, 1)
                apply(merge, tensors, base, "w", memo)
    assert memo.kinds == set(CATALOGUE[name].keeps)


def test_what_its_row_does_not_name_is_refused():
    inputs = Inputs(resolve(operation("linear", 2)), [torch.ones(2)] * 2, None, "w")
    with pytest.raises(RecipeError, match=r"'linear' keeps 'svd', but its row does"):
        inputs.recall(SVD, (0,), lambda: None)
