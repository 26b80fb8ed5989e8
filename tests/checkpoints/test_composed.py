"""What is known of a recipe's model beforehand is what its written folder shows."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from evomerge.checkpoints import Model, read_model
from evomerge.checkpoints.composed import composed
from evomerge.core.recipes.recipe import Checkpoint, Input, Nested, Recipe, Slot
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.testing.families import family_config, family_model, save_family

Steps = Sequence[tuple[str, int]]
STACKS: dict[str, Steps] = {
    "as it is": (("a", 0), ("a", 1), ("a", 2)),
    "shorter": (("b", 2),),
    "deeper, in any order": (("a", 2), ("b", 0), ("a", 1), ("a", 1), ("b", 2)),
}


def stack(inputs: dict[str, Input], steps: Steps) -> Recipe:
    slots = tuple(Slot.copy_of(name, layer) for name, layer in steps)
    ends = Slot.copy_of("a")
    used = {name for name, _ in steps} | {"a"}
    kept = tuple((name, source) for name, source in inputs.items() if name in used)
    return Recipe("a", "float32", kept, ends, slots, ends)


@pytest.fixture
def models(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Model]:
    for seed, name in enumerate(("a", "b")):
        model = family_model(family_config(request.param), seed)
        save_family(tmp_path / name, model)
    return {name: read_model(tmp_path / name) for name in ("a", "b")}


def assert_alike(found: Model, written: Model) -> None:
    shapes = {name: info.shape for name, info in written.tensors.items()}
    assert {name: info.shape for name, info in found.tensors.items()} == shapes
    assert found.places == written.places
    assert found.layer_types == written.layer_types
    assert (found.layout, found.tied) == (written.layout, written.tied)
    assert found.n_layers == written.n_layers


@pytest.mark.parametrize("steps", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("models", ["llama", "gemma3_text", "phi3"], indirect=True)
def test_a_stack_is_known_before_it_is_written(
    models: dict[str, Model], steps: Steps, tmp_path: Path
) -> None:
    inputs: dict[str, Input] = {
        name: Checkpoint(model.fingerprint) for name, model in models.items()
    }
    recipe = stack(inputs, steps)
    paths = {model.fingerprint: model.path for model in models.values()}
    with Sources(paths) as sources:
        write_model(recipe, sources, tmp_path / "out")
    found = composed(recipe, models)
    assert_alike(found, read_model(tmp_path / "out"))
    assert found.fingerprint == recipe.digest


@pytest.mark.parametrize("models", ["llama"], indirect=True)
def test_a_stack_of_a_stack_is_known_too(
    models: dict[str, Model], tmp_path: Path
) -> None:
    inputs: dict[str, Input] = {
        name: Checkpoint(model.fingerprint) for name, model in models.items()
    }
    inner = stack(inputs, STACKS["deeper, in any order"])
    recipe = stack({**inputs, "b": Nested(inner)}, (("b", 4), ("a", 0), ("b", 3)))
    paths = {model.fingerprint: model.path for model in models.values()}
    with Sources(paths) as sources:
        write_model(recipe, sources, tmp_path / "out")
    assert_alike(
        composed(recipe, {"a": models["a"], "b": models["b"]}),
        read_model(tmp_path / "out"),
    )


@pytest.mark.parametrize("models", ["llama"], indirect=True)
def test_a_missing_folder_is_an_error(models: dict[str, Model]) -> None:
    recipe = stack({"a": Checkpoint("a"), "b": Checkpoint("b")}, (("b", 0),))
    with pytest.raises(KeyError):
        composed(recipe, {"a": models["a"]})
