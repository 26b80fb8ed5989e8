"""A fused checkpoint merges exactly as its split twin, by every operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fused import FUSIONS, Fusion, fused_twins, unfuse
from support.operations import ON_MODELS, operation

from evomerge.checkpoints import Piece, read_model
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.core.roles import for_role
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.merging.views.fused import cut, paste

NAMES = ("base", "m1", "m2")


Folders = tuple[Path, ...]
Twins = Callable[[Fusion, int], tuple[Folders, Folders]]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Fused and split folders of three models, written when first asked for."""
    folder = tmp_path_factory.mktemp("twins")

    @cache
    def write(fusion: Fusion, seed: int) -> tuple[Folders, Folders]:
        pairs = [fused_twins(folder, fusion, 3 * seed + i) for i in range(3)]
        fused, split = zip(*pairs, strict=True)
        return fused, split

    return write


def merge(
    folders: Folders, name: str, slots: int = 1, **knobs: str
) -> dict[str, torch.Tensor]:
    prints = [read_model(folder).fingerprint for folder in folders]
    merge = operation(name, **knobs)
    roles = tuple((role, for_role(merge, role)) for role in ROLES)
    fed = tuple((n, 0) for n in merge.reads)
    recipe = Recipe(
        frame="m1",
        dtype="float32",
        inputs=tuple((n, Checkpoint(p)) for n, p in zip(NAMES, prints, strict=True)),
        embed=Slot(roles),
        slots=(Slot(roles, layers=fed),) * slots,
        head=Slot(roles),
    )
    with Sources(dict(zip(prints, folders, strict=True))) as sources:
        return dict(materialise(recipe, sources))


@pytest.mark.parametrize("name", ON_MODELS)
@settings(max_examples=4)  # of each of thirty operators
@given(fusion=st.sampled_from(FUSIONS), seed=st.integers(0, 1))
def test_a_fused_checkpoint_merges_exactly_as_its_split_twin(
    twins: Twins, name: str, fusion: Fusion, seed: int
) -> None:
    fused, split = (merge(folders, name) for folders in twins(fusion, seed))
    expected = unfuse(fusion, fused, split)
    assert len(expected) < len(split) or fusion == "turned"
    for tensor, values in expected.items():
        assert torch.equal(fused[tensor], values), tensor


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", ["ties", "dare_linear", "della", "slerp", "tsv"])
def test_every_way_to_fuse_is_split_for_the_methods_that_need_it(
    twins: Twins, name: str, fusion: Fusion
) -> None:
    fused, split = (merge(folders, name) for folders in twins(fusion, 2))
    expected = unfuse(fusion, fused, split)
    assert all(torch.equal(fused[n], values) for n, values in expected.items())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pieces_are_trimmed_with_the_model_as_their_split_twins(
    twins: Twins, fusion: Fusion
) -> None:
    fused, split = (
        merge(folders, "ties", scope="model") for folders in twins(fusion, 2)
    )
    expected = unfuse(fusion, fused, split)
    assert all(torch.equal(fused[n], values) for n, values in expected.items())


def test_a_repeated_layer_of_fused_experts_draws_the_same_masks(
    twins: Twins,
) -> None:
    found = merge(twins("experts", 0)[0], "dare_linear", slots=2)
    for name in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
        assert torch.equal(found[f"blocks.0.{name}"], found[f"blocks.1.{name}"])


@given(
    groups=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    transposed=st.booleans(),
    experts=st.integers(0, 2),
)
def test_what_is_cut_and_pasted_is_the_whole(
    groups: int, rows: int, columns: int, transposed: bool, experts: int
) -> None:
    matrix = (groups * rows * 2, columns)
    shape = (*([experts] if experts else []), *(matrix[::-1] if transposed else matrix))
    whole = torch.randn(shape)
    out = torch.zeros(shape)
    each: list[int | None] = list(range(experts)) or [None]
    for expert in each:
        for start in (0, rows):
            piece = Piece("x", expert, transposed, groups, start, start + rows)
            part = cut(whole, piece)
            assert part.shape == (groups * rows, columns)
            assert part.is_contiguous()
            paste(out, piece, part)
    assert torch.equal(out, whole)


def test_a_matrix_that_is_stored_turned_is_merged_as_it_computes() -> None:
    whole = torch.arange(24.0).reshape(6, 4)  # of two experts, each [in, out]
    piece = Piece("experts.1.w2", None, False, 1, 3, 6, turned=True)
    assert torch.equal(cut(whole, piece), whole[3:].T)
    target = torch.zeros(6, 4)
    paste(target, piece, cut(whole, piece))
    assert torch.equal(target[3:], whole[3:])
    assert not target[:3].any()
