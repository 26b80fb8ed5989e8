import itertools

import pytest
import torch
from support.operations import operation

from evomerge.core.recipes.recipe import Operation
from evomerge.merging.operators import apply
from evomerge.merging.operators.loops.counter import Coins, stream_key

CPU = torch.device("cpu")
_64 = (1 << 64) - 1


def split_mix(key, j):
    """Word j of the SplitMix64 sequence, in plain integers."""
    z = (key + (j + 1) * 0x9E3779B97F4A7C15) & _64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64
    return z ^ (z >> 31)


def lane(key, element):
    word = split_mix(key, element // 2) >> (32 * (element % 2)) & 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


def mask(n, density=0.5, *, seed=0, name="m1", key="w", operator="dare_linear"):
    """Which of n entries a merge of one input keeps, as 1.0 and 0.0."""
    dare = Operation(
        operator,
        (name,),
        "base",
        shared=(("seed", seed), ("rescale", "none")),
        each=(("density", (density,)),),
    )
    return apply(dare, [torch.ones(n)], torch.zeros(n), key)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_the_stream_is_split_mix_as_published():
    # First outputs of the reference generator from state 0.
    assert split_mix(0, 0) == 0xE220A8397B1DCDAF
    assert split_mix(0, 1) == 0x6E789E6AA1B965F4
    lanes = Coins(4, CPU).lanes(0, slice(0, 4)).tolist()
    assert lanes == [lane(0, element) for element in range(4)]
    assert lanes[0] & 0xFFFFFFFF == 0x7B1DCDAF


@pytest.mark.parametrize("key", [0, 1, 2**63, _64, stream_key(0, "a", "b")])
def test_bits_equal_the_plain_integer_reference(key):
    block = slice(10_000, 10_101)
    lanes = Coins(101, CPU).lanes(key, block).tolist()
    assert lanes == [lane(key, i) for i in range(block.start, block.stop)]


@pytest.mark.parametrize("size", [2, 6, 100, 1000])
def test_bits_do_not_depend_on_how_the_tensor_is_cut(size):
    key = stream_key("cut")
    whole = Coins(1001, CPU).lanes(key, slice(0, 1001)).clone()
    coins = Coins(size, CPU)
    parts = [
        coins.lanes(key, slice(low, min(low + size, 1001))).clone()
        for low in range(0, 1001, size)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_mask_is_the_first_of_bits_below_the_density():
    key = stream_key(7, "dare_linear", "m1", "layer.w")
    expected = [float(lane(key, i) + 2**31 < 0.3 * 2**32) for i in range(1000)]
    assert mask(1000, 0.3, seed=7, key="layer.w").tolist() == expected


def test_a_mask_of_many_blocks_equals_the_plain_integer_reference():
    key = stream_key(0, "dare_linear", "m1", "w")
    n = 400_003
    kept = mask(n)
    for i in itertools.chain(range(0, n, 997), range(131_060, 131_090), (n - 1,)):
        assert kept[i] == float(lane(key, i) < 0)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9])
def test_the_kept_part_is_the_density(density):
    n = 1 << 18
    error = (density * (1 - density) / n) ** 0.5
    assert abs(float(mask(n, density).mean()) - density) < 4 * error


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"name": "m2"}, {"key": "v"}, {"operator": "dare_ties"}],
    ids=lambda other: next(iter(other)),
)
def test_masks_of_other_streams_are_independent(other):
    n = 1 << 18
    assert abs(correlation(mask(n), mask(n, **other))) < 4 / n**0.5


@pytest.mark.parametrize("lag", [1, 2, 3, 32, 4096])
def test_neighbours_within_a_mask_are_independent(lag):
    n = 1 << 18
    kept = mask(n)
    assert abs(correlation(kept[:-lag], kept[lag:])) < 4 / n**0.5


def test_thread_count_does_not_change_a_byte():
    n = 300_001
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, generator=generator) for _ in range(2)]
    dare = operation("dare_ties", density=(0.3, 0.7), rescale="l1")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = apply(dare, tensors, torch.zeros(n), "w")
        torch.set_num_threads(2)
        together = apply(dare, tensors, torch.zeros(n), "w")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


