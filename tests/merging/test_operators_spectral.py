import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memos import CountingMemo
from support.operations import operation

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.settings import resolve
from evomerge.core.roles import for_role
from evomerge.errors import CandidateError
from evomerge.merging.operators import ARITHMETIC, apply
from evomerge.merging.operators.directions.singular_vectors import polar, svd
from evomerge.merging.operators.inputs import Inputs

MATRIX_METHODS = [
    name
    for name, operator in CATALOGUE.items()
    if operator.policy("embed") == "linear" and operator.needs_base
]
EACH = pytest.mark.parametrize("name", MATRIX_METHODS)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def low_rank(rows, columns, rank, seed):
    return randn(rows, rank, seed=seed) @ randn(rank, columns, seed=seed + 1)


def test_the_families_of_singular_vectors_are_found():
    assert {"tsv", "iso_c", "iso_cts"} <= set(MATRIX_METHODS)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(0, 9),
    seed=st.integers(0, 2**16),
)
def test_a_decomposition_holds_what_is_not_zero(rows, columns, rank, seed):
    matrix = low_rank(rows, columns, rank, seed)
    found = svd(matrix, "w")
    assert len(found.values) == min(rows, columns, rank)
    assert (found.values > 0).all()
    rebuilt = (found.left * found.values) @ found.right
    torch.testing.assert_close(rebuilt, matrix, rtol=0, atol=1e-12)
    largest = found.left.gather(0, found.left.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


@settings(max_examples=30)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_a_polar_factor_is_orthogonal_where_there_is_anything(
    rows, columns, rank, seed
):
    factor = polar(low_rank(rows, columns, rank, seed), "w")
    values = torch.linalg.svdvals(factor)
    kept = min(rows, columns, rank)
    torch.testing.assert_close(
        values, (torch.arange(len(values)) < kept).double(), rtol=0, atol=1e-12
    )


def test_single_precision_counts_its_own_rounding_as_zero():
    matrix = low_rank(60, 40, 3, 1).float()
    assert len(svd(matrix, "w").values) == 3


def test_a_decomposition_that_does_not_converge_names_the_tensor():
    with pytest.raises(CandidateError, match=r"w: the singular value .* \[3, 3\] did"):
        svd(torch.full((3, 3), math.nan), "w")


def test_a_decomposition_leaves_the_number_of_threads_as_it_was():
    threads = torch.get_num_threads()
    svd(randn(5, 5), "w")
    with pytest.raises(CandidateError):
        svd(torch.full((3, 3), math.nan), "w")
    assert torch.get_num_threads() == threads


def test_merges_in_several_threads_give_the_same_bytes():
    merge = operation("tsv", 3)
    tensors = [randn(60, 80, seed=i).float() for i in range(4)]
    expected = apply(merge, tensors[1:], tensors[0], "w")
    results = []

    def work():
        results.append(apply(merge, tensors[1:], tensors[0], "w"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_named(name, bad):
    base, *tensors = (randn(4, 5, seed=i).float() for i in range(4))
    tensors[1][2, 2] = bad
    with pytest.raises(CandidateError, match=r"w: input 'm2' .* is not finite"):
        apply(operation(name, 3), tensors, base, "w")


@EACH
def test_a_stack_of_matrices_is_merged_matrix_by_matrix(name):
    base, *tensors = (randn(3, 4, 5, seed=i).float() for i in range(4))
    merge = operation(name, 3)
    merged = apply(merge, tensors, base, "w")
    for i in range(3):
        alone = apply(merge, [tensor[i] for tensor in tensors], base[i], "w")
        torch.testing.assert_close(merged[i], alone, rtol=0, atol=1e-6)


@EACH
@pytest.mark.parametrize("shape", [(), (6,)])
def test_vectors_get_the_mean_difference_as_their_role_does(name, shape):
    merge = operation(name, 3, lambda_=0.5)
    base, *tensors = (randn(*shape, seed=i).float() for i in range(4))
    expected = base + 0.5 * (sum(tensors) / 3 - base)
    merged = apply(merge, tensors, base, "w")
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)
    linear = for_role(merge, "norm")
    assert linear.operator == "task_arithmetic"
    torch.testing.assert_close(
        apply(linear, tensors, base, "w"), expected, rtol=1e-6, atol=1e-6
    )


@EACH
@pytest.mark.parametrize("role", ["embed", "head", "norm", "bias", "router"])
def test_only_matrices_of_layers_are_decomposed(name, role):
    assert for_role(operation(name, 3), role).operator == "task_arithmetic"


@EACH
@pytest.mark.parametrize("role", ["attn", "mlp", "expert"])
def test_matrices_of_layers_keep_the_operator(name, role):
    merge = operation(name, 3)
    assert for_role(merge, role) is merge


@EACH
def test_an_input_equal_to_the_base_does_no_harm(name):
    base, *tensors = (randn(6, 5, seed=i).float() for i in range(3))
    merged = apply(operation(name, 3), [*tensors, base], base, "w")
    assert torch.isfinite(merged).all()
    assert not torch.equal(merged, base)


def test_a_memo_spares_the_next_candidate_every_decomposition_of_an_input():
    memo = CountingMemo()
    base, *tensors = (randn(2, 6, 5, seed=i).float() for i in range(4))
    for scale in (1.0, 0.5):
        merge = operation("tsv", 3, lambda_=scale, weight=(scale, 1.0, 1.0))
        merged = ARITHMETIC["tsv"](Inputs(resolve(merge), tensors, base, "w", memo))
        assert torch.equal(merged, apply(merge, tensors, base, "w"))
    assert sorted(memo.computed) == [
        ("svd", f"w[{place}]", "base", f"m{i}") for place in (0, 1) for i in (1, 2, 3)
    ]
