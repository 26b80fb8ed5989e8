import logging
import math

import pytest
import torch
from support.operations import operation

from evomerge.merging.operators import apply

E1, E2 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def slerp(a, b, t):
    return apply(operation("slerp", t=t), [a, b], None, "w")


def nuslerp(a, b, base=None, **knobs):
    return apply(
        operation("nuslerp", base=base is not None, **knobs), [a, b], base, "w"
    )


def assert_close(result, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("a", "b", "t", "expected"),
    [
        (E1, E2, 0.5, [0.707107, 0.707107]),
        (E1, E2, 1 / 3, [0.866025, 0.5]),
        (2 * E1, E2, 0.5, [1.414214, 0.707107]),
        (E1, torch.tensor([0.5, math.sqrt(0.75)]), 0.5, [0.866025, 0.5]),
    ],
)
def test_slerp_walks_the_arc(a, b, t, expected):
    assert_close(slerp(a, b, t), expected)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_swapping_the_inputs_mirrors_t(t):
    a, b = randn(4, 5, seed=1), randn(4, 5, seed=2)
    assert_close(slerp(a, b, t), slerp(b, a, 1.0 - t))


def test_unit_inputs_stay_unit():
    a, b = (x / x.norm() for x in (randn(100, seed=1), randn(100, seed=2)))
    for t in (0.1, 0.5, 0.8):
        assert float(slerp(a, b, t).norm()) == pytest.approx(1.0, abs=1e-6)


def test_ends_are_the_inputs():
    a, b = randn(3, 4, seed=1), randn(3, 4, seed=2)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)


def test_nearly_parallel_inputs_are_averaged_in_a_straight_line():
    a = randn(1000, seed=1)
    b = a + 0.01 * randn(1000, seed=2)
    assert_close(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_opposite_inputs_go_straight_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        merged = slerp(E1, -E1, 0.25)
    assert_close(merged, [0.5, 0.0])
    assert "opposite directions" in caplog.text


@pytest.mark.parametrize("t", [0.0, 0.5])
def test_an_input_without_length_goes_straight(t):
    assert_close(slerp(E1, torch.zeros(2), t), (1.0 - t) * E1)
    assert_close(nuslerp(E1, torch.zeros(2), t=t), (1.0 - t) * E1)


def test_nuslerp_takes_t_from_the_weights():
    a, b = randn(6, seed=1), randn(6, seed=2)
    assert_close(nuslerp(a, b, weight=(0.3, 0.7)), nuslerp(a, b, t=0.7))
    assert_close(nuslerp(a, b, weight=(1.0, -1.0)), nuslerp(a, b, t=0.5))
    assert_close(nuslerp(a, b), nuslerp(a, b, t=0.5))


def test_flat_nuslerp_without_base_is_slerp():
    a, b = randn(4, 5, seed=1), randn(4, 5, seed=2)
    assert_close(nuslerp(a, b, t=0.3), slerp(a, b, 0.3))


def test_nuslerp_with_a_base_turns_the_differences():
    base, a, b = randn(4, 5, seed=0), randn(4, 5, seed=1), randn(4, 5, seed=2)
    assert_close(nuslerp(a, b, base, t=0.3), base + slerp(a - base, b - base, 0.3))


@pytest.mark.parametrize("base", [None, randn(3, 5, seed=9)])
def test_axis_in_turns_every_row_by_its_own_angle(base):
    a, b = randn(3, 5, seed=1), randn(3, 5, seed=2)
    start = torch.zeros(3, 5) if base is None else base
    rows = [start[i] + slerp(a[i] - start[i], b[i] - start[i], 0.3) for i in range(3)]
    assert_close(nuslerp(a, b, base, t=0.3, axis="in"), torch.stack(rows))


def test_axis_out_turns_every_column():
    a, b = randn(3, 5, seed=1), randn(3, 5, seed=2)
    columns = nuslerp(a, b, t=0.3, axis="out")
    assert_close(columns, nuslerp(a.T, b.T, t=0.3, axis="in").T)


def test_two_rows_with_different_angles():
    a = torch.stack([E1, E1])
    b = torch.stack([E2, torch.tensor([0.5, math.sqrt(0.75)])])
    merged = nuslerp(a, b, axis="in")
    assert_close(merged, [[0.707107, 0.707107], [0.866025, 0.5]])


def test_a_zero_row_goes_straight_and_stays_finite():
    a, b = randn(3, 5, seed=1), randn(3, 5, seed=2)
    b[1] = 0.0
    merged = nuslerp(a, b, t=0.25, axis="in")
    assert_close(merged[1], 0.75 * a[1])
    assert_close(merged[0], slerp(a[0], b[0], 0.25))


def test_a_vector_turns_as_a_whole_whatever_the_axis():
    a, b = randn(9, seed=1), randn(9, seed=2)
    assert_close(nuslerp(a, b, t=0.3, axis="in"), nuslerp(a, b, t=0.3))


def test_of_stacked_matrices_a_row_turns_by_itself_or_an_entry_of_all():
    a, b = randn(2, 3, 5, seed=1), randn(2, 3, 5, seed=2)
    rows = nuslerp(a, b, t=0.3, axis="in")
    for i in range(2):
        assert_close(rows[i], nuslerp(a[i], b[i], t=0.3, axis="in"))
    entries = nuslerp(a, b, t=0.3, axis="out")
    flat = [tensor.reshape(2, 15) for tensor in (a, b)]
    assert_close(entries.reshape(2, 15), nuslerp(*flat, t=0.3, axis="out"))
