import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operations import operation

from evomerge.merging.operators import apply
from evomerge.merging.operators.directions.spectral import sizes

BOTH = pytest.mark.parametrize("name", ["iso_c", "iso_cts"])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merge(name, deltas, **knobs):
    asked = operation(name, len(deltas), **knobs)
    return apply(asked, deltas, torch.zeros_like(deltas[0]), "w")


def assert_close(result, expected, tolerance=2e-6):
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def low_rank(rank, seed):
    return randn(12, rank, seed=seed) @ randn(rank, 10, seed=seed + 50)


def test_two_diagonals_become_an_even_one():
    merged = merge(
        "iso_c",
        [torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 0.0]))],
    )
    assert_close(merged, 2.0 * torch.eye(2))


@BOTH
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4))
def test_every_direction_has_the_same_size(name, seed, n):
    deltas = [randn(8, 11, seed=seed + i) for i in range(n)]
    values = torch.linalg.svdvals(merge(name, deltas).double())
    assert_close(values, values.mean().expand(8), 1e-5)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4))
def test_iso_c_keeps_the_nuclear_norm_of_the_sum(seed, n):
    deltas = [randn(8, 11, seed=seed + i) for i in range(n)]
    before = torch.linalg.svdvals(sum(deltas)).sum()
    after = torch.linalg.svdvals(merge("iso_c", deltas)).sum()
    assert_close(after, before, 1e-5)


@BOTH
def test_differences_of_low_rank_may_keep_the_level_of_what_they_have(name):
    deltas = [low_rank(2, seed) for seed in (1, 2)]
    flat = torch.linalg.svdvals(merge(name, deltas).double())
    level = torch.linalg.svdvals(merge(name, deltas, mean_over="nonzero").double())
    assert_close(flat[:4], flat[0].expand(4), 1e-5)
    assert float(flat[4:].max()) < 1e-5
    assert_close(level[:4], flat[:4] * (10 / 4), 1e-5)


def test_iso_cts_with_everything_common_is_iso_c():
    deltas = [randn(8, 11, seed=i) for i in range(3)]
    assert_close(merge("iso_cts", deltas, common_frac=1.0), merge("iso_c", deltas))


def test_iso_cts_of_one_input_is_iso_c():
    delta = [randn(8, 11)]
    assert_close(merge("iso_cts", delta), merge("iso_c", delta), 1e-5)


def test_iso_cts_follows_its_definition_step_by_step():
    deltas = [randn(8, 11, seed=i).double() for i in (1, 2)]
    u, s, v = torch.linalg.svd(sum(deltas), full_matrices=False)
    common, lefts, values, rights = u[:, :6], [u[:, :6]], [s[:6]], [v[:6]]
    for delta in deltas:
        a, b, c = torch.linalg.svd(delta - common @ common.T @ delta)
        lefts.append(a[:, :1])
        values.append(b[:1])
        rights.append(c[:1])

    def nearest(matrix):
        p, _, q = torch.linalg.svd(matrix, full_matrices=False)
        return p @ q

    level = torch.cat(values).mean()
    expected = level * nearest(torch.cat(lefts, 1)) @ nearest(torch.cat(rights))
    merged = merge("iso_cts", [delta.float() for delta in deltas])
    assert_close(merged, expected.float())


@pytest.mark.parametrize(
    ("rank", "n", "part", "expected"),
    [
        (8, 2, 0.8, (6, 1)),
        (8, 2, 1.0, (8, 0)),
        (10, 3, 0.0, (1, 3)),
        (1, 3, 0.8, (1, 0)),
        (5, 6, 0.3, (5, 0)),
    ],
)
def test_sizes_of_the_common_and_the_own_part(rank, n, part, expected):
    assert sizes(rank, n, part) == expected


@settings(max_examples=200)
@given(rank=st.integers(1, 64), n=st.integers(1, 9), part=st.floats(0.0, 1.0))
def test_sizes_always_add_up(rank, n, part):
    common, own = sizes(rank, n, part)
    assert common >= 0
    assert own >= 0
    assert common + n * own == rank


def test_an_input_inside_the_common_directions_adds_no_noise():
    a, b = low_rank(2, 1), low_rank(2, 3)
    merged = merge("iso_cts", [a, b, a + b])
    assert torch.linalg.matrix_rank(merged.double(), rtol=1e-5) == 4


def test_opposite_inputs_leave_the_base():
    delta, base = randn(6, 5, seed=1), randn(6, 5, seed=2)
    asked = operation("iso_c", 2, weight=(1.0, -1.0))
    assert torch.equal(apply(asked, [base + delta] * 2, base, "w"), base)
