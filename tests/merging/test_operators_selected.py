"""Operators that compare differences entry by entry: sce, magmax, ram, consensus ..."""

import itertools
import math

import pytest
import torch
from support.memos import CountingMemo
from support.operations import dyadic, operation

from evomerge.core.recipes.operation import Operation
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators import apply
from evomerge.merging.operators.elementwise.largest import factor, tasks

DELTAS = [
    torch.tensor([3.0, -1.0, 2.0, 0.5]),
    torch.tensor([-2.0, -4.0, 0.1, 1.0]),
    torch.tensor([1.0, 2.0, -3.0, -0.2]),
]


def merge(name, deltas, **knobs):
    """Merge over a zero base, so that inputs are differences."""
    deltas = [torch.as_tensor(delta) for delta in deltas]
    base = torch.zeros_like(deltas[0])
    return apply(operation(name, len(deltas), **knobs), deltas, base, "w")


def assert_close(result, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def test_sce_weighs_by_energy_and_erases_the_minority():
    deltas = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([-1.0, 2.0, 2.0])]
    assert_close(merge("sce", deltas, select_topk=1.0), [1.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("all", [2.0, 0.0, 0.0]), ("weights_only", [2.0, 1.0, 2.0])],
)
def test_sce_selection_drops_entries_or_only_decides_the_weights(scope, expected):
    deltas = [torch.tensor([2.0, 0.0, 2.0]), torch.tensor([-2.0, 1.0, 2.0])]
    assert merge("sce", deltas, select_topk=0.5, mask_scope=scope).tolist() == expected
    same = merge("sce", deltas[:1] * 2, select_topk=0.5, mask_scope=scope)
    assert same.tolist() == ([0.0] * 3 if scope == "all" else [2.0, 0.0, 2.0])


@pytest.mark.parametrize("n", [50, (1 << 15) + 5, 1_050_001])
def test_sce_selects_what_a_stable_sort_selects(n):
    deltas = [dyadic((n,), seed) for seed in (1, 2)]
    variance = torch.stack(deltas).double().var(dim=0, unbiased=False).float()
    keep = math.floor(0.3 * int(torch.count_nonzero(variance)) + 1e-9)
    chosen = torch.argsort(variance, descending=True, stable=True)[:keep]
    masks = torch.zeros(n).index_fill_(0, chosen, 1.0)
    kept = [delta * masks for delta in deltas]
    expected = merge("sce", kept, select_topk=1.0)
    merged = merge("sce", deltas, select_topk=0.3, mask_scope="all")
    assert torch.equal(merged, expected)


def test_magmax_takes_the_largest_difference():
    assert merge("magmax", DELTAS, lambda_=1.0).tolist() == [3.0, -4.0, -3.0, 1.0]
    assert merge("magmax", DELTAS).tolist() == [1.5, -2.0, -1.5, 0.5]


def test_magmax_takes_the_first_or_the_last_of_equals():
    deltas = [torch.tensor([1.0]), torch.tensor([-1.0])]
    assert merge("magmax", deltas, lambda_=1.0).tolist() == [1.0]
    assert merge("magmax", deltas, lambda_=1.0, draw="last").tolist() == [-1.0]


def test_ram_averages_what_is_shared_and_plus_amplifies_what_is_not():
    deltas = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 4.0])]
    assert merge("ram", deltas).tolist() == [2.0, 2.0, 4.0]
    assert_close(merge("ramplus_tl", deltas), [2.0, 2.04, 4.08])
    assert merge("ramplus_tl", deltas, r=0.0).tolist() == [2.0, 2.0, 4.0]
    assert merge("ramplus_tl", deltas, alpha=2.0, r=0.5).tolist() == [2.0, 3.0, 6.0]


def test_ram_takes_differences_up_to_epsilon_for_none():
    deltas = [torch.tensor([1.0, 0.5]), torch.tensor([3.0, 4.0])]
    assert merge("ram", deltas, epsilon=0.5).tolist() == [2.0, 4.0]


def test_ram_without_anything_alone_is_the_mean():
    assert_close(merge("ramplus_tl", DELTAS), torch.stack(DELTAS).mean(0))


def test_pcb_gives_each_entry_to_who_wins_it():
    knobs = {"inter": "product", "r": 0.5, "clip": 0.0, "weight": (1.0,) * 3}
    assert merge("pcb", DELTAS, **knobs).tolist() == [3.0, -4.0, -3.0, 0.0]
    knobs["weight"] = (2.0, 1.0, 0.5)
    assert merge("pcb", DELTAS, **knobs).tolist() == [6.0, -4.0, -1.5, 0.0]


