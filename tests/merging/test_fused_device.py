"""Formulas for accelerators give the bits of single steps, compiled or not."""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from support.single_steps import single_steps

from evomerge.core.recipes.operation import Operation
from evomerge.merging.form import Form, Total
from evomerge.merging.operators import apply_into
from evomerge.merging.operators.executors import accelerator
from evomerge.merging.operators.executors.accelerator import (
    Accelerator,
    Entries,
    Formula,
    Kind,
    Tables,
    formula,
)
from evomerge.merging.operators.executors.merge import Executor
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import Coins, lanes_at, signed
from evomerge.merging.operators.loops.order_statistics import row_ranks, sorted_ranks

SHAPE = (70, 1001)
"""Not a whole number of rows of a formula; the last of them begin at an odd entry."""
COMPILING = Accelerator(pays_from=0)
"""Keeps what was compiled from test to test."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ABC = ("a", "b", "c")
WEIGHTS = ("weight", (0.5, -0.2, 0.4))
OTHERS = ("weight", (0.3, -0.7, 0.1))
DENSITIES = ("density", (0.3, 0.5, 0.777))
GAMMAS = ("gamma", (0.0, 0.0203, 0.1))

CASES = {
    "linear": Operation("linear", ABC, each=(WEIGHTS,)),
    "task arithmetic": Operation(
        "task_arithmetic", ABC, "z", shared=(("lambda", 0.9),), each=(WEIGHTS,)
    ),
    "task arithmetic, normalised": Operation(
        "task_arithmetic", ABC, "z", shared=(("normalize", True),), each=(WEIGHTS,)
    ),
    "ties": Operation("ties", ABC, "z", each=(DENSITIES,)),
    "ties, one input whole": Operation(
        "ties", ABC, "z", each=(("density", (0.3, 1.0, 0.0)),)
    ),
    "ties, weights of both signs": Operation(
        "ties", ABC, "z", shared=(("lambda", 0.9),), each=(WEIGHTS, DENSITIES)
    ),
    "ties, one vote each, same norm": Operation(
        "ties",
        ABC,
        "z",
        shared=(("consensus", "count"), ("rescale", "l1")),
        each=(WEIGHTS, DENSITIES),
    ),
    "ties without a mean": Operation(
        "ties", ABC, "z", shared=(("normalize", False),), each=(WEIGHTS, DENSITIES)
    ),
    "breadcrumbs": Operation("breadcrumbs", ABC, "z", each=(DENSITIES, GAMMAS)),
    "breadcrumbs_ties": Operation(
        "breadcrumbs_ties", ABC, "z", each=(WEIGHTS, DENSITIES, GAMMAS)
    ),
    "dare_linear": Operation("dare_linear", ABC, "z", each=(WEIGHTS, DENSITIES)),
    "dare_ties, one input whole": Operation(
        "dare_ties", ABC, "z", each=(("density", (0.3, 1.0, 0.7)),)
    ),
    "dare_ties, same norm": Operation(
        "dare_ties", ABC, "z", shared=(("rescale", "l1"),), each=(DENSITIES,)
    ),
    "della, one input whole": Operation(
        "della", ABC, "z", each=(("density", (0.3, 1.0, 0.7)),)
    ),
    "della, not rescaled": Operation(
        "della", ABC, "z", shared=(("rescale", "none"),), each=(DENSITIES,)
    ),
    "della_linear": Operation("della_linear", ABC, "z", each=(WEIGHTS, DENSITIES)),
}
COMPILED = ("ties", "dare_linear", "della, one input whole")
"""By size and by chance, and both merges; the others are among the long tests."""


def parents(dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(SHAPE, generator=generator)
    near = [base + 0.01 * torch.randn(SHAPE, generator=generator) for _ in ABC]
    # Few levels: many sizes are equal, also to where they are cut.
    near = [base + ((x - base) * 512).round() / 512 for x in near]
    base[1], base[2] = 0.0, -0.0
    near[0][2] = -0.0
    return base.to(dtype), [tensor.to(dtype) for tensor in near]


@contextmanager
def on_device(fused: Accelerator) -> Iterator[None]:
    """Take tensors in memory for such that lie on an accelerator."""
    where = "evomerge.merging.operators.executors."
    only = (Executor(fused.can, fused.write),)
    with (
        patch(where + "merge.EXECUTORS", only),
        patch(where + "accelerator._is_accelerator", lambda _: True),
    ):
        yield


def quick_or_long() -> Iterator[Any]:
    for name, dtype in itertools.product(CASES, DTYPES):
        # Sizes are summed up in a loop of the CPU, compiled for each type.
        is_long = "same norm" in name and dtype is not torch.bfloat16
        yield pytest.param(name, dtype, marks=pytest.mark.long if is_long else ())


QUICK = list(quick_or_long())


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Seen as words, zeros of both signs are told apart."""
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_bits_of_single_steps(
    fused: Accelerator,
    operation: Operation,
    parents: tuple[torch.Tensor, list[torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    base, tensors = parents
    start = base if operation.base else None
    expected, merged = (torch.empty(base.shape, dtype=dtype) for _ in range(2))
    with single_steps():
        apply_into(expected, operation, tensors, start, "w")
    with on_device(fused):
        for _ in range(2):  # checked, then trusted
            assert apply_into(merged.zero_(), operation, tensors, start, "w")
            assert torch.equal(bits(merged), bits(expected))


@pytest.mark.parametrize(("name", "dtype"), QUICK)
def test_formulas_give_the_bits_of_single_steps(name: str, dtype: torch.dtype) -> None:
    fused = Accelerator(formula, 0)
    assert_bits_of_single_steps(fused, CASES[name], parents(dtype), dtype)


def test_element_types_may_differ() -> None:
    base, (a, b, c) = parents(torch.bfloat16)
    mixed = base.to(torch.float32), [a, b.to(torch.float16), c.to(torch.float32)]
    for dtype in DTYPES:
        assert_bits_of_single_steps(
            Accelerator(formula, 0), CASES["ties"], mixed, dtype
        )


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "dare_ties, one input whole"])
def test_large_tensors_are_merged_in_parts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_MOST_ROWS", 17)
    fused = Accelerator(formula, 0)
    assert_bits_of_single_steps(fused, CASES[name], parents(DTYPES[1]), DTYPES[1])


def test_lanes_are_those_that_are_counted_in_blocks() -> None:
    key = 0xFEDCBA9876543210
    lanes = Coins(1000, torch.device("cpu")).lanes(key, slice(2**33, 2**33 + 999))
    places = torch.arange(2**33, 2**33 + 999)
    found = lanes_at(torch.tensor(signed(key)), places)
    assert torch.equal(found, lanes.to(torch.int64))


def test_ranks_by_sorting_are_those_that_are_counted() -> None:
    base, (a, _, _) = parents(torch.bfloat16)
    deltas = Deltas([a], base)
    counted = row_ranks(deltas, 0, SHAPE[1])
    assert counted is not None
    assert torch.equal(sorted_ranks(deltas, 0, SHAPE[1]), counted)


def test_what_is_not_on_a_device_or_of_no_known_kind_is_not_fused() -> None:
    def can(device: str, dtype: torch.dtype = torch.bfloat16, n: int = 1 << 16) -> bool:
        tensors = [torch.empty(n, dtype=dtype, device=device) for _ in "ab"]
        form = Form(Total((1.0, 1.0)))
        return accelerator.ACCELERATOR.can(Deltas(tensors, None), form, tensors[0])

    assert can("meta")
    assert not can("cpu")
    assert not can("meta", torch.float64)
    assert not can("meta", n=1000)


def test_what_is_not_finite_is_told_and_speaks_against_no_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[Kind] = []

    def compiler(kind: Kind) -> Formula:
        made.append(kind)
        return formula(kind)

    base, tensors = parents(torch.float16)
    sound = tensors[1].clone()
    merged = torch.empty_like(base)
    with on_device(Accelerator(compiler, 0)):
        for bad in (float("nan"), float("inf")):
            tensors[1].copy_(sound)[30, 3] = bad
            assert not apply_into(merged, CASES["breadcrumbs"], tensors, base, "w")
            assert not bool(torch.isfinite(merged).all())
        tensors[1].copy_(sound)
        assert apply_into(merged, CASES["breadcrumbs"], tensors, base, "w")
    assert len(made) == 1
    assert not caplog.records


def test_what_overflows_the_wanted_type_is_told() -> None:
    tensors = [torch.full((200, 200), 6e4)] * 3
    each = (("weight", (2.0,) * 3),)
    operation = Operation("linear", ABC, None, (("normalize", False),), each)
    with on_device(Accelerator(formula, 0)):
        for dtype, fits in ((torch.float32, True), (torch.float16, False)):
            merged = torch.empty(200, 200, dtype=dtype)
            assert apply_into(merged, operation, tensors, None, "w") is fits


def test_nothing_is_compiled_before_it_pays() -> None:
    base, tensors = parents(torch.bfloat16)
    merged = torch.empty_like(base)
    with on_device(Accelerator(formula, pays_from=2 * 4 * base.numel())):
        used = [apply_into(merged, CASES["ties"], tensors, base, "w") for _ in range(4)]
    assert used == [False, False, True, True]


def assert_never_used_again(
    fused: Accelerator, caplog: pytest.LogCaptureFixture
) -> str:
    base, tensors = parents(torch.bfloat16)
    expected, merged = torch.empty_like(base), torch.empty_like(base)
    with single_steps():
        apply_into(expected, CASES["ties"], tensors, base, "w")
    with on_device(fused), caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not apply_into(merged, CASES["ties"], tensors, base, "w")
            assert torch.equal(bits(merged), bits(expected))
    (said,) = (r.getMessage() for r in caplog.records if r.name.startswith("evomerge"))
    return said


def test_code_that_differs_in_one_bit_is_never_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def wrong(kind: Kind) -> Formula:
        right = formula(kind)

        def merge(entries: Entries, tables: Tables) -> torch.Tensor:
            calls.append(1)
            amiss = right(entries, tables)
            bits(entries.out)[-1, -1] ^= 1
            return amiss

        return merge

    said = assert_never_used_again(Accelerator(wrong, 0), caplog)
    assert "its bits are not those of single steps" in said
    assert len(calls) == 2  # both parts of the first merge


def test_code_that_cannot_be_compiled_is_never_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing(kind: Kind) -> Formula:
        raise RuntimeError("no compiler\nand a long story")

    said = assert_never_used_again(Accelerator(failing, 0), caplog)
    assert "fails with 'RuntimeError: no compiler'" in said


def test_a_compiler_that_is_switched_off_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with patch("torch._dynamo.config.disable", True):
        said = assert_never_used_again(Accelerator(pays_from=0), caplog)
    assert "torch's compiler is switched off" in said


@pytest.mark.long
def test_a_machine_without_a_compiler_merges_step_by_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from torch._inductor import config

    nowhere = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with config.patch(nowhere):
        said = assert_never_used_again(Accelerator(pays_from=0), caplog)
    assert "fails with" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_formulas_give_the_bits_of_single_steps(name: str) -> None:
    dtype = torch.bfloat16
    assert_bits_of_single_steps(COMPILING, CASES[name], parents(dtype), dtype)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_all_compiled_formulas_give_the_bits_of_single_steps(
    name: str, dtype: torch.dtype
) -> None:
    assert_bits_of_single_steps(COMPILING, CASES[name], parents(dtype), dtype)


@pytest.mark.slow
def test_another_candidate_or_size_compiles_nothing() -> None:
    from torch._dynamo.utils import counters

    dtype = torch.bfloat16
    base, tensors = parents(dtype)
    assert_bits_of_single_steps(COMPILING, CASES["ties"], (base, tensors), dtype)
    before = counters["stats"]["unique_graphs"]
    each = (("weight", (0.9, 0.1, 0.3)), ("density", (0.1, 0.999, 1.0)))
    other = Operation("ties", ABC, "z", shared=(("lambda", 1.3),), each=each)
    for rows in (SHAPE[0], 33, 64):
        part = base[:rows].clone(), [tensor[:rows].clone() for tensor in tensors]
        assert_bits_of_single_steps(COMPILING, other, part, dtype)
    assert counters["stats"]["unique_graphs"] == before
