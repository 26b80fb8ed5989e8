import pytest
import torch
from support.operations import dyadic, operation

from evomerge.merging.operators import apply
from evomerge.merging.operators.sums.breadcrumbs import Band, band_of

TENTHS = torch.arange(1, 11) / 10 * torch.tensor([1.0, -1.0] * 5)


def kept(values, density, gamma, name="breadcrumbs", **knobs):
    merge = operation(
        name, 1, density=(density,), gamma=(gamma,), **({"lambda_": 1.0} | knobs)
    )
    return apply(merge, [values], torch.zeros_like(values), "w")


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("axis", ["tensor", "row"])
@pytest.mark.parametrize(
    ("density", "gamma", "first", "last"),
    [(0.6, 0.1, 3, 9), (0.9, 0.3, 0, 9), (0.6, 0.0, 4, 10), (1.0, 0.3, 0, 10)],
)
def test_the_smallest_and_the_largest_go(name, axis, density, gamma, first, last):
    expected = torch.zeros(10)
    expected[first:last] = TENTHS[first:last]
    assert torch.equal(kept(TENTHS, density, gamma, name, axis=axis), expected)
    backwards = kept(TENTHS.flip(0), density, gamma, name, axis=axis)
    assert torch.equal(backwards, expected.flip(0))


@pytest.mark.parametrize(
    ("density", "gamma", "n", "guard", "band"),
    [
        (0.6, 0.1, 10, True, Band(1, 6)),
        (0.9, 0.3, 10, True, Band(1, 9)),
        (1.0, 1.0, 10, True, Band(0, 10)),
        (0.29, 0.0, 100, True, Band(0, 29)),
        (0.29, 0.0, 100, False, Band(0, 28)),
        (0.0, 0.5, 10, True, Band(5, 0)),
        (0.01, 0.1, 37, True, Band(3, 1)),
        (0.01, 0.1, 37, False, Band(3, 0)),
    ],
)
def test_the_density_comes_before_the_top(density, gamma, n, guard, band):
    assert band_of(density, gamma, n, guard=guard) == band


@pytest.mark.parametrize("n", [7, 1000, (1 << 15) + 1, 1_100_001])
@pytest.mark.parametrize(("density", "gamma"), [(0.15, 0.01), (0.5, 0.3), (0.9, 0.2)])
def test_the_band_is_cut_as_a_stable_sort_cuts_it(n, density, gamma):
    values = dyadic((n,), n)  # many equal magnitudes
    at = band_of(density, gamma, n)
    order = torch.argsort(values.abs(), descending=True, stable=True)
    expected = torch.zeros(n)
    places = order[at.top : at.top + at.keep]
    expected[places] = values[places]
    assert torch.equal(kept(values, density, gamma), expected)


def test_rows_are_cut_one_by_one():
    values = dyadic((37, 1001), 2)
    merged = kept(values, 0.3, 0.1, axis="row")
    rows = [kept(row, 0.3, 0.1) for row in values]
    assert torch.equal(merged, torch.stack(rows))


def test_without_a_top_it_is_ties():
    base = dyadic((40, 50), 0)
    tensors = [base + dyadic((40, 50), i, 0.25) for i in (1, 2)]
    knobs = {"density": (0.3, 0.6), "weight": (1.0, 0.5), "lambda_": 0.5}
    crumbs = operation("breadcrumbs_ties", gamma=(0.0, 0.0), normalize=True, **knobs)
    ties = operation("ties", **knobs)
    expected = apply(ties, tensors, base, "w")
    assert torch.equal(apply(crumbs, tensors, base, "w"), expected)


def test_full_density_is_task_arithmetic():
    base = dyadic((4, 5), 0)
    tensors = [base + dyadic((4, 5), i, 0.25) for i in (1, 2)]
    knobs = {"weight": (0.5, -0.25), "lambda_": 0.75}
    crumbs = operation("breadcrumbs", density=(1.0, 1.0), gamma=(0.1, 0.1), **knobs)
    plain = operation("task_arithmetic", **knobs)
    expected = apply(plain, tensors, base, "w")
    assert torch.equal(apply(crumbs, tensors, base, "w"), expected)


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties", "ties"])
def test_what_is_kept_may_grow_to_the_l1_norm(name):
    values = dyadic((20, 30), 1)
    knobs = {} if name == "ties" else {"gamma": (0.1,)}
    merge = operation(name, 1, density=(0.5,), rescale="l1", lambda_=1.0, **knobs)
    merged = apply(merge, [values], torch.zeros(20, 30), "w")
    assert float((merged != 0).sum()) == 300
    assert float(merged.abs().sum()) == pytest.approx(float(values.abs().sum()), 1e-5)
