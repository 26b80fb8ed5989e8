"""A trial that is a stack of scaled layers becomes an ordinary model."""

import json
from pathlib import Path

import pytest
import torch
from support.scaled import scaling
from support.study_files import simulated_study, write_models, write_study

import evomerge.api as api
from evomerge.api.results.reading import REPORT_OPENED
from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.errors import RecipeError
from evomerge.store.sql import open_store

LAYERS = (("math", 0), ("ja", 1), ("math", 1), ("math", 1), ("ja", 0))
SCALES = (1.0, 1.4, 0.7, 0.7, 1.2)


def stack(models: Path, scales: tuple[float, ...]) -> Recipe:
    """Return five layers of two models of two layers each."""

    def roles(name: str) -> tuple[tuple[str, Operation], ...]:
        return (("*", Operation("linear", (name,))),)

    slots = [
        Slot(roles(name), ((name, layer),), scale)
        for (name, layer), scale in zip(LAYERS, scales, strict=True)
    ]
    inputs = [
        (name, Checkpoint(read_model(models / name).fingerprint))
        for name in ("math", "ja")
    ]
    ends = Slot(roles("math"))
    return Recipe("math", "float32", tuple(inputs), ends, tuple(slots), ends)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_models(tmp_path / "models")


def searched(tmp_path: Path, models: Path, recipe: Recipe) -> tuple[str, Path]:
    """Run a simulated study that starts from a recipe; return database and cache."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "stack.json").write_text(json.dumps(recipe.to_json()))
    start = [{"name": "stack", "recipe": str(tmp_path / "stack.json")}]
    file = write_study(
        tmp_path / "mine.yaml", simulated_study(models, start=start, name="mine")
    )
    db, cache = f"sqlite:///{tmp_path / 'mine.db'}", tmp_path / "cache"
    where = api.Where(1, None, True, cache_dir=cache)
    api.search(api.prepare(file, db=db, where=where))
    return db, cache


def number(db: str) -> int:
    return next(row.number for row in api.trials("mine", db=db) if row.label == "stack")


def test_a_stack_is_exported_with_its_scales_in_the_weights(
    tmp_path: Path, models: Path
) -> None:
    from transformers import AutoModelForCausalLM

    db, cache = searched(tmp_path, models, stack(models, SCALES))
    wanted = api.Export(number(db), tmp_path / "out", is_scored=False)
    done = api.export("mine", wanted, db=db, cache_dir=cache)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "scales the input of 4 layers" in card
    assert "(0.686 to 1.4)" in card
    assert read_model(done.path).fingerprint == done.fingerprint

    db, cache = searched(tmp_path / "plain", models, stack(models, (1.0,) * 5))
    wanted = api.Export(number(db), tmp_path / "plain" / "out", is_scored=False)
    api.export("mine", wanted, db=db, cache_dir=cache)
    plain, folded = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (tmp_path / "plain" / "out", tmp_path / "out")
    )
    tokens = torch.arange(5, 25)[None]
    with torch.inference_mode():
        found = folded(tokens).logits
        unscaled = plain(tokens).logits
        with scaling(plain, SCALES):
            expected = plain(tokens).logits
    # The epsilon of the norms is not folded.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * expected.std())
    assert (unscaled - expected).abs().max() > 0.1 * expected.std()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_what_cannot_be_written_is_refused_before_held_out_items_are_opened(
    tmp_path: Path, models: Path
) -> None:
    recipe = stack(models, (1.0, -1.4, 1.0, 1.0, 1.0))
    db, cache = searched(tmp_path, models, recipe)
    wanted = api.Export(number(db), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"Slot 1 scales its input by -1\.4"):
        api.export("mine", wanted, db=db, cache_dir=cache)
    assert not (tmp_path / "out").exists()
    store = open_store(db)
    assert not store.events(store.study("mine").id, REPORT_OPENED)
    store.close()
