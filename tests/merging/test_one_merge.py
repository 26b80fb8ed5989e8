"""Operations that are one merge have one form, and the form is that merge."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operations import ON_MODELS, operation

from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.catalogue import Knob
from evomerge.core.recipes.canonical import canonical
from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators import apply

few = settings(max_examples=25, deadline=None, derandomize=True)
NUMBERS = st.sampled_from([0.0, 1.0, 0.5, 0.8, -0.5, 0.3, 2.0])
SHAPES = st.sampled_from([(6, 8), (9,), (2, 3, 5)])


@st.composite
def values(draw, knob: Knob):
    if knob.kind == "choice":
        return draw(st.sampled_from(knob.choices))
    if knob.kind == "int":
        return draw(st.integers(int(knob.lowest or 0), 4))
    low = NUMBERS if knob.lowest is None else NUMBERS.map(lambda x: max(x, knob.lowest))
    return draw(
        low if knob.highest is None else low.map(lambda x: min(x, knob.highest))
    )


@st.composite
def operations(draw, name: str) -> Operation:
    """Draw any operation that the catalogue allows, with the ends of its knobs."""
    operator = CATALOGUE[name]
    n = operator.n_inputs or draw(st.integers(operator.least_inputs, 3))
    shared, each = {}, {}
    chosen = {k.name: k.default for k in operator.knobs if not k.per_input}
    for knob in operator.knobs:
        spare = operator.either is not None and knob.name == operator.either[1]
        if spare or not knob.matters(chosen) or draw(st.booleans()):
            continue
        if knob.per_input:
            alike = draw(st.booleans())
            drawn = tuple(draw(values(knob)) for _ in range(1 if alike else n))
            each[knob.name] = drawn * n if alike else drawn
        else:
            chosen[knob.name] = shared[knob.name] = draw(values(knob))
    based = operator.needs_base or (operator.takes_base and draw(st.booleans()))
    return operation(name, n, base=based, **{**shared, **each})


def merged(merge: Operation, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    found = {"base": base}
    for name in ("m1", "m2", "m3"):
        found[name] = base + 0.25 * torch.randn(shape, generator=generator)
    start = None if merge.base is None else base
    return apply(merge, [found[name] for name in merge.inputs], start, "w")


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.int32).flatten().tolist()


@pytest.mark.parametrize("name", CATALOGUE)
@few
@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 99))
def test_the_one_form_of_an_operation_is_the_same_merge(name, data, shape, seed):
    merge = data.draw(operations(name))
    try:
        resolve(merge)
    except RecipeError:
        return
    form = canonical(merge)
    again = canonical(form.operation)
    assert (again.operation, again.exact) == (form.operation, True)
    if name not in ON_MODELS:
        return
    try:
        expected = merged(merge, shape, seed)
    except CandidateError:
        return
    found = merged(form.operation, shape, seed)
    if form.exact:
        assert bits(found) == bits(expected)
    else:
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


ONE = (1.0, 1.0)
PAIRS = [
    # Factors that multiply each other.
    ("task_arithmetic", {"weight": (0.8, 0.8)}, {"lambda_": 0.8}),
    ("task_arithmetic", {"weight": (0.4, 0.8), "lambda_": 0.5}, {"weight": (0.2, 0.4)}),
    ("dare_linear", {"weight": (0.8, 0.8), "seed": 3}, {"lambda_": 0.8, "seed": 3}),
    ("della_linear", {"weight": (0.7, 0.7)}, {"lambda_": 0.7}),
    ("breadcrumbs", {"weight": (0.8, 0.8), "lambda_": 1.0}, {"lambda_": 0.8}),
    (
        "ties",
        {"weight": (0.8, 0.8), "normalize": False},
        {"normalize": False, "lambda_": 0.8},
    ),
    ("dare_ties", {"weight": (0.8, 0.8)}, {"lambda_": 0.8}),
    ("tsv", {"weight": (0.7, 0.7)}, {"lambda_": 0.7}),
    ("iso_c", {"weight": (0.6, 1.2)}, {"weight": (0.3, 0.6), "lambda_": 2.0}),
    (
        "staged",
        {"weight": (0.8, 0.8), "sparsify": "tall"},
        {"lambda_": 0.8, "sparsify": "tall"},
    ),
    # Weights of which only the ratio counts.
    ("linear", {"weight": (3.0, 1.0)}, {"weight": (0.75, 0.25), "normalize": False}),
    ("linear", {"weight": (0.1, 0.2)}, {"weight": (1.0, 2.0)}),
    ("ties", {"weight": (0.4, 0.8)}, {"weight": (1.0, 2.0)}),
    ("ties", {"weight": (0.4, 0.4)}, {}),
    ("wudi", {"weight": (0.2, 0.6)}, {"weight": (1.0, 3.0)}),
    ("karcher", {"weight": (2.0, 2.0)}, {}),
    ("task_arithmetic", {"normalize": True}, {"weight": (0.5, 0.5)}),
    (
        "knots",
        {"inner": "sum"},
        {"inner": "sum", "weight": (0.5, 0.5), "normalize": False},
    ),
    # Knobs that change nothing where they are.
    (
        "ties",
        {"density": ONE, "rescale": "l1", "rounding": "int"},
        {"density": ONE, "scope": "model"},
    ),
    (
        "dare_linear",
        {"density": ONE, "seed": 1},
        {"density": ONE, "seed": 2, "unit": "column"},
    ),
    ("sce", {"select_topk": 1.0, "mask_scope": "all"}, {"select_topk": 1.0}),
    (
        "della",
        {"density": (0.4, 0.4), "eps_frac": (0.5, 0.5)},
        {"density": (0.4, 0.4), "epsilon": (0.2, 0.2)},
    ),
    (
        "della",
        {"eps_frac": (0.0, 0.0), "rank_by": "tensor_rank"},
        {"epsilon": (0.0, 0.0)},
    ),
    ("nuslerp", {"weight": (1.0, 3.0)}, {"t": 0.75}),
    ("task_arithmetic", {"weight": (1, 1)}, {}),
    ("magmax", {"lambda_": 0.0, "draw": "last"}, {"lambda_": 0.0}),
]


@pytest.mark.parametrize(("name", "one", "other"), PAIRS)
def test_knobs_that_say_the_same_have_one_form(name, one, other):
    first, second = (canonical(operation(name, 2, **knobs)) for knobs in (one, other))
    assert first.operation == second.operation


SAME = [
    (operation("dare_linear", 2, density=ONE), operation("task_arithmetic", 2)),
    (operation("della_linear", 2, density=ONE), operation("task_arithmetic", 2)),
    (
        operation("breadcrumbs", 2, density=ONE, lambda_=1.0),
        operation("task_arithmetic", 2),
    ),
    (
        operation("dare_ties", 2, density=ONE),
        operation("ties", 2, density=ONE, normalize=False),
    ),
    (operation("della", 2, density=ONE), operation("ties", 2, density=ONE)),
    (operation("ties", 1, density=(1.0,)), operation("task_arithmetic", 1)),
    (
        operation("ties", 1, density=(0.3,)),
        operation("breadcrumbs", 1, density=(0.3,), gamma=(0.0,), lambda_=1.0),
    ),
    (operation("breadcrumbs_ties", 1), operation("breadcrumbs", 1)),
    (operation("magmax", 1), operation("task_arithmetic", 1, lambda_=0.5)),
    (operation("emr", 1), operation("task_arithmetic", 1)),
    (
        operation("bcwi", 2, alpha=0.5),
        operation("task_arithmetic", 2, weight=(0.25, 0.25)),
    ),
    (operation("ramplus_tl", 2, r=0.0), operation("ram", 2)),
    (operation("consensus", 2, k=0), operation("task_arithmetic", 2, lambda_=0.4)),
    (operation("mixout", 1, p=0.0), operation("task_arithmetic", 1)),
    (operation("iso_cts", 2, common_frac=1.0), operation("iso_c", 2)),
    (operation("staged", 2, reduce="max"), operation("magmax", 2, lambda_=1.0)),
    (
        operation(
            "staged", 2, sparsify="bernoulli", consensus="sum_sign", rescale="inverse"
        ),
        operation("dare_ties", 2),
    ),
    (operation("slerp", 2, t=1.0), Operation("linear", ("m2",))),
    (
        operation("task_arithmetic", 2, weight=(0.0, 0.7)),
        Operation("task_arithmetic", ("m2",), "base", (("lambda", 0.7),)),
    ),
    (
        operation("ties", 2, weight=(0.0, 0.7), density=(0.4, 0.4)),
        Operation("ties", ("m2",), "base", (), (("density", (0.4,)),)),
    ),
    (operation("linear", 2, weight=(0.0, 0.7)), Operation("linear", ("m2",))),
    (operation("tsv", 2, lambda_=0.0), Operation("linear", ("base",))),
    (
        operation("task_arithmetic", 2, weight=(0.0, 0.0)),
        Operation("linear", ("base",)),
    ),
    (operation("nearswap", 1, t=0.0), Operation("linear", ("base",))),
    (
        Operation("task_arithmetic", ("m1", "base"), "base"),
        Operation("task_arithmetic", ("m1",), "base"),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_operators_that_coincide_have_one_form(one, other):
    assert canonical(one).operation == canonical(other).operation


OTHERS = [
    ("ties", {"weight": (0.4, 0.8)}, {"weight": (0.8, 0.4)}),
    ("ties", {"lambda_": 0.8}, {"weight": (0.8, 0.8)}),
    ("dare_linear", {"seed": 1}, {"seed": 2}),
    ("task_arithmetic", {"weight": (0.0, 1.0)}, {"weight": (1.0, 0.0)}),
    ("tsv", {"weight": (0.0, 1.0)}, {"weight": (0.5, 1.0)}),
    ("ties", {"normalize": False, "lambda_": -1.0}, {"normalize": False}),
    ("linear", {"normalize": False}, {"normalize": False, "weight": ONE}),
]


@pytest.mark.parametrize(("name", "one", "other"), OTHERS)
def test_other_merges_keep_other_forms(name, one, other):
    first, second = (canonical(operation(name, 2, **knobs)) for knobs in (one, other))
    assert first.operation != second.operation


def test_what_breaks_the_rules_is_left_to_whoever_merges_it():
    for wrong in (
        Operation("nonsense", ("m1",)),
        operation("ties", 2, density=(2.0, 0.5)),
        operation("linear", 2, weight=(float("nan"), 1.0)),
        operation("linear", 2, weight=(10**400, 1)),
    ):
        assert canonical(wrong).operation is wrong