def plain_pcb(deltas, weights, *, r, clip, pairwise):
    """The definition, in fp64 and with full sorts."""
    stack = torch.stack(deltas).double()
    n_tasks, n = stack.shape
    ordered = stack.abs().sort(dim=1).values
    low = ordered[:, int(clip * (n - 1))][:, None]
    high = ordered[:, int((1 - clip) * (n - 1))][:, None]
    sizes = stack.abs().clamp(low, high)
    normal = (sizes - low) / (high - low)
    if pairwise:
        signed = normal * stack.sign()
        inter = torch.tanh(signed[:, None] * signed[None]).sum(1)
    else:
        inter = torch.tanh(stack * stack.sum(0))
    score = torch.exp(n_tasks * normal**2) * inter
    floor = score.sort(dim=1).values[:, math.floor((1 - r) * n + 1e-9)][:, None]
    won = (score.clamp_min(floor) - floor) / (score.amax(1, keepdim=True) - floor)
    taken = sizes * stack.sign() * torch.tensor(weights)[:, None] * won
    return (taken.sum(0) / won.sum(0).clamp_min(1e-12)).float()


@pytest.mark.parametrize("clip", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("inter", ["pairwise", "product"])
@pytest.mark.parametrize("n", [1000, 100_003])
def test_pcb_is_as_defined(n, inter, clip):
    generator = torch.Generator().manual_seed(n)
    deltas = [torch.randn(n, generator=generator) for _ in range(3)]
    weights = (1.2, 0.5, 2.0)
    merged = merge("pcb", deltas, inter=inter, clip=clip, r=0.2, weight=weights)
    expected = plain_pcb(
        deltas, weights, r=0.2, clip=clip, pairwise=inter == "pairwise"
    )
    assert_close(
        merged, expected, 2e-4
    )  # where few win little, a ratio of small numbers


@pytest.mark.parametrize("inter", ["pairwise", "product"])
def test_pcb_looks_at_the_order_of_scores_once_for_all_candidates(inter):
    tensors = [delta_of(n) for n in range(3)]
    base, memo = torch.zeros_like(tensors[0]), CountingMemo()
    for part, weight in ((0.05, 1.2), (0.2, 0.7), (0.2, 1.1), (0.1234567, 1.0)):
        each = (("weight", (weight,) * 3),)
        shared = (("r", part), ("inter", inter))
        operation = Operation("pcb", ("a", "b", "c"), "z", shared, each)
        merged = apply(operation, tensors, base, "w", memo)
        assert torch.equal(merged, apply(operation, tensors, base, "w"))
    # The ends of three inputs, one table, and what is not on the scale.
    assert len(memo.computed) == 5


def delta_of(seed):
    return torch.randn(50_001, generator=torch.Generator().manual_seed(seed))


def test_pcb_of_constant_sizes_is_harmless():
    merged = merge("pcb", [torch.ones(5), -torch.ones(5)])
    assert merged.tolist() == [0.0] * 5


def test_consensus_drops_what_too_few_tasks_use():
    deltas = [torch.tensor([4.0, 1.0, 0.0, 2.0]), torch.tensor([3.0, -1.0, 5.0, 2.0])]
    knobs = {"lambda_t": 0.5, "lambda_": 1.0}
    assert merge("consensus", deltas, k=0, **knobs).tolist() == [7.0, 0.0, 5.0, 4.0]
    assert merge("consensus", deltas, k=1, **knobs).tolist() == [7.0, 0.0, 5.0, 4.0]
    assert merge("consensus", deltas, k=2, **knobs).tolist() == [7.0, 0.0, 0.0, 4.0]
    assert merge("consensus", deltas, k=3, **knobs).tolist() == [0.0] * 4


def test_consensus_may_mask_the_difference_that_ties_merges():
    deltas = [dyadic((40_001,), seed) for seed in (1, 2, 3)]
    density = (0.3, 0.6, 1.0)
    merged = merge(
        "consensus", deltas, source="ties", density=density, lambda_t=0.5, lambda_=0.5
    )
    ties = merge("ties", deltas, density=density)
    used = sum((d.abs() > 0.5 * (ties - d).abs()).int() for d in deltas)
    assert torch.equal(merged, 0.5 * ties * (used >= 2))


def test_emr_unifies_by_the_elected_sign():
    assert merge("emr", DELTAS).tolist() == [3.0, -4.0, -3.0, 1.0]
    assert merge("emr", DELTAS, lambda_=0.5).tolist() == [1.5, -2.0, -1.5, 0.5]


def test_emr_gives_every_task_a_mask_and_a_factor():
    found = tasks(DELTAS, torch.zeros(4))
    assert [task.mask.int().tolist() for task in found] == [
        [1, 1, 0, 1],
        [0, 1, 0, 1],
        [1, 0, 1, 0],
    ]
    factors = [factor(task.own, task.left) for task in found]
    assert factors == pytest.approx([0.8125, 1.42, 1.033333], abs=1e-6)
    assert factor(1.0, 0.0) == 1.0


def test_emr_of_one_task_is_that_task():
    base, expert = dyadic((7, 9), 1), dyadic((7, 9), 2)
    unified = apply(operation("emr", 1), [expert], base, "w") - base
    (task,) = tasks([expert], base)
    ratio = factor(task.own, task.left)
    assert ratio == 1.0
    assert torch.equal(base + ratio * task.mask * unified, expert)


@pytest.mark.parametrize(
    "name", ["magmax", "ram", "ramplus_tl", "pcb", "consensus", "emr"]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(name, bad):
    deltas = [*DELTAS[:2], torch.tensor([1.0, bad, 0.0, 0.0])]
    with pytest.raises(CandidateError, match="w: the difference of input 3"):
        merge(name, deltas)


@pytest.mark.parametrize("name", ["sce", "model_stock", "bcwi", "breadcrumbs", "della"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_a_sum(name, bad):
    deltas = [*DELTAS[:2], torch.tensor([1.0, bad, 0.0, 0.0])]
    assert not torch.isfinite(merge(name, deltas)).all()


@pytest.mark.parametrize(
    "name", ["sce", "magmax", "ram", "ramplus_tl", "pcb", "consensus", "emr"]
)
def test_one_input_without_difference_does_no_harm(name):
    base = dyadic((6, 7), 0)
    tensors = [base, base + dyadic((6, 7), 1), base + dyadic((6, 7), 2)]
    for order in itertools.permutations(tensors):
        assert torch.isfinite(apply(operation(name, 3), order, base, "w")).all()


def test_model_stock_is_pulled_by_the_angle():
    pair = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, math.sqrt(0.75)])]
    assert_close(merge("model_stock", pair), [0.5, 0.288675])
    three = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    assert_close(merge("model_stock", three), [0.5, 0.5, 0.5])


def test_model_stock_of_orthogonal_or_missing_differences_is_the_base():
    assert merge("model_stock", [[1.0, 0.0], [0.0, 1.0]]).tolist() == [0.0, 0.0]
    assert merge("model_stock", [[1.0, 0.0], [0.0, 0.0]]).tolist() == [0.0, 0.0]


def test_model_stock_beyond_the_mean_is_clamped_if_asked():
    apart = [[1.0, 0.0], [-0.6, 0.8]]  # cosine -0.6: t = -3
    assert merge("model_stock", apart).tolist() == [0.0, 0.0]
    assert_close(merge("model_stock", apart, clamp=False), [-0.6, -1.2])
    opposite = [[1.0, 0.0], [-1.0, 0.0]]
    assert merge("model_stock", opposite, clamp=False).tolist() == [0.0, 0.0]


def test_model_stock_scales_its_share():
    pair = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, math.sqrt(0.75)])]
    assert_close(merge("model_stock", pair, t_scale=1.5), [0.75, 0.4330127])


