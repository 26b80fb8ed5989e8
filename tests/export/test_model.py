"""The exported folder: whole, loadable, with its card, and never in the way."""

import json

import pytest

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.errors import CandidateError, CheckpointError, ExportError, RecipeError
from evomerge.export.card import CardFacts, Parent, card
from evomerge.export.model import export_model
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    for seed, name in enumerate("ab"):
        tiny_model(folder / name, seed=seed)
    return {read_model(folder / n).fingerprint: str(folder / n) for n in "ab"}


@pytest.fixture
def facts(parents):
    one, two = parents
    blend = Operation("linear", ("a", "b"), each=(("weight", (0.25, 0.75)),))
    whole = Slot((("*", blend),))
    layers = tuple(Slot((("*", blend),), (("a", i), ("b", i))) for i in range(4))
    inputs = (("a", Checkpoint(one)), ("b", Checkpoint(two)))
    recipe = Recipe("a", "float32", inputs, whole, layers, whole)
    return CardFacts("m", recipe, (Parent("a", one), Parent("b", two)))


def test_the_folder_holds_weights_recipe_and_card(facts, parents, tmp_path):
    with Sources(parents) as sources:
        done = export_model(facts, sources, tmp_path / "out", shard_bytes=100_000)
    assert done.path == tmp_path / "out"
    assert (done.path / "README.md").read_text() == card(facts)
    recipe = Recipe.from_json(json.loads((done.path / "recipe.json").read_text()))
    assert recipe.digest == facts.recipe.digest
    assert read_model(done.path).fingerprint == done.fingerprint
    assert len(done.shards) > 1
    assert done.size_bytes == read_model(done.path).size_bytes
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_is_replaced_only_when_asked(facts, parents, tmp_path):
    out = tmp_path / "out"
    with Sources(parents) as sources:
        first = export_model(facts, sources, out)
        (out / "mark").touch()
        with pytest.raises(ExportError, match="exists already"):
            export_model(facts, sources, out)
        assert (out / "mark").exists()
        second = export_model(facts, sources, out, replace=True)
    assert not (out / "mark").exists()
    assert second == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_what_was_not_exported_is_never_removed(facts, parents, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").touch()
    with (
        Sources(parents) as sources,
        pytest.raises(ExportError, match="not replaced"),
    ):
        export_model(facts, sources, precious, replace=True)
    assert (precious / "chapter1.tex").exists()


def test_a_failed_replacement_keeps_the_earlier_export(facts, parents, tmp_path):
    out = tmp_path / "out"
    with Sources(parents) as sources:
        first = export_model(facts, sources, out)
    gone = {fingerprint: str(tmp_path / "gone") for fingerprint in parents}
    errors = (CheckpointError, CandidateError, RecipeError, ExportError)
    with Sources(gone) as sources, pytest.raises(errors):
        export_model(facts, sources, out, replace=True)
    assert read_model(out).fingerprint == first.fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
