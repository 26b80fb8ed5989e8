import pytest
import torch

from evomerge.core.recipes.recipe import Operation
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.operators import apply


def _op(operator, n, base=False, shared=(), **each):
    names = tuple(f"m{i}" for i in range(1, n + 1))
    return Operation(
        operator, names, "base" if base else None, tuple(shared), tuple(each.items())
    )


def test_linear_averages_by_weight():
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])]
    out = apply(_op("linear", 2, weight=(1.0, 3.0)), tensors, None, "w")
    assert out.tolist() == [4.0, 5.0]


def test_linear_without_normalize_is_the_plain_sum():
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])]
    operation = _op("linear", 2, shared=[("normalize", False)], weight=(1.0, 3.0))
    assert apply(operation, tensors, None, "w").tolist() == [16.0, 20.0]


def test_linear_weights_default_to_equal_shares():
    tensors = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([6.0])]
    assert apply(_op("linear", 3), tensors, None, "w").tolist() == [3.0]


def test_linear_refuses_weights_that_sum_to_zero():
    with pytest.raises(CandidateError, match="sum to zero"):
        apply(_op("linear", 2, weight=(1.0, -1.0)), [torch.ones(2)] * 2, None, "w")


def test_task_arithmetic_adds_scaled_differences():
    base = torch.tensor([1.0, 1.0])
    tensors = [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])]
    operation = _op("task_arithmetic", 2, base=True, shared=[("lambda", 0.5)])
    assert apply(operation, tensors, base, "w").tolist() == [1.5, 2.0]


def test_task_arithmetic_negates_with_a_negative_lambda():
    base, expert = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.5])
    operation = _op("task_arithmetic", 1, base=True, shared=[("lambda", -1.0)])
    assert (
        apply(operation, [expert], base, "w").tolist() == (2 * base - expert).tolist()
    )


def test_result_never_shares_memory_with_an_input():
    tensor = torch.ones(3)
    out = apply(_op("linear", 1), [tensor], None, "w")
    out.zero_()
    assert tensor.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("operation", "n", "message"),
    [
        (_op("blend", 1), 1, "Unknown operator 'blend'"),
        (_op("linear", 2), 1, "got 1 tensors"),
        (_op("linear", 1, shared=[("lambda", 1.0)]), 1, "no knob 'lambda'"),
        (_op("linear", 1, shared=[("weight", 1.0)]), 1, "one value per input"),
        (_op("linear", 1, weight=(float("nan"),)), 1, "finite number"),
        (_op("linear", 1, base=True), 1, "no use for the base"),
        (_op("task_arithmetic", 1), 1, "names none"),
        (_op("task_arithmetic", 1, base=True), 1, "got no base tensor"),
    ],
)
def test_a_broken_operation_is_refused_with_the_reason(operation, n, message):
    with pytest.raises(RecipeError, match=message):
        apply(operation, [torch.ones(2)] * n, None, "w")


def test_tensors_of_different_shapes_are_refused():
    with pytest.raises(RecipeError, match="one shape"):
        apply(_op("linear", 2), [torch.ones(2), torch.ones(3)], None, "w")
