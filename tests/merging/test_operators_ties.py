import pytest
import torch
from support.operations import dyadic, operation
from support.thinning import left_of

from evomerge.merging.form import Cut, Step
from evomerge.merging.operators import apply
from evomerge.merging.operators.executors.steps import left_blocks
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.thresholds.magnitude_thresholds import size_cuts
from evomerge.merging.operators.thresholds.sparsify import keep_count

DELTAS = [
    torch.tensor([3.0, -1.0, 2.0, 0.5]),
    torch.tensor([-2.0, -4.0, 0.1, 1.0]),
    torch.tensor([1.0, 2.0, -3.0, -0.2]),
]


def merge(deltas=DELTAS, **knobs):
    """Merge over a zero base, so that inputs are differences."""
    knobs = {"density": (0.5,) * len(deltas)} | knobs
    base = torch.zeros_like(deltas[0])
    return apply(operation("ties", len(deltas), **knobs), deltas, base, "w")


def assert_close(result, expected):
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_trims_elects_and_averages_those_who_agree():
    assert merge().tolist() == [3.0, -4.0, -3.0, 0.0]


def test_full_density_trims_nothing():
    assert_close(merge(density=(1.0,) * 3), [2.0, -2.5, -3.0, 0.75])


def test_without_normalize_those_who_agree_are_summed():
    assert_close(merge(density=(1.0,) * 3, normalize=False), [4.0, -5.0, -3.0, 1.5])


def test_weights_take_part_in_election_and_average():
    assert_close(merge(weight=(2.0, 1.0, 1.0)), [3.0, -4.0, 2.0, 0.0])


def test_lambda_scales_the_merged_difference():
    assert merge(lambda_=0.5).tolist() == [1.5, -2.0, -1.5, 0.0]


def test_count_gives_every_input_one_vote():
    deltas = [torch.tensor([5.0]), torch.tensor([-1.0]), torch.tensor([-2.0])]
    assert merge(deltas, density=(1.0,) * 3).tolist() == [5.0]
    assert merge(deltas, density=(1.0,) * 3, consensus="count").tolist() == [-1.5]


def test_a_draw_goes_to_plus_or_to_the_majority():
    deltas = [torch.tensor([2.0, -1.0, -1.0]), torch.tensor([-2.0, -3.0, -1.0])]
    assert merge(deltas, density=(1.0,) * 2).tolist() == [2.0, -2.0, -1.0]
    majority = merge(deltas, density=(1.0,) * 2, zero_rule="majority")
    assert majority.tolist() == [-2.0, -2.0, -1.0]


def test_weights_that_cancel_among_those_who_agree_leave_the_base():
    deltas = [torch.tensor([2.0, 1.0]), torch.tensor([-3.0, 1.0])]
    merged = merge(deltas, density=(1.0,) * 2, weight=(0.3, -0.3))
    assert merged[0] == 0.0
    assert torch.isfinite(merged).all()


def test_density_zero_drops_an_input_altogether():
    assert merge(density=(0.5, 0.0, 0.0)).tolist() == [3.0, 0.0, 2.0, 0.0]


def test_an_input_without_difference_does_no_harm():
    deltas = [torch.zeros(4), DELTAS[0]]
    assert merge(deltas, density=(0.5, 1.0)).tolist() == DELTAS[0].tolist()


@pytest.mark.parametrize(
    ("density", "n", "count"),
    [(0.7, 10, 7), (0.5, 4, 2), (0.29, 100, 29), (1e-6, 5, 1), (0, 5, 0), (0.5, 0, 0)],
)
def test_a_density_keeps_its_part_rounded_down_but_at_least_one(density, n, count):
    assert keep_count(density, n) == count


@pytest.mark.parametrize("n", [7, 1 << 15, (1 << 15) + 1, 1_100_001])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.93])
def test_trimming_keeps_what_a_stable_sort_keeps(n, density):
    values = dyadic((n,), seed=n)  # many equal magnitudes
    keep = keep_count(density, n)
    order = torch.argsort(values.abs(), descending=True, stable=True)
    expected = torch.zeros(n)
    expected[order[:keep]] = values[order[:keep]]
    deltas = Deltas([values], torch.zeros(n))
    (cut,) = size_cuts(deltas, 0, (keep,))
    kept = [left for _, left in left_blocks(deltas, Step(cut=cut), 0)]
    assert torch.equal(torch.cat(kept), expected)


def test_histograms_and_selection_find_the_same_cut():
    values = torch.randn((1 << 15) + 2, generator=torch.Generator().manual_seed(1))
    values[-2:] = 0.0  # pushes the size over the limit without changing the cut
    n = len(values)
    long = size_cuts(Deltas([values], torch.zeros(n)), 0, (1000,))[0]
    short = size_cuts(Deltas([values[:-2]], torch.zeros(n - 2)), 0, (1000,))[0]
    assert long.threshold == short.threshold


@pytest.mark.parametrize("last", [-1, 0, 3, 4, 9, 10])
def test_a_cut_falls_the_same_in_any_blocks(last):
    values = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0, 0.5, 1.0, -3.0, 1.0, 1.0])
    deltas, step = Deltas([values], None), Step(cut=Cut(1.0, last))
    whole = left_of(deltas, step, values)
    for size in (1, 3, 7):
        blocks = [slice(low, min(low + size, 10)) for low in range(0, 10, size)]
        parts = [left_of(deltas, step, values[block], block) for block in blocks]
        assert torch.equal(torch.cat(parts), whole)


def test_a_big_tensor_is_merged_as_the_definition_says():
    n = 300_001
    base = dyadic((n,), 0)
    deltas = [dyadic((n,), seed, 0.25) for seed in (1, 2, 3)]
    weights, densities = (0.5, 1.0, 0.25), (0.3, 0.6, 1.0)
    merged = apply(
        operation("ties", 3, weight=weights, density=densities, lambda_=0.5),
        [base + delta for delta in deltas],
        base,
        "w",
    )
    weighted = []
    for delta, weight, density in zip(deltas, weights, densities, strict=True):
        order = torch.argsort(delta.abs(), descending=True, stable=True)
        delta[order[keep_count(density, n) :]] = 0.0
        weighted.append(delta * weight)
    stack = torch.stack(weighted)
    sign = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = torch.sign(stack) == sign
    under = (agree * torch.tensor(weights)[:, None]).sum(0)
    mean = (stack * agree).sum(0) / torch.where(under == 0, 1.0, under)
    torch.testing.assert_close(merged, base + 0.5 * mean, rtol=1e-6, atol=1e-6)
