"""SCE in one pass, and selections by variance that are found for all parts at once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.single_steps import single_steps

from evomerge.core.recipes.operation import Operation
from evomerge.merging.derived_data import DerivedData
from evomerge.merging.operators import apply, apply_into
from evomerge.merging.operators.executors.processor import edge
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.variance_histogram import rounded, squares
from evomerge.merging.operators.sums.variances import Selections, select, selection

N = 300_001
"""More than one part for several threads, and not a whole number of blocks."""
PARTS = (0.0, 0.01, 0.0213796, 0.123456789, 0.5, 0.73, 0.99, 1.0)


def parents(
    n_inputs: int, dtype: torch.dtype
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    base = 0.02 * torch.randn(N, generator=generator)
    noise = [torch.randn(N, generator=generator) for _ in range(n_inputs)]
    return base.to(dtype), [(base + 0.002 * change).to(dtype) for change in noise]


def sce(n_inputs: int, part: float, scope: str = "all") -> Operation:
    shared = (("select_topk", part), ("mask_scope", scope), ("lambda", 0.9))
    return Operation("sce", tuple("abcd"[:n_inputs]), "z", shared=shared)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow  # compiles
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("dtype", "n_inputs"),
    [
        (torch.bfloat16, 3),  # as in other tests: compiled once
        pytest.param(torch.bfloat16, 2, marks=pytest.mark.long),
        pytest.param(torch.float32, 2, marks=pytest.mark.long),
        pytest.param(torch.float32, 3, marks=pytest.mark.long),
    ],
)
def test_one_pass_gives_the_bits_of_the_single_steps(
    n_inputs: int, dtype: torch.dtype
) -> None:
    base, tensors = parents(n_inputs, dtype)
    memo = CountingMemo()
    for part in PARTS:
        for scope in ("all", "weights_only"):
            operation = sce(n_inputs, part, scope)
            with single_steps():
                expected = apply(operation, tensors, base, "w").to(dtype)
            merged = torch.empty_like(base)
            for known in (memo, CountingMemo()):
                assert apply_into(merged, operation, tensors, base, "w", known)
                assert torch.equal(merged.view(torch.uint8), expected.view(torch.uint8))
            with threads(4):
                assert apply_into(merged.zero_(), operation, tensors, base, "w")
            assert torch.equal(merged.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "levels",
    [
        30,
        pytest.param(2, marks=pytest.mark.long),
        pytest.param(10**9, marks=pytest.mark.long),
    ],
)
def test_counting_selects_what_the_steps_select(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    values = [torch.randn(N, generator=generator) for _ in range(3)]
    tensors = [(value * levels).round() / levels for value in values]  # many are equal
    deltas = Deltas(tensors, torch.zeros(N))
    for part in PARTS:
        for guard in (True, False):
            found = selection(deltas, part, guard=guard)
            expected = select(deltas, part, guard)
            assert found.energies == expected.energies
            if expected.cut is None:
                assert found.cut is None
                continue
            assert found.cut is not None
            assert found.cut.threshold == expected.cut.threshold
            # All equals stay: then the last place says nothing.
            assert found.cut.last == expected.cut.last or expected.cut.last == N
            assert part == 0.0 or found.near[0] < found.cut.threshold < found.near[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_search_draws_is_found_once() -> None:
    base, tensors = parents(3, torch.bfloat16)
    memo = CountingMemo()
    for part in (0.01, 0.37, 0.1, 0.0100462, 0.5, 1.0, 0.0):
        apply_into(torch.empty_like(base), sce(3, part), tensors, base, "w", memo)
    assert memo.computed == [("variances", "w", "z", "a", "b", "c")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_selections_are_kept_on_disk(tmp_path: Path) -> None:
    base, tensors = parents(3, torch.bfloat16)
    expected = apply(sce(3, 0.3), tensors, base, "w", DerivedData(tmp_path))
    with patch("evomerge.merging.operators.sums.variances._table", None):
        again = apply(sce(3, 0.3), tensors, base, "w", DerivedData(tmp_path))
    assert torch.equal(again, expected)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_variances_close_to_the_cut_are_told_apart_in_one_pass() -> None:
    generator = torch.Generator().manual_seed(1)
    # Differences one rounding apart, large beside what they differ by.
    sizes = 1.0 + 2.0**-20 * torch.randint(0, 9, (3, N), generator=generator)
    tensors = [sizes[0], 1.5 - sizes[1], sizes[2]]
    base = torch.zeros(N)
    for part in (0.2, 0.5, 0.9):
        with single_steps():
            expected = apply(sce(3, part), tensors, base, "w")
        assert torch.equal(apply(sce(3, part), tensors, base, "w"), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told(bad: float) -> None:
    base, tensors = parents(3, torch.bfloat16)
    tensors[1][N // 2] = bad
    for scope in ("all", "weights_only"):
        merged = torch.empty_like(base)
        assert not apply_into(merged, sce(3, 0.5, scope), tensors, base, "w")
        assert not torch.isfinite(merged).all()


@given(
    st.floats(width=32, min_value=0.0, allow_infinity=False),
    st.integers(1, 8),
    st.booleans(),
)
@example(float(np.finfo(np.float32).max), 1, True)
def test_an_edge_is_the_least_sum_whose_mean_rounds_to_the_threshold(
    threshold: float, n: int, beyond: bool
) -> None:
    def reaches(total: float) -> bool:
        with np.errstate(over="ignore"):
            mean = np.float32(total / n)
        return bool(mean > threshold) if beyond else bool(mean >= threshold)

    found = edge(threshold, n, beyond=beyond)
    assert reaches(found)
    assert found == 0.0 or not reaches(math.nextafter(found, 0.0))


def test_nothing_is_beyond_infinity_or_what_is_no_number() -> None:
    assert math.isnan(edge(math.inf, 2, beyond=True))
    assert math.isnan(edge(math.nan, 2))
    assert edge(math.inf, 1) < 2.0**128


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    st.integers(0, 99),
)
def test_sums_of_squares_are_exact_in_any_order(values: list[float], seed: int) -> None:
    each = torch.tensor(values, dtype=torch.float32)
    total = rounded(squares(each).numpy())
    singles = each.square().double().tolist()
    assert float(total) == math.fsum(singles) or math.inf in singles
    assert math.isinf(total) == (math.inf in singles)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    halves = each[order].tensor_split(2)
    cells = torch.stack([squares(half) for half in halves]).sum(dim=0)
    assert rounded(cells.numpy()) == total


def test_selections_of_none_and_of_all_need_no_place_in_the_table() -> None:
    empty = torch.empty(0)
    energies = torch.tensor([[3.0, 5.0]])
    table = Selections(0, empty.long(), empty, empty.long(), empty, energies)
    everything, nothing = table.find(None), table.find(0)
    assert everything is not None
    assert everything.energies == (3.0, 5.0)
    assert nothing is not None
    assert nothing.energies == (0.0, 0.0)
    assert table.find(1) is None
