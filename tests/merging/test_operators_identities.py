"""Operators that are one another with certain knobs."""

import pytest
import torch
from support.operations import operation
from support.thinning import keep_probabilities

from evomerge.core.presets import expand
from evomerge.core.recipes.recipe import Operation
from evomerge.merging.operators import apply
from evomerge.merging.operators.loops.blocks import Deltas


def normal(shape=(40, 33), seed=0):
    generator = torch.Generator().manual_seed(seed)
    base, *tensors = (torch.randn(shape, generator=generator) for _ in range(4))
    return tensors, base


def test_sce_of_equal_inputs_depends_on_what_its_mask_drops():
    (expert, *_), base = normal()
    merged = {
        scope: apply(
            operation("sce", 3, select_topk=0.5, mask_scope=scope),
            [expert] * 3,
            base,
            "w",
        )
        for scope in ("all", "weights_only")
    }
    assert torch.equal(merged["all"], base)
    torch.testing.assert_close(merged["weights_only"], expert, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank_by", ["row_rank", "tensor_rank", "row_minmax"])
def test_della_without_a_spread_has_the_probabilities_of_dare(rank_by):
    (expert, *_), base = normal()
    knobs = {"density": (0.3,), "eps_frac": (0.0,), "rank_by": rank_by}
    deltas = Deltas([expert], base)
    kept = keep_probabilities(operation("della", 1, **knobs), deltas, 0, expert - base)
    assert torch.equal(kept, torch.full_like(kept, 0.3))


def test_plain_bcwi_is_an_average_of_the_old_and_the_new():
    (new, *_), old = normal()
    back = apply(operation("bcwi", 1, alpha=0.3), [new], old, "w")
    average = operation("linear", 2, weight=(0.3, 0.7))
    expected = apply(average, [old, new], None, "w")
    torch.testing.assert_close(back, expected, rtol=1e-6, atol=1e-6)


def test_bcwi_of_several_new_models_is_that_of_their_soup():
    tensors, old = normal()
    soup = apply(operation("linear", 3), tensors, None, "w")
    several = apply(operation("bcwi", 3, alpha=0.3), tensors, old, "w")
    one = apply(operation("bcwi", 1, alpha=0.3), [soup], old, "w")
    torch.testing.assert_close(several, one, rtol=1e-6, atol=1e-6)


def test_wise_ft_is_the_average_of_both_ends():
    (tuned, *_), base = normal()
    way = Operation("wise_ft", ("m1",), "base", shared=(("alpha", 0.25),))
    merged = apply(expand(way), [tuned], base, "w")
    ends = operation("linear", 2, weight=(0.75, 0.25))
    expected = apply(ends, [base, tuned], None, "w")
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)


def test_ties_keeping_everything_of_one_input_is_task_arithmetic():
    (expert, *_), base = normal()
    merged = apply(operation("ties", 1, density=(1.0,)), [expert], base, "w")
    expected = apply(operation("task_arithmetic", 1), [expert], base, "w")
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)
