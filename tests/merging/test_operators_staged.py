"""A row of stages that is a named method gives its bytes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operations import dyadic, experts, operation

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.settings import resolve
from evomerge.errors import CandidateError
from evomerge.merging.operators import apply

WEIGHT = (0.25, 1.5, -0.5)
DENSITY = (0.3, 0.6, 1.0)
GAMMA = (0.1, 0.2, 0.0)
MAGNITUDE = {"sparsify": "magnitude", "density": DENSITY, "weight": WEIGHT}
MASKED = {"density": DENSITY, "weight": WEIGHT, "lambda_": 0.75, "seed": 7}
BERNOULLI = {**MASKED, "sparsify": "bernoulli", "rescale": "inverse"}
RANKED = {**MASKED, "sparsify": "rank_bernoulli", "rescale": "inverse"}
CRUMBS = {"density": DENSITY, "gamma": GAMMA, "weight": WEIGHT, "lambda_": 0.3}
TWO_SIDED = {**CRUMBS, "sparsify": "two_sided"}
ENERGY = {"reduce": "energy", "sparsify": "variance", "consensus": "mean_sign"}

ROWS = [
    (
        "task_arithmetic",
        {"weight": WEIGHT, "lambda_": 0.75},
        {"weight": WEIGHT, "lambda_": 0.75},
    ),
    (
        "task_arithmetic",
        {"weight": WEIGHT, "normalize": True},
        {"weight": WEIGHT, "reduce": "mean"},
    ),
    (
        "ties",
        {"weight": WEIGHT, "density": DENSITY, "lambda_": 0.75},
        {**MAGNITUDE, "consensus": "sum_sign", "reduce": "mean", "lambda_": 0.75},
    ),
    (
        "ties",
        {
            "weight": WEIGHT,
            "density": DENSITY,
            "consensus": "count",
            "normalize": False,
            "zero_rule": "majority",
            "rescale": "l1",
        },
        {
            **MAGNITUDE,
            "consensus": "count_sign",
            "zero_rule": "majority",
            "rescale": "l1",
        },
    ),
    ("dare_linear", MASKED, BERNOULLI),
    (
        "dare_linear",
        {**MASKED, "unit": "column", "rescale": "l1", "normalize": True},
        {**BERNOULLI, "unit": "column", "rescale": "l1", "reduce": "mean"},
    ),
    ("dare_ties", MASKED, {**BERNOULLI, "consensus": "sum_sign"}),
    (
        "della",
        MASKED,
        {**RANKED, "consensus": "sum_sign", "reduce": "mean"},
    ),
    ("della_linear", MASKED, RANKED),
    (
        "della_linear",
        {**MASKED, "rank_by": "tensor_rank", "rescale": "l1"},
        {**RANKED, "rank_by": "tensor_rank", "rescale": "l1"},
    ),
    ("breadcrumbs", CRUMBS, TWO_SIDED),
    (
        "breadcrumbs",
        {**CRUMBS, "axis": "row", "rescale": "l1"},
        {**TWO_SIDED, "axis": "row", "rescale": "l1"},
    ),
    ("breadcrumbs_ties", CRUMBS, {**TWO_SIDED, "consensus": "sum_sign"}),
    (
        "sce",
        {"select_topk": 0.5},
        {**ENERGY, "select_topk": 0.5, "mask_scope": "weights_only"},
    ),
    (
        "sce",
        {"select_topk": 0.5, "mask_scope": "all", "lambda_": 0.7},
        {**ENERGY, "select_topk": 0.5, "mask_scope": "all", "lambda_": 0.7},
    ),
    ("magmax", {"lambda_": 0.5}, {"reduce": "max", "lambda_": 0.5}),
    (
        "emr",
        {"lambda_": 0.7},
        {
            "consensus": "mean_sign",
            "zero_rule": "minus",
            "reduce": "max",
            "lambda_": 0.7,
        },
    ),
    (
        "consensus",
        {"lambda_t": 0.6, "k": 1, "lambda_": 0.4},
        {"sparsify": "tall", "lambda_t": 0.6, "k": 1, "lambda_": 0.4},
    ),
    (
        "iso_c",
        {"weight": WEIGHT, "lambda_": 0.75},
        {"weight": WEIGHT, "post": "flat", "lambda_": 0.75},
    ),
    (
        "iso_c",
        {"weight": WEIGHT, "mean_over": "nonzero"},
        {"weight": WEIGHT, "post": "flat", "mean_over": "nonzero"},
    ),
]
KNOTS = [
    ({"inner": "sum", "normalize": False}, {}),
    ({"inner": "sum"}, {"reduce": "mean"}),
    (
        {"inner": "ties", "density": DENSITY},
        {
            "sparsify": "magnitude",
            "density": DENSITY,
            "consensus": "sum_sign",
            "reduce": "mean",
        },
    ),
    (
        {"inner": "dare_ties", "density": DENSITY, "normalize": False, "seed": 7},
        {
            "sparsify": "bernoulli",
            "density": DENSITY,
            "consensus": "sum_sign",
            "rescale": "inverse",
            "seed": 7,
        },
    ),
]
SPACES = [
    ("knots", {}, {"basis": "svd"}),
    ("knots", {"join": "out"}, {"basis": "svd", "join": "out"}),
    ("core_space", {}, {"basis": "core"}),
]
ROWS += [
    (
        name,
        {"weight": WEIGHT, "lambda_": 0.75, **named, **extra},
        {"weight": WEIGHT, "lambda_": 0.75, **stages, **chosen},
    )
    for (name, extra, chosen), (named, stages) in itertools.product(SPACES, KNOTS)
]
IDS = [
    "-".join([name, *(str(v) for v in named.values() if isinstance(v, str))])
    for name, named, _ in ROWS
]
METHODS = pytest.mark.parametrize(("name", "named", "stages"), ROWS, ids=IDS)


def normal(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    base, *deltas = (torch.randn(shape, generator=generator) for _ in range(4))
    return [(base + 0.25 * delta).to(dtype) for delta in deltas], base.to(dtype)


@METHODS
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, (40, 33)),
        (torch.bfloat16, (40, 33)),
        # In one pass, and in blocks: compiles a form of its own for each.
        pytest.param(torch.float32, (300, 257), marks=pytest.mark.long),
        pytest.param(torch.bfloat16, (300, 257), marks=pytest.mark.long),
    ],
)
def test_the_stages_of_a_named_method_give_its_bytes(name, named, stages, dtype, shape):
    tensors, base = normal(shape, 3, dtype)
    expected = apply(operation(name, 3, **named), tensors, base, "w")
    staged = apply(operation("staged", 3, **stages), tensors, base, "w")
    assert torch.equal(staged, expected)


@METHODS
def test_the_stages_of_a_named_method_break_ties_as_it_does(name, named, stages):
    for shape, seed in itertools.product([(12, 9), (5,), (2, 3, 4)], range(3)):
        merge = operation("staged", 3, **stages)
        tensors, base = experts(merge, shape, seed)
        if name in ("iso_c", "knots", "core_space") and shape != (12, 9):
            continue  # vectors have a rule of their own, stacks other masks
        expected = apply(operation(name, 3, **named), tensors, base, "w")
        assert torch.equal(apply(merge, tensors, base, "w"), expected)


def test_with_every_choice_at_its_default_it_is_task_arithmetic():
    tensors, base = normal((7, 5), 0)
    expected = apply(operation("task_arithmetic", 3), tensors, base, "w")
    assert torch.equal(apply(operation("staged", 3), tensors, base, "w"), expected)


@pytest.mark.parametrize(
    ("sparsify", "expected"),
    [
        ("magnitude", [0.0, 0.0, 6.0, -8.0]),
        ("two_sided", [0.0, 4.0, 6.0, 0.0]),
    ],
)
def test_what_is_cut_by_size_may_be_rescaled_by_its_part(sparsify, expected):
    merge = operation(
        "staged",
        1,
        sparsify=sparsify,
        rescale="inverse",
        density=(0.5,),
        gamma=(0.25,),
    )
    expert = torch.tensor([1.0, 2.0, 3.0, -4.0])
    merged = apply(merge, [expert], torch.zeros(4), "w")
    assert merged.tolist() == expected


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        # sums 2, 0, -1; means of signs 1, 0, -1
        ({"reduce": "sum"}, [2.0, 0.0, -1.0]),
        ({"reduce": "sum", "consensus": "sum_sign"}, [3.0, 2.0, -2.0]),
        (
            {"reduce": "sum", "consensus": "sum_sign", "zero_rule": "minus"},
            [3.0, -2.0, -2.0],
        ),
        ({"reduce": "max"}, [3.0, 2.0, -2.0]),
        (
            {"reduce": "max", "consensus": "sum_sign", "zero_rule": "minus"},
            [3.0, -2.0, -2.0],
        ),
        ({"reduce": "max", "weight": (1.0, 4.0)}, [-4.0, -8.0, 4.0]),
        (
            {"reduce": "max", "weight": (1.0, 4.0), "consensus": "sum_sign"},
            [-4.0, -8.0, 4.0],
        ),
        (
            {"reduce": "max", "weight": (1.0, 4.0), "consensus": "mean_sign"},
            [3.0, 2.0, -2.0],
        ),
        (
            {"reduce": "max", "weight": (1.0, 4.0), "consensus": "count_sign"},
            [3.0, 2.0, 4.0],
        ),
    ],
)
def test_signs_are_elected_by_whom_is_asked(knobs, expected):
    tensors = [torch.tensor([3.0, 2.0, -2.0]), torch.tensor([-1.0, -2.0, 1.0])]
    merged = apply(operation("staged", **knobs), tensors, torch.zeros(3), "w")
    assert merged.tolist() == expected


def test_a_draw_goes_to_the_majority_of_the_tensor():
    tensors = [torch.tensor([2.0, -1.0, -3.0]), torch.tensor([-2.0, -1.0, 1.0])]
    for reduce in ("sum", "max"):
        merge = operation(
            "staged", reduce=reduce, consensus="sum_sign", zero_rule="majority"
        )
        merged = apply(merge, tensors, torch.zeros(3), "w")
        assert merged[0] == -2.0


def test_energies_come_from_what_is_kept():
    tensors = [torch.tensor([4.0, 1.0]), torch.tensor([0.5, 2.0])]
    knobs = {"sparsify": "magnitude", "density": (0.5, 0.5), "reduce": "energy"}
    shares = torch.tensor([16.0 / 20.0, 4.0 / 20.0])
    for scope, kept in (
        ("all", [[4.0, 0.0], [0.0, 2.0]]),
        ("weights_only", [[4.0, 1.0], [0.5, 2.0]]),
    ):
        merge = operation("staged", mask_scope=scope, **knobs)
        merged = apply(merge, tensors, torch.zeros(2), "w")
        torch.testing.assert_close(merged, shares @ torch.tensor(kept))


def test_a_flat_spectrum_follows_any_other_stages():
    tensors, base = normal((12, 10), 5)
    knobs = {"sparsify": "magnitude", "density": DENSITY, "consensus": "sum_sign"}
    before = apply(operation("staged", 3, **knobs), tensors, base, "w") - base
    merged = apply(operation("staged", 3, post="flat", **knobs), tensors, base, "w")
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    expected = base + left @ right * values.mean()
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("basis", ["svd", "core"])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_a_plain_sum_in_a_basis_is_a_plain_sum(basis, seed):
    tensors, base = normal((9, 6), seed)
    expected = apply(operation("staged", 3, weight=WEIGHT), tensors, base, "w")
    merge = operation("staged", 3, weight=WEIGHT, basis=basis)
    merged = apply(merge, tensors, base, "w")
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("basis", ["svd", "core"])
@pytest.mark.parametrize("post", ["none", "flat"])
def test_a_vector_skips_basis_and_spectrum(basis, post):
    tensors, base = normal((31,), 1)
    knobs = {**MAGNITUDE, "consensus": "sum_sign"}
    expected = apply(operation("staged", 3, **knobs), tensors, base, "w")
    merge = operation("staged", 3, basis=basis, post=post, **knobs)
    assert torch.equal(apply(merge, tensors, base, "w"), expected)


ALL = [
    {knob.name: choice}
    for knob in CATALOGUE["staged"].knobs
    if knob.kind == "choice"
    for choice in knob.choices
]
STAGES = [
    dict(zip(("basis", "sparsify", "consensus", "reduce", "post"), row, strict=True))
    for row in itertools.product(
        ("none", "svd", "core"),
        (
            "none",
            "magnitude",
            "bernoulli",
            "rank_bernoulli",
            "two_sided",
            "variance",
            "tall",
        ),
        ("none", "sum_sign", "count_sign", "mean_sign"),
        ("sum", "mean", "max", "energy"),
        ("none", "flat"),
    )
]


def test_every_row_of_stages_merges_to_something_finite():
    base = dyadic((6, 5), 1)
    tensors = [base + dyadic((6, 5), 2 + i, 0.25) for i in range(3)]
    seen = set()
    for row in STAGES:
        merge = operation("staged", 3, **row)
        merged = apply(merge, tensors, base, "w")
        assert torch.isfinite(merged).all(), row
        zero = apply(operation("staged", 3, lambda_=0.0, **row), tensors, base, "w")
        assert torch.equal(zero, base), row
        same = apply(merge, [base] * 3, base, "w")
        assert torch.equal(same, base), row
        seen.add(merged.numpy().tobytes())
    # rows differ: the stages do not fall back on a few of them
    assert len(seen) > 400


@pytest.mark.parametrize("choice", ALL, ids=str)
def test_every_choice_of_a_stage_is_known_to_the_catalogue(choice):
    found = resolve(operation("staged", **choice)).shared
    assert all(found[name] == value for name, value in choice.items())


@pytest.mark.parametrize("knobs", [{"reduce": "max"}, {"sparsify": "tall"}])
def test_what_is_not_finite_is_refused_by_name(knobs):
    tensors = [torch.tensor([1.0, float("nan")]), torch.ones(2)]
    with pytest.raises(CandidateError, match="input 1"):
        apply(operation("staged", **knobs), tensors, torch.zeros(2), "w")
