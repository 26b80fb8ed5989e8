"""Every element-wise method is a form, and who carries it out does not matter."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.merging.form import Form, Step, Total, mapped
from evomerge.merging.operators import ARITHMETIC
from evomerge.merging.operators.executors import processor, steps
from evomerge.merging.operators.executors.accelerator import Accelerator, formula
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs, Statistic
from evomerge.merging.operators.loops.blocks import Deltas

ABC = ("a", "b", "c")
WEIGHTS = {"weight": (0.5, -0.2, 0.4)}
DENSITIES = {"density": (0.3, 1.0, 0.777)}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", WEIGHTS),
    "lora_linear": ("lora_linear", WEIGHTS),
    "task_arithmetic": ("task_arithmetic", WEIGHTS | {"normalize": True}),
    "model_stock": ("model_stock", {}),
    "bcwi": ("bcwi", {}),
    "fisher": ("fisher", {}),
    "ties": ("ties", WEIGHTS | DENSITIES),
    "ties by majority": ("ties", DENSITIES | {"zero_rule": "majority"}),
    "ties by count": ("ties", DENSITIES | {"consensus": "count", "rescale": "l1"}),
    "breadcrumbs": ("breadcrumbs", WEIGHTS | DENSITIES),
    "breadcrumbs_ties": ("breadcrumbs_ties", DENSITIES),
    "breadcrumbs of rows": ("breadcrumbs", DENSITIES | {"axis": "row"}),
    "dare_linear": ("dare_linear", WEIGHTS | DENSITIES),
    "dare_ties": ("dare_ties", DENSITIES | {"rescale": "l1"}),
    "dare of columns": ("dare_linear", DENSITIES | {"unit": "column"}),
    "della": ("della", DENSITIES),
    "della_linear": ("della_linear", DENSITIES | {"rank_by": "tensor_rank"}),
    "della by size": ("della", DENSITIES | {"rank_by": "row_minmax"}),
    "mixout": ("mixout", {"unit": "element"}),
    "sce": ("sce", {"select_topk": 0.3, "mask_scope": "all"}),
    "magmax": ("magmax", {"draw": "last"}),
    "ram": ("ram", {"epsilon": 1e-3}),
    "ramplus_tl": ("ramplus_tl", {"epsilon": 1e-3, "r": 0.5}),
    "pcb": ("pcb", {"r": 0.2}),
    "pcb with the sum": ("pcb", {"r": 0.2, "inter": "product"}),
    "consensus": ("consensus", {"k": 2}),
    "consensus of ties": ("consensus", DENSITIES | {"source": "ties", "k": 2}),
    "emr": ("emr", {"lambda": 0.7}),
    "arcee_fusion": ("arcee_fusion", {}),
    "nearswap": ("nearswap", {"t": 1e-3}),
    "staged": ("staged", WEIGHTS),
    "the largest": ("staged", WEIGHTS | {"reduce": "max"}),
    "the largest of a sign": (
        "staged",
        DENSITIES
        | {
            "sparsify": "magnitude",
            "consensus": "count_sign",
            "zero_rule": "minus",
            "reduce": "max",
        },
    ),
    "varied": ("staged", {"sparsify": "variance", "reduce": "energy"}),
    "varied, elected": (
        "staged",
        {"sparsify": "variance", "consensus": "mean_sign", "reduce": "mean"},
    ),
    "used": ("staged", {"sparsify": "tall", "consensus": "sum_sign", "reduce": "max"}),
    "by rank, to minus": (
        "staged",
        DENSITIES
        | {
            "sparsify": "rank_bernoulli",
            "rescale": "inverse",
            "consensus": "sum_sign",
            "zero_rule": "minus",
        },
    ),
}
"""Every element-wise method, some with further settings: see the first test."""

ALONG_DIRECTIONS = {
    *("slerp", "nuslerp", "multislerp", "karcher", "tsv", "iso_c", "iso_cts"),
    *("knots", "core_space", "wudi"),
}
NEW_ON_THE_CPU = (
    *("della by size", "the largest", "the largest of a sign", "varied, elected"),
    *("used", "by rank, to minus", "ties by majority"),
)
"""Tests of the operators compile other loops; the long ones compile all of them."""


class _Measured:
    """Statistics of one input."""

    norm = 2.0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def inputs_of(name: str, shape: tuple[int, int], dtype: torch.dtype) -> Inputs:
    """Return inputs for a row, with some equal entries and either zero."""
    operator, knobs = ROWS[name]
    row = CATALOGUE[operator]
    n = row.n_inputs or len(ABC)
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    base = 0.02 * torch.randn(shape, generator=generator)
    near = [base + 2e-3 * torch.randn(shape, generator=generator) for _ in range(n)]
    near = [base + ((x - base) * 4096).round() / 4096 for x in near]
    base.view(-1)[100:150], base.view(-1)[150:200] = 0.0, -0.0
    near[0].view(-1)[150:200] = -0.0
    each = {k: v[:n] for k, v in knobs.items() if isinstance(v, tuple)}
    shared = {k: v for k, v in knobs.items() if k not in each}
    has_base = row.base == "needed"
    operation = Operation(
        operator,
        ABC[:n],
        "z" if has_base else None,
        tuple(shared.items()),
        tuple(each.items()),
    )
    seen = torch.rand(shape, generator=generator)

    def statistics(kind: str, of: str) -> Statistic:
        return _Measured(seen * (1 + ABC.index(of)))

    return Inputs(
        resolve(operation),
        [tensor.to(dtype) for tensor in near],
        base.to(dtype) if has_base else None,
        "w",
        statistics=statistics,
    )


def merge_of(name: str, shape: tuple[int, int], dtype: torch.dtype) -> LazyMerge:
    found = ARITHMETIC[ROWS[name][0]](inputs_of(name, shape, dtype))
    assert isinstance(found, LazyMerge)
    return found


def forms(merge: LazyMerge) -> Iterator[LazyMerge]:
    """Yield what is carried out for a merge: a majority is found before."""
    votes = getattr(merge.form.reduce, "votes", None)
    if votes is None or votes.plus is not None:
        yield merge
        return
    for plus in (True, False):
        reduce = merge.form.reduce._replace(votes=votes._replace(plus=plus))
        form = merge.form._replace(reduce=reduce)
        yield LazyMerge(merge.deltas, form, merge.key)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Seen as words, zeros of both signs are told apart."""
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def by_steps(merge: LazyMerge, dtype: torch.dtype) -> torch.Tensor:
    out = merge.deltas.fresh()
    steps.write(merge.deltas, merge.form, merge.key, out.view(-1))
    return out.to(dtype)


