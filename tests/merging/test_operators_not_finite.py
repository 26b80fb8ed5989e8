"""No operator passes over a weight that is no number: it says so, or the result does.

Those who choose among entries might drop it and merge on; then nobody would ever know.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from support.operations import experts, operation
from support.operator_knobs import KNOBS

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.operation import Operation
from evomerge.errors import CandidateError
from evomerge.merging.operators import apply_into
from evomerge.merging.operators.loops.arrays import is_finite

HALF = {"density": 0.5, "gamma": 0.1, "k": 1}
"""Knobs with which an operator drops entries that it keeps by default."""
SMALL, COMPILED, COUNTED = (12, 10), (200, 170), (380, 350)
"""Steps of torch, one compiled pass, and thresholds by counting instead of sorting."""
BAD = {"nan": math.nan, "infinity": math.inf, "minus infinity": -math.inf}

STAGES = [
    operation("staged", sparsify=sparsify, consensus=consensus, reduce=reduce)
    for sparsify in ("magnitude", "bernoulli", "rank_bernoulli", "variance", "tall")
    for consensus, reduce in (("none", "mean"), ("sum_sign", "max"))
]


def thinning(name: str) -> Operation:
    """Return an operation that drops as many entries as it may."""
    known = {knob.name: knob for knob in CATALOGUE[name].knobs}
    n = CATALOGUE[name].n_inputs or 2
    knobs = {
        knob: (value,) * n if known[knob].per_input else value
        for knob, value in HALF.items()
        if knob in known
    }
    return operation(name, **knobs)  # type: ignore[arg-type]


def is_told(
    merge: Operation, tensors: list[torch.Tensor], base: torch.Tensor | None
) -> bool:
    """Tell whether an error names the tensor, or the result is known not to be finite.

    It need not be known: then it has to be looked at, and has to show it.
    """
    out = torch.empty_like(tensors[0])
    told = SimpleNamespace(tensor=torch.ones_like(tensors[0]), norm=1.0)
    try:
        known = apply_into(
            out,
            merge,
            tensors,
            base,
            "layer.weight",
            statistics=lambda kind, name: told,
        )
    except CandidateError as error:
        return "layer.weight" in str(error) and "not finite" in str(error)
    return not known and not bool(torch.isfinite(out).all())


def check(merge: Operation, shape: tuple[int, int], bad: float) -> None:
    tensors, base = experts(merge, shape, 7)
    sources = tensors if base is None else [*tensors, base]
    n = tensors[0].numel()
    for place in (0, n // 2 + 1, n - 1):
        for source in sources:
            entries = source.view(-1)
            good = float(entries[place])
            entries[place] = bad
            assert is_told(merge, tensors, base), (place, merge)
            entries[place] = good


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", CATALOGUE)
def test_small_tensors_tell_what_is_no_number(name: str, bad: str) -> None:
    for merge in (operation(name), thinning(name)):
        check(merge, SMALL, BAD[bad])


@pytest.mark.parametrize("merge", STAGES, ids=lambda m: "-".join(map(str, m.shared)))
def test_every_choice_of_stages_tells_what_is_no_number(merge: Operation) -> None:
    for bad in BAD.values():
        check(merge, SMALL, bad)


@pytest.mark.slow  # takes the forms that the laws compile
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", [COMPILED, COUNTED], ids=["compiled", "counted"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_large_tensors_tell_what_is_no_number(
    name: str, shape: tuple[int, int]
) -> None:
    knobs = KNOBS.get(name)
    merge = thinning(name)
    if knobs is not None:
        merge = operation(name, CATALOGUE[name].n_inputs or 3, **knobs)
    for bad in (math.nan, math.inf):
        check(merge, shape, bad)


def test_large_finite_values_are_finite() -> None:
    largest = torch.finfo(torch.float32).max
    assert is_finite(torch.full((100,), largest))
    assert is_finite(torch.full((100,), 60000.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([largest, largest, float("-inf")]))
    assert not is_finite(torch.tensor([float("inf"), float("-inf")]))
    assert is_finite(torch.empty(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [100, 100_001])  # one call after another, and compiled
def test_one_entry_that_is_no_number_is_found_anywhere(n, dtype) -> None:
    tensor = torch.full((n,), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(tensor)
    for place in (0, n // 2, n - 1):
        for bad in (float("nan"), float("inf"), float("-inf")):
            spoilt = tensor.clone()
            spoilt[place] = bad
            assert not is_finite(spoilt)
