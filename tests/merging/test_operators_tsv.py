import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operations import operation

from evomerge.merging.operators import apply


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merge(deltas, **knobs):
    asked = operation("tsv", len(deltas), **knobs)
    return apply(asked, deltas, torch.zeros_like(deltas[0]), "w")


def assert_close(result, expected, tolerance=2e-6):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def truncated(matrix, rank):
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


def diagonal(*values):
    return torch.diag(torch.tensor(values))


def test_differences_in_different_directions_add_up():
    merged = merge([diagonal(3.0, 0.0, 0.0, 0.0), diagonal(0.0, 2.0, 0.0, 0.0)])
    assert_close(merged, diagonal(3.0, 2.0, 0.0, 0.0))


@pytest.mark.parametrize("shape", [(6, 6), (3, 7), (7, 3), (1, 4)])
def test_one_input_keeps_its_difference(shape):
    delta = randn(*shape)
    assert_close(merge([delta]), delta)


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)])
def test_two_equal_inputs_give_the_leading_half_of_their_difference(shape):
    delta = randn(*shape)
    assert_close(merge([delta, delta]), truncated(delta, min(shape) // 2))


def test_equal_inputs_without_loss_give_their_difference():
    delta = randn(6, 6)
    assert_close(merge([delta, delta], rank_frac=1.0), delta, 1e-5)


def test_directions_of_no_size_do_not_turn_those_of_some():
    deltas = [randn(16, 2, seed=i) @ randn(2, 16, seed=i + 9) for i in (1, 2)]
    only_real = merge(deltas, rank_frac=2 / 16)
    assert_close(merge(deltas), only_real, 1e-5)
    assert_close(merge(deltas, rank_frac=1.0), only_real, 1e-5)


def test_singular_vectors_of_the_result_are_orthogonal_with_the_inputs_values():
    deltas = [randn(12, 12, seed=i) for i in (1, 2, 3)]
    values = torch.cat([torch.linalg.svdvals(delta)[:4] for delta in deltas])
    merged = torch.linalg.svdvals(merge(deltas))
    assert_close(merged, values.sort(descending=True).values, 1e-5)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_a_rotation_on_either_side_rotates_the_result(seed):
    left, _ = torch.linalg.qr(randn(6, 6, seed=seed).double())
    right, _ = torch.linalg.qr(randn(8, 8, seed=seed + 1).double())
    deltas = [randn(6, 8, seed=seed + i) for i in (2, 3)]
    turned = [(left @ delta.double() @ right).float() for delta in deltas]
    expected = (left @ merge(deltas).double() @ right).float()
    assert_close(merge(turned), expected, 1e-4)


def test_every_input_counts_by_its_weight():
    a, b = diagonal(3.0, 0.0), diagonal(0.0, 2.0)
    assert_close(merge([a, b], weight=(2.0, -0.5)), diagonal(6.0, -1.0))


@pytest.mark.parametrize(
    ("part", "rank"), [(0.0, 0), (0.1, 1), (0.5, 3), (0.67, 4), (1.0, 6)]
)
def test_a_part_of_the_directions_is_kept_and_at_least_one(part, rank):
    delta = randn(6, 9)
    assert_close(merge([delta], rank_frac=part), truncated(delta, rank))


def test_more_inputs_than_directions_keep_one_each():
    deltas = [randn(1, 4, seed=i) for i in range(3)]
    merged = merge(deltas)
    assert torch.linalg.matrix_rank(merged) == 1