def test_model_stock_may_measure_every_row():
    base = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    tensors = [base + dyadic((5, 300), i) + dyadic((5, 300), 9) for i in (1, 2, 3)]
    merged = apply(operation("model_stock", 3, filter_wise=True), tensors, base, "w")
    rows = [
        apply(operation("model_stock", 3), [t[i] for t in tensors], base[i], "w")
        for i in range(5)
    ]
    assert_close(merged, torch.stack(rows))


def test_model_stock_needs_two_inputs():
    with pytest.raises(RecipeError, match="merges at least two input"):
        merge("model_stock", [[1.0, 0.0]])


def test_bcwi_goes_back_from_the_new_models_to_the_old():
    assert merge("bcwi", [[4.0, 2.0]], alpha=0.25).tolist() == [3.0, 1.5]
    assert merge("bcwi", [[4.0, 2.0], [0.0, 6.0]], alpha=0.5).tolist() == [1.0, 2.0]
    old, new = dyadic((3, 4), 0), dyadic((3, 4), 1)
    for alpha in (0.0, 0.25, 0.5, 1.0):
        plain = operation("linear", 2, weight=(alpha, 1.0 - alpha))
        merged = apply(operation("bcwi", 1, alpha=alpha), [new], old, "w")
        assert_close(merged, apply(plain, [old, new], None, "w"))