def test_every_operator_that_is_not_of_directions_is_a_row() -> None:
    assert {operator for operator, _ in ROWS.values()} == {
        name for name in CATALOGUE if name not in ALONG_DIRECTIONS
    }


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=3, deadline=None)
@given(
    shape=st.sampled_from([(37, 101), (3, 1024), (2049, 2), (64, 64)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_a_pass_of_an_accelerator_gives_the_bits_of_single_steps(
    name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    for merge in forms(merge_of(name, shape, dtype)):
        out = torch.empty(shape, dtype=dtype)
        accelerator = Accelerator(formula, pays_from=0)
        assert accelerator.write(merge.deltas, merge.form, "w", out)
        expected = by_steps(merge, dtype)
        assert torch.equal(bits(out), bits(expected))


def quick_or_long() -> Iterator[Any]:
    for name in ROWS:
        is_long = name not in NEW_ON_THE_CPU
        yield pytest.param(name, marks=pytest.mark.long if is_long else ())


@pytest.mark.slow  # compiles one form for each
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(quick_or_long()))
@settings(max_examples=4, deadline=None)
@given(shape=st.sampled_from([(37, 101), (5, 999), (2049, 2), (301, 1000), (1, 4097)]))
def test_a_loop_of_the_processor_gives_the_bits_of_single_steps(
    name: str, shape: tuple[int, int]
) -> None:
    dtype = torch.bfloat16
    for merge in forms(merge_of(name, shape, dtype)):
        out = torch.empty(shape, dtype=dtype)
        large = torch.empty(1 << 16, dtype=dtype)
        known = processor.can(Deltas([large] * 2, None), merge.form, large)
        assert known == (name != "fisher")
        if known:
            assert processor.write(merge.deltas, merge.form, "w", out)
            assert torch.equal(bits(out), bits(by_steps(merge, dtype)))


def test_numbers_of_a_form_are_changed_and_what_it_is_stays() -> None:
    form = Form(Total((0.5, 2.0), 4.0), (Step(), Step(factor=3.0)), checked=True)
    doubled = mapped(form, lambda leaf: leaf if isinstance(leaf, bool) else 2 * leaf)
    assert doubled == Form(
        Total((1.0, 4.0), 8.0),
        (Step(factor=2.0), Step(factor=6.0)),
        None,
        None,
        2.0,
        True,
    )
    assert isinstance(doubled.reduce, Total)
