"""What a last stage found, exported: layers of a merge that was never on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.study_files import staged_study, write_study

from evomerge import api
from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Nested, Recipe
from evomerge.merging.materialise import materialise
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

NAMES = ("base", "math", "ja")


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """A merge, then a stack of its layers and a parent's, some of them scaled."""
    for seed, name in enumerate(NAMES):
        tiny_model(tmp_path / name, seed=seed, n_layers=3)
    changed = staged_study(tmp_path, engine={"kind": "hf"}, workers=1)
    ps, dfs = changed["stages"]
    ps |= {"budget": {"trials": 3}}
    flow = {"kind": "gates", "sources": ["merged", "math"], "scales": "layer"}
    knobs = {"gate.merged.1": 0, "gate.math.0": 1, "scale.math.0": 0.8}
    dfs |= {
        "budget": {"trials": 3},
        "space": {"flow": flow},
        "start": [{"name": "mine", "knobs": knobs}],
        "strategy": {"kind": "climb"},
    }
    return changed


def composed(recipe: Recipe, paths: dict[str, Path], folder: Path) -> Recipe:
    """Write what a recipe has nested to a folder, and name it instead."""
    nested = recipe.input("merged")
    assert isinstance(nested, Nested)
    with Sources(paths) as sources:
        write_model(nested.recipe, sources, folder)
    written = Checkpoint(read_model(folder).fingerprint)
    inputs = {**dict(recipe.inputs), "merged": written}
    return replace(recipe, inputs=tuple(inputs.items()))


@pytest.mark.slow
def test_the_last_stage_is_exported_as_its_recipes_composed(
    tmp_path: Path, study: dict[str, Any]
) -> None:
    db = f"sqlite:///{tmp_path / 'studies.db'}"
    where = api.Where(1, None, True, cache_dir=tmp_path / "cache")
    file = write_study(tmp_path / "two.yaml", study)
    now: api.Prepared | None = api.prepare(file, db=db, where=where)
    while now is not None:
        api.search(now)
        now = api.following(now)
    rows = api.trials("two.dfs", db=db)
    (number,) = [row.number for row in rows if row.label == "mine"]
    wanted = api.Export(number, tmp_path / "out")
    done = api.export("two", wanted, db=db, cache_dir=tmp_path / "cache")
    assert (done.study, done.trial) == ("two.dfs", number)
    assert {row.label for row in done.rivals[0].rows} >= {"merged", "math"}

    store = open_store(db)
    recipe = store.trial(store.study("two.dfs").id, number).candidate.recipe
    store.close()
    assert [slot.scale != 1.0 for slot in recipe.slots] == [False, True, False]
    paths = {read_model(tmp_path / n).fingerprint: tmp_path / n for n in NAMES}
    plain = composed(recipe, paths, tmp_path / "merged")
    model = read_model(tmp_path / "merged")
    with Sources({**paths, model.fingerprint: model.path}) as sources:
        expected = {
            name: tensor.clone() for name, tensor in materialise(plain, sources)
        }
    out = read_model(done.path)
    with Sources({out.fingerprint: out.path}) as sources:
        assert expected.keys() == out.tensors.keys()
        for name, tensor in expected.items():
            found = sources.tensor(out.fingerprint, name)
            assert torch.equal(found, tensor), name
    card = Path(done.path, "README.md").read_text(encoding="utf-8")
    assert "merged is itself a merge" in card