def seed_of(pattern):
    """Find a seed whose mask of four entries is the pattern."""
    return next(s for s in range(1000) if mask(4, seed=s).tolist() == pattern)


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [
        ("inverse", [2.0, 0.0, 6.0, 0.0]),
        ("l1", [2.5, 0.0, 7.5, 0.0]),
        ("none", [1.0, 0.0, 3.0, 0.0]),
    ],
)
def test_kept_differences_are_rescaled(rescale, expected):
    seed = seed_of([1.0, 0.0, 1.0, 0.0])
    dare = operation("dare_linear", 1, density=(0.5,), rescale=rescale, seed=seed)
    delta = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert apply(dare, [delta], torch.zeros(4), "w").tolist() == expected


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_full_density_is_exactly_task_arithmetic(rescale):
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(5, 7, generator=generator) for _ in range(2)]
    base = torch.randn(5, 7, generator=generator)
    weight = (0.6, -0.3)
    dare = operation(
        "dare_linear", weight=weight, density=(1.0, 1.0), rescale=rescale, lambda_=0.9
    )
    plain = operation("task_arithmetic", weight=weight, lambda_=0.9)
    merged = apply(dare, tensors, base, "w")
    assert torch.equal(merged, apply(plain, tensors, base, "w"))


def test_the_mean_over_seeds_is_the_whole_difference():
    delta = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1, 10.0])
    n, density = 4096, 0.3
    total = torch.zeros(6, dtype=torch.float64)
    for seed in range(n):
        dare = operation("dare_linear", 1, density=(density,), seed=seed)
        total += apply(dare, [delta], torch.zeros(6), "w")
    error = delta.abs() * ((1 - density) / density / n) ** 0.5
    assert ((total / n - delta).abs() < 4 * error).all()


def test_column_masks_drop_whole_input_features():
    dare = operation("dare_linear", 1, density=(0.5,), unit="column", rescale="none")
    kept = apply(dare, [torch.ones(300, 1001)], torch.zeros(300, 1001), "w")
    assert torch.equal(kept, kept[:1].expand(300, 1001))
    assert 0.4 < float(kept[0].mean()) < 0.6
    row = apply(dare, [torch.ones(1001)], torch.zeros(1001), "w")
    assert torch.equal(row, kept[0])


def test_dare_ties_elects_among_what_was_kept():
    first, second = torch.full((64,), 3.0), torch.full((64,), -1.0)
    dare = operation("dare_ties", density=(0.5, 0.5), rescale="none")
    merged = apply(dare, [first, second], torch.zeros(64), "w")
    keeps = [mask(64, name=name, operator="dare_ties") == 1.0 for name in ("m1", "m2")]
    expected = torch.where(keeps[0], 3.0, torch.where(keeps[1], -1.0, 0.0))
    assert torch.equal(merged, expected)
    assert len(merged.unique()) == 3


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_an_input_without_difference_does_no_harm(name, rescale):
    base = torch.ones(8)
    dare = operation(name, density=(0.5, 0.5), rescale=rescale)
    assert torch.equal(apply(dare, [base, base], base, "w"), base)


@pytest.mark.parametrize("unit", ["element", "column"])
@pytest.mark.parametrize("rescale", ["inverse", "none"])
def test_mixout_is_dare_of_one_input(unit, rescale):
    generator = torch.Generator().manual_seed(5)
    base, expert = (torch.randn(30, 50, generator=generator) for _ in range(2))
    merge = operation("mixout", p=0.7, unit=unit, rescale=rescale)
    merged = apply(merge, [expert], base, "w").double()
    kept = merged != base
    assert 0.1 < float(kept.double().mean()) < 0.5
    factor = 1 / 0.3 if rescale == "inverse" else 1.0
    # The rule in training: ((1 - m) W0 + m W - p W0) / (1 - p), or a plain mix.
    mixed = torch.where(kept, expert.double(), base.double())
    expected = base + factor * (mixed - base)
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
    if unit == "column":
        assert torch.equal(kept, kept[:1].expand_as(kept))


def test_mixout_without_p_is_the_input_and_with_almost_all_of_it_the_base():
    base, expert = torch.zeros(40, 40), torch.ones(40, 40)
    assert torch.equal(apply(operation("mixout", p=0.0), [expert], base, "w"), expert)
    last = operation("mixout", p=0.999, unit="element", rescale="none")
    assert float(apply(last, [expert], base, "w").mean()) < 0.01
