"""Operators that bring parts of one model into another: arcee_fusion and nearswap."""

import pytest
import torch
from support.memos import CountingMemo
from support.operations import operation
from support.single_steps import single_steps

from evomerge.errors import CandidateError
from evomerge.merging.operators import apply, apply_into


def merge(name, base, other, **knobs):
    tensors = [torch.as_tensor(x, dtype=torch.float32) for x in (base, other)]
    return apply(operation(name, **knobs), tensors[1:], tensors[0], "w")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_arcee_fusion_takes_what_stands_out():
    merged = merge("arcee_fusion", [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 9.0])
    assert merged.tolist() == [0.0, 0.0, 0.0, 9.0]


def test_arcee_fusion_of_equals_is_the_base():
    base = randn(4, 5)
    assert torch.equal(merge("arcee_fusion", base, base), base)


@pytest.mark.parametrize("kappa", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("shape", [(33, 1001), (2000, 600), (70_001,)])
def test_arcee_fusion_is_as_defined_with_exact_quantiles(shape, kappa):
    base, other = 0.1 * randn(*shape, seed=1), 0.1 * randn(*shape, seed=2)
    p, q = (torch.softmax(x, dim=-1) + 1e-8 for x in (other, base))
    terms = p * torch.log(p / q)
    divergence = terms.sum(-1, keepdim=True, dtype=torch.float64).float()
    importance = (other - base).abs() * divergence
    ordered = importance.flatten().sort().values.double()
    low, middle, high = (
        ordered[int(f * (len(ordered) - 1))] for f in (0.25, 0.5, 0.75)
    )
    taken = importance >= middle + kappa * (high - low)
    expected = base + (other - base) * taken
    assert 0.0 < float(taken.float().mean()) <= 0.51
    assert torch.equal(merge("arcee_fusion", base, other, kappa=kappa), expected)


def test_arcee_fusion_of_nearly_equal_models_is_as_defined():
    base = randn(300, 200, seed=1)
    other = base + 1e-6 * randn(300, 200, seed=2)  # divergences of either sign
    merged = merge("arcee_fusion", base, other)
    taken = merged != base
    assert torch.equal(merged[taken], (base + (other - base))[taken])
    assert 0.0 < float(taken.float().mean()) < 0.5


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_arcee_fusion_in_one_pass_gives_the_bits_of_its_steps(dtype):
    base = (0.1 * randn(301, 1000, seed=1)).to(dtype)
    other = (base.float() + 0.01 * randn(301, 1000, seed=2)).to(dtype)
    base[0, :3] = torch.tensor([0.0, -0.0, 0.0])
    with single_steps():
        expected = apply(operation("arcee_fusion"), [other], base, "w").to(dtype)
    merged = torch.empty_like(base)
    assert apply_into(merged, operation("arcee_fusion"), [other], base, "w")
    assert torch.equal(merged.view(torch.uint8), expected.view(torch.uint8))


def test_arcee_fusion_looks_at_a_pair_of_models_once():
    base, other = 0.1 * randn(40, 50, seed=1), 0.1 * randn(40, 50, seed=2)
    memo = CountingMemo()
    for kappa in (0.5, 1.5):
        found = apply(operation("arcee_fusion", kappa=kappa), [other], base, "w", memo)
        assert torch.equal(found, merge("arcee_fusion", base, other, kappa=kappa))
    assert memo.computed == [("importance", "w", "base", "m1")]


def test_nearswap_takes_steps_of_at_most_t():
    merged = merge("nearswap", [0.0, 0.0, 0.0], [0.05, 0.2, 1.0], t=0.1)
    torch.testing.assert_close(merged, torch.tensor([0.05, 0.1, 0.1]))
    back = merge("nearswap", [0.0, 0.0, 0.0], [-0.05, -0.2, -1.0], t=0.1)
    torch.testing.assert_close(back, -merged)


def test_nearswap_lies_between_its_models_and_ends_at_either():
    base, other = randn(30, 40, seed=1), randn(30, 40, seed=2)
    merged = merge("nearswap", base, other, t=0.1)
    assert (merged >= torch.minimum(base, other) - 1e-6).all()
    assert (merged <= torch.maximum(base, other) + 1e-6).all()
    assert torch.equal(merge("nearswap", base, other, t=0.0), base)
    torch.testing.assert_close(merge("nearswap", base, other, t=100.0), other)


@pytest.mark.parametrize("name", ["arcee_fusion", "nearswap"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(name, bad):
    with pytest.raises(CandidateError, match="w: the difference of input 1"):
        merge(name, [0.0, 1.0], [bad, 1.0])
