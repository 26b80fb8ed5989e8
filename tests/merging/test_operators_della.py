import pytest
import torch
from support.operations import dyadic, operation
from support.thinning import left_of

from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.operators import apply
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.della import prune

ROW = torch.tensor([0.4, -0.1, 0.3, -0.2, 0.5])
CHECK = {"density": (0.6,), "epsilon": (0.2,)}


def thinned(values, *, seed=0, key="w", **knobs):
    """What one input's differences become under a merge."""
    merge = operation("della_linear", 1, seed=seed, **knobs)
    return apply(merge, [values], torch.zeros_like(values), key)


def kept_part(row, n, **knobs):
    """The part of n equal rows that keeps each entry."""
    return (thinned(row.repeat(n, 1), rescale="none", **knobs) != 0).float().mean(0)


def test_kept_entries_are_divided_by_their_probability():
    whole = torch.tensor([0.571429, -0.25, 0.5, -0.4, 0.625])
    seen = torch.zeros(5, dtype=torch.bool)
    for seed in range(50):
        merged = thinned(ROW, seed=seed, **CHECK)
        kept = merged != 0
        torch.testing.assert_close(merged, whole * kept, rtol=0, atol=1e-6)
        seen |= kept
    assert seen.all()


@pytest.mark.parametrize(
    ("row", "knobs", "expected"),
    [
        (ROW, CHECK, [0.7, 0.4, 0.6, 0.5, 0.8]),
        (ROW, {"density": (0.6,), "eps_frac": (0.5,)}, [0.7, 0.4, 0.6, 0.5, 0.8]),
        (ROW, {"density": (0.6,), "eps_frac": (0.0,)}, [0.6] * 5),
        (
            torch.tensor([3.0, -1.0, 1.5]),
            {**CHECK, "rank_by": "row_minmax"},
            [0.8, 0.4, 0.5],
        ),
        (torch.full((3,), -2.0), {**CHECK, "rank_by": "row_minmax"}, [0.6] * 3),
        (torch.tensor([3.0]), CHECK, [0.6]),
    ],
)
def test_an_entry_is_kept_with_the_probability_of_its_rank(row, knobs, expected):
    n = 10_000
    expected = torch.tensor(expected)
    error = (expected * (1 - expected) / n) ** 0.5
    assert ((kept_part(row, n, **knobs) - expected).abs() < 4 * error).all()


def test_by_tensor_rank_the_largest_of_all_are_kept_most():
    values = torch.randperm(10_000, generator=torch.Generator().manual_seed(1)) + 1.0
    knobs = {"density": (0.6,), "epsilon": (0.3,), "rescale": "none"}
    kept = thinned(values.view(100, 100), rank_by="tensor_rank", **knobs) != 0
    by_size = kept.view(-1)[torch.argsort(values)].float().view(10, 1000).mean(1)
    expected = torch.arange(0.33, 0.9, 0.06)
    assert ((by_size - expected).abs() < 4 * 0.5 / 1000**0.5).all()


def test_of_equals_the_first_ranks_higher():
    parts = kept_part(torch.ones(64), 300, density=(0.5,), eps_frac=(0.99,))
    assert float(parts[:8].min()) > 0.8
    assert float(parts[-8:].max()) < 0.2


def test_the_mean_over_rows_is_the_whole_difference():
    delta = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1, 10.0])
    n = 4096
    merged = thinned(delta.repeat(n, 1), density=(0.5,), epsilon=(0.2,))
    error = delta.abs() * (0.7 / 0.3 / n) ** 0.5
    assert ((merged.mean(0) - delta).abs() < 4 * error).all()


@pytest.mark.parametrize("rank_by", ["row_rank", "tensor_rank", "row_minmax"])
def test_scaling_to_the_l1_norm_keeps_it(rank_by):
    delta = dyadic((30, 40), 3)
    merged = thinned(delta, density=(0.4,), rescale="l1", rank_by=rank_by)
    assert 0.3 < float((merged != 0).float().mean()) < 0.5
    assert float(merged.abs().sum()) == pytest.approx(float(delta.abs().sum()), 1e-5)


@pytest.mark.parametrize("name", ["della", "della_linear"])
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_full_density_thins_nothing_whatever_the_spread(name, rescale):
    base = dyadic((5, 7), 0)
    tensors = [base + dyadic((5, 7), i, 0.25) for i in (1, 2)]
    knobs = {"weight": (0.5, 0.25), "lambda_": 0.75, "normalize": False}
    full = operation(
        name, 2, density=(1.0, 1.0), epsilon=(0.3, 0.3), rescale=rescale, **knobs
    )
    plain = {"della": "ties", "della_linear": "task_arithmetic"}[name]
    more = {"density": (1.0, 1.0)} if plain == "ties" else {}
    expected = apply(operation(plain, 2, **knobs, **more), tensors, base, "w")
    assert torch.equal(apply(full, tensors, base, "w"), expected)


def test_della_averages_those_who_agree():
    deltas = [torch.full((256,), 3.0), torch.full((256,), -1.0)]
    merge = operation("della", density=(0.5, 0.5), rescale="none", weight=(2.0, 1.0))
    merged = apply(merge, deltas, torch.zeros(256), "w")
    assert sorted(merged.unique().tolist()) == [-1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"key": "v"}], ids=lambda other: next(iter(other))
)
def test_other_streams_have_other_masks(other):
    values = dyadic((100, 100), 1) + 2.0
    knobs = {"density": (0.5,), "rescale": "none"}
    mine = thinned(values, **knobs) != 0
    theirs = thinned(values, **knobs, **other) != 0
    assert 0.4 < float((mine == theirs).float().mean()) < 0.6


@pytest.mark.parametrize("rank_by", ["row_rank", "tensor_rank", "row_minmax"])
def test_rows_of_any_length_are_thinned_the_same_in_any_blocks(rank_by):
    shape = (41, 1001)  # blocks of 32 rows, and an odd row length
    values = dyadic(shape, 5)
    merge = operation("della_linear", 1, density=(0.5,), rank_by=rank_by)
    settings = resolve(merge)
    base = torch.zeros(shape)
    whole = Deltas([values], base, multiple_of=values.numel())
    (step,) = prune(settings, whole, "w")
    one = left_of(whole, step, values.view(-1))
    assert torch.equal(apply(merge, [values], base, "w").view(-1), one)


@pytest.mark.parametrize(("density", "epsilon"), [(0.3, 0.3), (0.8, 0.2), (0.5, 0.5)])
def test_probabilities_beyond_0_and_1_are_refused(density, epsilon):
    merge = operation("della", 1, density=(density,), epsilon=(epsilon,))
    with pytest.raises(RecipeError, match="must lie between 0 and 1"):
        resolve(merge)


def test_both_spreads_at_once_are_refused():
    merge = operation("della", 1, eps_frac=(0.5,), epsilon=(0.1,))
    with pytest.raises(RecipeError, match="eps_frac or epsilon, not both"):
        resolve(merge)
