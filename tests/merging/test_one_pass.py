"""Compiled code gives the bits of the same steps taken one after another."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.memos import CountingMemo
from support.single_steps import single_steps

from evomerge.core.recipes.operation import Operation
from evomerge.errors import RecipeError
from evomerge.merging.operators import apply, apply_into
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import cuts, ranks, row_ranks
from evomerge.merging.operators.thresholds.magnitude_thresholds import (
    magnitude,
    size_cuts,
)

ROWS, LONG = 301, 1000
"""More than one part for several threads, and not a whole number of blocks."""
WEIGHTS = ("weight", (0.5, -0.2, 0.4))
DENSITIES = ("density", (0.3, 0.5, 0.777))

CASES = {
    "linear": Operation("linear", ("a", "b", "c"), each=(WEIGHTS,)),
    "task arithmetic": Operation(
        "task_arithmetic",
        ("a", "b", "c"),
        "z",
        shared=(("lambda", 0.9),),
        each=(WEIGHTS,),
    ),
    "ties": Operation("ties", ("a", "b", "c"), "z", each=(DENSITIES,)),
    "ties, one vote each, weights of both signs, same norm": Operation(
        "ties",
        ("a", "b", "c"),
        "z",
        shared=(("consensus", "count"), ("rescale", "l1")),
        each=(WEIGHTS, DENSITIES),
    ),
    "ties without a mean": Operation(
        "ties", ("a", "b", "c"), "z", shared=(("normalize", False),), each=(DENSITIES,)
    ),
    "dare_linear": Operation(
        "dare_linear", ("a", "b", "c"), "z", each=(WEIGHTS, DENSITIES)
    ),
    "dare_ties, one input whole": Operation(
        "dare_ties", ("a", "b", "c"), "z", each=(("density", (0.3, 1.0, 0.7)),)
    ),
    "dare_ties of columns, one input whole": Operation(
        "dare_ties",
        ("a", "b", "c"),
        "z",
        shared=(("unit", "column"),),
        each=(("density", (0.3, 1.0, 0.7)),),
    ),
    "dare_linear of columns, same norm": Operation(
        "dare_linear",
        ("a", "b", "c"),
        "z",
        shared=(("unit", "column"), ("rescale", "l1")),
        each=(WEIGHTS, DENSITIES),
    ),
    "mixout": Operation("mixout", ("a",), "z"),
    "della": Operation(
        "della", ("a", "b", "c"), "z", each=(("density", (0.3, 0.5, 0.7)),)
    ),
    "della, same norm": Operation(
        "della",
        ("a", "b", "c"),
        "z",
        shared=(("rescale", "l1"),),
        each=(("density", (0.3, 1.0, 0.7)),),
    ),
    "breadcrumbs": Operation(
        "breadcrumbs",
        ("a", "b", "c"),
        "z",
        each=(DENSITIES, ("gamma", (0.0, 0.0203, 0.1))),
    ),
    "breadcrumbs of rows, one input whole": Operation(
        "breadcrumbs",
        ("a", "b", "c"),
        "z",
        shared=(("axis", "row"),),
        each=(("density", (0.3, 1.0, 0.7)), ("gamma", (0.0, 0.0203, 0.1))),
    ),
    "breadcrumbs_ties of rows, same norm": Operation(
        "breadcrumbs_ties",
        ("a", "b"),
        "z",
        shared=(("axis", "row"), ("rescale", "l1")),
        each=(("density", (0.3, 0.7)),),
    ),
    "della by rank in the tensor": Operation(
        "della",
        ("a", "b", "c"),
        "z",
        shared=(("rank_by", "tensor_rank"),),
        each=(("density", (0.3, 1.0, 0.7)),),
    ),
    "sce": Operation("sce", ("a", "b", "c"), "z"),
}


STORED = (
    "linear",
    "ties",
    "dare_linear",
    "dare_ties, one input whole",
    "breadcrumbs",
    "della, same norm",
    "sce",
)
"""One of each loop; that of the others gives these bits in fp32 is among the laws."""


def long_unless(name: str, quick: Collection[str]) -> Any:
    """Name a case that is among the long tests if it is not a quick one."""
    return pytest.param(name, marks=() if name in quick else pytest.mark.long)


def parents(dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(ROWS, LONG, generator=generator)
    near = [base + 0.01 * torch.randn(base.shape, generator=generator) for _ in "abc"]
    base[1], base[2] = 0.0, -0.0
    near[0][2] = -0.0
    return base.to(dtype), [tensor.to(dtype) for tensor in near]


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow  # compiles one form for each
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [long_unless(name, STORED) for name in CASES])
def test_one_pass_gives_the_bits_of_the_single_steps(name: str) -> None:
    operation = CASES[name]
    base, tensors = parents(torch.bfloat16)
    tensors = tensors[: len(operation.inputs)]
    start = base if operation.base else None
    with single_steps():
        expected = apply(operation, tensors, start, "w")
    merged = torch.empty_like(base)
    assert apply_into(merged, operation, tensors, start, "w")
    # Seen as words, so that zeros of both signs are told apart.
    rounded = expected.to(torch.bfloat16)
    assert torch.equal(merged.view(torch.int16), rounded.view(torch.int16))
    again = torch.empty_like(base)
    with threads(4):
        assert apply_into(again, operation, tensors, start, "w")
    assert torch.equal(again.view(torch.int16), merged.view(torch.int16))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties, one input whole"])
def test_odd_numbers_of_entries_and_odd_places_in_memory_are_merged_alike(
    name: str, first: int
) -> None:
    operation = CASES[name]
    whole, all_of_them = parents(torch.bfloat16)
    n = ROWS * LONG - 1
    base, *tensors = (t.view(-1)[first : first + n] for t in (whole, *all_of_them))
    start = base if operation.base else None
    with single_steps():
        expected = apply(operation, tensors, start, "w").to(torch.bfloat16)
    merged = torch.full((len(base) + 2,), 7.0, dtype=torch.bfloat16)
    assert apply_into(merged[1:-1], operation, tensors, start, "w")
    assert torch.equal(merged[1:-1].view(torch.int16), expected.view(torch.int16))
    assert merged[0] == merged[-1] == 7.0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_element_type_is_read_and_rounded_as_torch_does(
    dtype: torch.dtype,
) -> None:
    base, tensors = parents(dtype)
    for values in (base, *tensors):  # also the smallest numbers and both zeros
        values[0] *= 1e-6
        values[1] = 0.0
        values[2] = -0.0
    mixed = [tensors[0].to(torch.bfloat16), tensors[1], tensors[2].to(torch.float32)]
    operation = CASES["task arithmetic"]
    with single_steps():
        expected = apply(operation, mixed, base, "w")
    for wanted in (torch.float16, torch.bfloat16, torch.float32):
        merged = torch.empty(base.shape, dtype=wanted)
        assert apply_into(merged, operation, mixed, base, "w")
        assert torch.equal(merged, expected.to(wanted))


def test_what_is_no_number_is_told_however_it_is_written() -> None:
    base, tensors = (torch.zeros(200, 200), [torch.zeros(200, 200) for _ in "ab"])
    tensors[0].view(torch.int32)[7, 7] = 0x7FFFFFFF  # rounds to zero if not looked at
    merged = torch.empty(base.shape, dtype=torch.bfloat16)
    operation = Operation("linear", ("a", "b"), each=(("weight", (0.5, 0.5)),))
    assert not apply_into(merged, operation, tensors, None, "w")
    assert not bool(torch.isfinite(merged).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_told(bad: float) -> None:
    base, tensors = parents(torch.bfloat16)
    tensors[1][ROWS // 2, 3] = bad
    merged = torch.empty_like(base)
    assert not apply_into(merged, CASES["linear"], tensors, None, "w")
    assert not bool(torch.isfinite(merged).all())


def test_what_overflows_the_wanted_type_is_told() -> None:
    tensors = [torch.full((200, 200), 6e4)] * 3
    operation = Operation("linear", ("a", "b", "c"), each=(("weight", (2.0,) * 3),))
    shared = (("normalize", False),)
    operation = Operation("linear", ("a", "b", "c"), None, shared, operation.each)
    for dtype, fits in ((torch.float32, True), (torch.float16, False)):
        merged = torch.empty(200, 200, dtype=dtype)
        assert apply_into(merged, operation, tensors, None, "w") is fits


def test_a_result_of_another_shape_is_refused() -> None:
    _, tensors = parents(torch.bfloat16)
    with pytest.raises(RecipeError, match=r"have shape \[301, 1000\], but \[3, 7\]"):
        apply_into(torch.empty(3, 7), CASES["linear"], tensors, None, "w")


@pytest.mark.parametrize("levels", [3, 50, 10**9])
def test_counting_finds_the_cuts_that_histograms_find(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    values = torch.randn(200_000, generator=generator)
    values = (values * levels).round() / levels  # few levels: many equal sizes
    deltas = Deltas([values], torch.zeros_like(values))
    keeps = [0, 1, 2, 777, 100_000, 150_001, 199_999, 200_000]
    counted = size_cuts(deltas, 0, keeps)
    sizes = values.abs()
    for keep, cut, other in zip(
        keeps, counted, cuts(deltas, magnitude(deltas, 0), keeps), strict=True
    ):
        places = torch.arange(len(values))
        kept = (sizes > cut.threshold) | (
            (sizes == cut.threshold) & (places <= cut.last)
        )
        assert int(kept.sum()) == keep
        assert 0 < keep < len(values) or cut == other
        assert cut.threshold == other.threshold


def test_cuts_on_the_grid_are_found_once_for_all_candidates() -> None:
    base, tensors = parents(torch.bfloat16)
    memo = CountingMemo()
    for density in (0.1, 0.37, 0.9):
        each = (("density", (density, 0.5, 1.0)),)
        operation = Operation("ties", ("a", "b", "c"), "z", each=each)
        merged = apply(operation, tensors, base, "w", memo)
        assert torch.equal(merged, apply(operation, tensors, base, "w"))
    expected = [("magnitudes", "w", "z", "a"), ("magnitudes", "w", "z", "b")]
    assert sorted(memo.computed) == expected


def test_ranks_in_rows_are_those_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(300, 129, generator=generator).mul(4).round().div(4)
    found = row_ranks(Deltas([values], torch.zeros_like(values)), 0, 129)
    assert found is not None
    assert torch.equal(found.view(300, 129).to(torch.int64), ranks(values.abs()))


def test_what_compiles_does_not_disturb_who_looks_into_every_module() -> None:
    import evomerge.merging.kernels.merge  # noqa: F401

    # vLLM asks every value of every module for its attributes, if it has any.
    handle = sys.modules["llvmlite.binding.ffi"].lib
    assert not hasattr(handle, "__dict__")
    assert callable(handle.LLVMPY_GetVersionInfo)
