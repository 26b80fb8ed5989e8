"""Operators that choose among differences give the bits of their steps in one pass."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.memos import CountingMemo
from support.single_steps import single_steps

from evomerge.core.recipes.operation import Operation
from evomerge.errors import CandidateError
from evomerge.merging.operators import apply, apply_into

N = 300_001
"""More than one part for several threads, and not a whole number of blocks."""

CASES: dict[str, tuple[str, int, dict[str, float | str]]] = {
    "nearswap": ("nearswap", 1, {"t": 1e-3}),
    "magmax": ("magmax", 3, {"lambda": 0.7}),
    "magmax, last of equals": ("magmax", 2, {"lambda": 0.7, "draw": "last"}),
    "emr": ("emr", 3, {"lambda": 0.7}),
    "ram": ("ram", 3, {"epsilon": 1e-3, "lambda": 0.7}),
    "ram plus": ("ramplus_tl", 2, {"epsilon": 1e-3, "r": 0.5, "alpha": 1.0}),
    "pcb": ("pcb", 3, {"r": 0.2}),
    "pcb, few win": ("pcb", 3, {"r": 0.01}),
    "pcb, all may win": ("pcb", 3, {"r": 1.0}),
    "pcb, with the sum": ("pcb", 2, {"inter": "product", "clip": 0.0}),
    "consensus": ("consensus", 3, {"lambda_t": 0.5, "k": 2, "lambda": 0.7}),
    "consensus of ties": (
        "consensus",
        3,
        {"lambda_t": 0.9, "k": 2, "lambda": 0.7, "source": "ties"},
    ),
}


def operation(name: str) -> Operation:
    operator, n_inputs, shared = CASES[name]
    inputs = tuple("abc"[:n_inputs])
    each = (("density", (0.3, 0.5, 0.777)),) if "source" in shared else ()
    return Operation(operator, inputs, "z", tuple(shared.items()), each)


def parents(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    base = 0.02 * torch.randn(N, generator=generator)
    base[:100] = 0.0
    base[50:100] = -0.0
    noise = [torch.randn(N, generator=generator) for _ in range(CASES[name][1])]
    tensors = [(base + 0.002 * change).to(dtype) for change in noise]
    for tensor in tensors:  # no difference at all, with either zero
        tensor[:70] = base[:70]
    return base.to(dtype), tensors


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
@pytest.mark.parametrize("name", CASES)
def test_one_pass_gives_the_bits_of_the_single_steps(name: str) -> None:
    base, tensors = parents(name, torch.bfloat16)
    with single_steps():
        expected = apply(operation(name), tensors, base, "w")
    merged = torch.empty_like(base)
    assert apply_into(merged, operation(name), tensors, base, "w")
    rounded = expected.to(torch.bfloat16)
    assert torch.equal(merged.view(torch.uint8), rounded.view(torch.uint8))
    again = torch.empty_like(base)
    with threads(4):
        assert apply_into(again, operation(name), tensors, base, "w")
    assert torch.equal(again.view(torch.uint8), merged.view(torch.uint8))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", CASES)
def test_an_input_that_is_not_finite_is_refused_by_name(name: str, bad: float) -> None:
    base, tensors = parents(name, torch.bfloat16)
    tensors[-1][N // 2] = bad
    merged = torch.empty_like(base)
    with pytest.raises(
        CandidateError, match=f"w: the difference of input {len(tensors)}"
    ):
        apply_into(merged, operation(name), tensors, base, "w")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_overflows_is_told() -> None:
    base = torch.zeros(N)
    tensors = [torch.full((N,), 4e4), torch.full((N,), -1.0)]
    large = Operation("magmax", ("a", "b"), "z", shared=(("lambda", 1.5),))
    for dtype, fits in ((torch.float32, True), (torch.float16, True)):
        assert (
            apply_into(torch.empty(N, dtype=dtype), large, tensors, base, "w") is fits
        )
    larger = Operation("magmax", ("a", "b"), "z", shared=(("lambda", 2.0),))
    for dtype, fits in ((torch.float32, True), (torch.float16, False)):
        merged = torch.empty(N, dtype=dtype)
        assert apply_into(merged, larger, tensors, base, "w") is fits


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_ties_trims_for_a_consensus_is_looked_up() -> None:
    base, tensors = parents("consensus of ties", torch.bfloat16)
    memo = CountingMemo()
    for scale in (0.1, 1.0):
        shared = (("source", "ties"), ("lambda", scale))
        merge = Operation("consensus", ("a", "b", "c"), "z", shared)
        merged = apply(merge, tensors, base, "w", memo)
        assert torch.equal(merged, apply(merge, tensors, base, "w"))
    assert [what[0] for what in memo.computed] == ["magnitudes"] * 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_inputs_share_is_counted_once_for_a_threshold() -> None:
    base, tensors = parents("ram plus", torch.bfloat16)
    memo = CountingMemo()
    for alpha in (0.1, 1.0):
        shared = (("epsilon", 1e-3), ("alpha", alpha))
        merge = Operation("ramplus_tl", ("a", "b"), "z", shared=shared)
        found = apply(merge, tensors, base, "w", memo)
        with single_steps():
            assert torch.equal(apply(merge, tensors, base, "w"), found)
    assert memo.computed == [("shared to unique 0.001", "w", "z", "a", "b")]
