"""Fisher merging (Matena and Raffel 2021): a mean by what each input's output feels."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.operations import operation

from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators import apply


def assert_close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


SEEDS = st.integers(0, 9_999)


@dataclass
class Stated:
    """Statistics given by hand."""

    tensor: torch.Tensor
    norm: float = 1.0


def merged(inputs, fishers, *, norms=None, key="w", **knobs):
    merge = operation("fisher", len(inputs), **knobs)
    norms = norms or [float(f.double().norm()) for f in fishers]
    stated = {
        name: Stated(fisher, norm)
        for name, fisher, norm in zip(merge.inputs, fishers, norms, strict=True)
    }
    return apply(merge, inputs, None, key, statistics=lambda kind, name: stated[name])


def drawn(n, seed, size=200):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, generator=generator) for _ in range(n)]
    fishers = [torch.rand(size, generator=generator) for _ in range(n)]
    return inputs, fishers


def test_two_entries_by_hand():
    # Entry one: (3 * 1 + 1 * 5) / 4; entry two: (1 * 2 + 1 * 4) / 2.
    inputs = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 4.0])]
    fishers = [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])]
    assert merged(inputs, fishers, norm="none").tolist() == [2.0, 3.0]


def test_weights_multiply_what_was_measured():
    inputs = [torch.tensor([1.0]), torch.tensor([5.0])]
    fishers = [torch.tensor([1.0]), torch.tensor([1.0])]
    found = merged(inputs, fishers, norm="none", weight=(0.75, 0.25))
    assert found.tolist() == [2.0]


@given(seed=SEEDS)
def test_the_formula_in_float64(seed):
    inputs, fishers = drawn(3, seed)
    weights = (0.2, 0.3, 0.5)
    found = merged(inputs, fishers, weight=weights, floor=1e-3, power=0.5)
    parts = [
        w * (f.double() / f.double().norm()).clamp_min(1e-3).sqrt()
        for w, f in zip(weights, fishers, strict=True)
    ]
    over = sum(p * x.double() for p, x in zip(parts, inputs, strict=True))
    assert_close(found, (over / sum(parts)).float(), 1e-5)


@given(seed=SEEDS, scale=st.sampled_from([2.0**-20, 2.0, 2.0**20]))
def test_the_size_of_statistics_does_not_matter_where_they_are_divided(seed, scale):
    inputs, fishers = drawn(2, seed)
    larger = [fishers[0] * scale, fishers[1]]
    assert_close(merged(inputs, larger), merged(inputs, fishers), 1e-5)


@given(seed=SEEDS)
def test_equal_statistics_give_the_weighted_mean(seed):
    inputs, fishers = drawn(3, seed)
    weight = (0.5, 0.25, 0.25)
    found = merged(inputs, [fishers[0]] * 3, weight=weight)
    plain = apply(operation("linear", 3, weight=weight), inputs, None, "w")
    assert_close(found, plain, 1e-5)


@given(seed=SEEDS)
def test_the_order_of_inputs_does_not_matter(seed):
    inputs, fishers = drawn(2, seed)
    there = merged(inputs, fishers, weight=(0.25, 0.75))
    back = merged(inputs[::-1], fishers[::-1], weight=(0.75, 0.25))
    assert torch.equal(there, back)


@given(seed=SEEDS)
def test_every_entry_lies_between_those_of_the_inputs(seed):
    inputs, fishers = drawn(3, seed)
    found = merged(inputs, fishers)
    stack = torch.stack(inputs)
    assert (found >= stack.amin(0) - 1e-5).all()
    assert (found <= stack.amax(0) + 1e-5).all()


def test_where_nothing_was_felt_the_plain_mean_stands():
    inputs = [torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])]
    fishers = [torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])]
    assert merged(inputs, fishers, floor=0.0).tolist() == [2.0, 3.0]


def test_blocks_and_types_do_not_change_the_result():
    inputs, fishers = drawn(2, 7, size=100_003)
    whole = merged(inputs, fishers, norms=[1.0, 1.0])
    part = merged(
        [one[:11] for one in inputs], [one[:11] for one in fishers], norms=[1.0, 1.0]
    )
    assert torch.equal(whole[:11], part)
    narrow = [one.bfloat16() for one in inputs]
    assert torch.equal(
        merged(narrow, fishers), merged([one.float() for one in narrow], fishers)
    )


def test_negative_weights_are_refused():
    inputs, fishers = drawn(2, 1)
    with pytest.raises(CandidateError, match="weights of at least zero"):
        merged(inputs, fishers, weight=(1.5, -0.5))


def test_without_statistics_it_is_refused():
    with pytest.raises(RecipeError, match="needs 'fisher' of input 'm1'"):
        apply(operation("fisher", 2), drawn(2, 1)[0], None, "w")
