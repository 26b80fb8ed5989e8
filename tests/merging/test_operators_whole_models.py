"""Every operator of the catalogue merges whole models."""

from pathlib import Path

import pytest
import torch
from support.operations import ON_MODELS, operation

from evomerge.checkpoints import read_model
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.core.roles import for_role
from evomerge.merging.materialise import describe, materialise
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "m1", "m2")):
        tiny_model(folder / name, seed=seed, layers=2)
    return {read_model(path).fingerprint: path for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("norm_policy", [None, "self"])
@pytest.mark.parametrize("name", ON_MODELS)
def test_whole_models_are_merged_tensor_by_tensor(name, norm_policy, models):
    sources = {path.name: fingerprint for fingerprint, path in models.items()}
    merge = operation(name)
    roles = tuple((role, for_role(merge, role, norm_policy)) for role in ROLES)
    reads = sorted(merge.reads)
    slots = tuple(
        Slot(roles, tuple((source, layer) for source in reads)) for layer in range(2)
    )
    recipe = Recipe(
        frame=reads[0],
        dtype="float32",
        inputs=tuple((source, Checkpoint(sources[source])) for source in reads),
        embed=Slot(roles),
        slots=slots,
        head=Slot(roles),
    )
    opened = Sources(models)
    merged = dict(materialise(recipe, opened))
    assert merged.keys() == describe(recipe, opened).keys()
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())
    again = dict(materialise(recipe, opened))
    assert all(torch.equal(merged[key], again[key]) for key in merged)
