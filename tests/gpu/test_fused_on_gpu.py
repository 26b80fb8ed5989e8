"""One compiled pass on a GPU writes the bytes that single steps write on a CPU."""

import pytest
import torch
from support.single_steps import single_steps

from evomerge.core.recipes.recipe import Operation
from evomerge.merging.operators import apply_into
from evomerge.merging.operators.executors.accelerator import ACCELERATOR

pytestmark = pytest.mark.gpu

SHAPE = (300, 1001)
"""Not a whole number of a formula's rows; the last of them begin at an odd entry."""
KEY = "model.layers.0.mlp.up_proj.weight"
ABC = ("a", "b", "c")
WEIGHTS = ("weight", (0.5, -0.2, 0.4))
DENSITIES = ("density", (0.3, 0.5, 0.777))

CASES = {
    "linear": Operation("linear", ABC, each=(WEIGHTS,)),
    "task_arithmetic": Operation(
        "task_arithmetic", ABC, "z", shared=(("normalize", True),), each=(WEIGHTS,)
    ),
    "ties": Operation("ties", ABC, "z", each=(DENSITIES,)),
    "ties, weights of both signs": Operation(
        "ties", ABC, "z", each=(WEIGHTS, DENSITIES)
    ),
    "breadcrumbs": Operation(
        "breadcrumbs", ABC, "z", each=(DENSITIES, ("gamma", (0.0, 0.02, 0.1)))
    ),
    "dare_ties": Operation("dare_ties", ABC, "z", each=(WEIGHTS, DENSITIES)),
    "della": Operation("della", ABC, "z", each=(DENSITIES,)),
    "della_linear": Operation("della_linear", ABC, "z", each=(WEIGHTS, DENSITIES)),
}


@pytest.fixture(autouse=True)
def _compiled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ACCELERATOR, "pays_from", 0)


def parents(
    dtype: torch.dtype, shape: tuple[int, ...] = SHAPE
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(shape, generator=generator)
    near = [base + 0.01 * torch.randn(shape, generator=generator) for _ in ABC]
    # Few levels: many sizes are equal, also to where they are cut.
    near = [base + ((x - base) * 512).round() / 512 for x in near]
    base[1], base[2] = 0.0, -0.0
    near[0][2] = -0.0
    return base.to(dtype), [tensor.to(dtype) for tensor in near]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Seen as words, zeros of both signs are told apart."""
    words = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    return tensor.cpu().view(words)


def assert_bytes_of_the_cpu(
    operation: Operation, base: torch.Tensor, tensors: list[torch.Tensor]
) -> None:
    start = base if operation.base else None
    expected = torch.empty_like(base)
    with single_steps():
        apply_into(expected, operation, tensors, start, KEY)
    there = [tensor.cuda() for tensor in tensors]
    start = base.cuda() if operation.base else None
    merged = torch.empty_like(base, device="cuda")
    # Only a compiled pass that was checked knows that all it wrote is finite.
    assert apply_into(merged, operation, there, start, KEY)
    assert torch.equal(bits(merged), bits(expected))
    with single_steps():
        apply_into(merged.zero_(), operation, there, start, KEY)
    assert torch.equal(bits(merged), bits(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_one_compiled_pass_writes_the_bytes_of_the_cpu(
    name: str, dtype: torch.dtype
) -> None:
    assert_bytes_of_the_cpu(CASES[name], *parents(dtype))


def test_another_candidate_or_size_compiles_nothing() -> None:
    from torch._dynamo.utils import counters

    assert_bytes_of_the_cpu(CASES["ties"], *parents(torch.bfloat16))
    before = counters["stats"]["unique_graphs"]
    each = (("weight", (0.9, 0.1, 0.3)), ("density", (0.1, 0.999, 1.0)))
    other = Operation("ties", ABC, "z", shared=(("lambda", 1.3),), each=each)
    for shape in (SHAPE, (64, 1024), (999, 513)):
        assert_bytes_of_the_cpu(other, *parents(torch.bfloat16, shape))
    assert counters["stats"]["unique_graphs"] == before


def test_more_entries_than_32_bits_count_are_merged() -> None:
    n = (1 << 31) + 4097
    if torch.cuda.mem_get_info()[0] < 14 * n:
        pytest.skip("not enough free memory on the device")
    base = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    one = torch.ones_like(base)
    one[-1] = 3.0
    operation = Operation("task_arithmetic", ("a",), "z", each=(("weight", (0.5,)),))
    merged = torch.empty_like(base)
    assert apply_into(merged, operation, [one], base, KEY)
    assert merged[-1].item() == 1.5
    assert bool((merged[:-1] == 0.5).all())
