"""A recipe as a mergekit file: the same merge when it is read, or a word on it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.adapters import tiny_adapter

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Nested
from evomerge.errors import RecipeError
from evomerge.specs.mergekit import write_mergekit
from evomerge.specs.recipes import open_recipe
from evomerge.testing.models import tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
ALL = sorted((GOLDEN / "mergekit_more" / "yaml").glob("*.yml"))
UNEVEN = [file for file in ALL if file.stem.startswith("zero_")]
"""Inputs of which nothing is kept in the first layers are left out of their slice."""
FILES = [file for file in ALL if file not in UNEVEN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for seed, name in enumerate(("base", "math", "ja")):
        tiny_model(folder / name, seed=seed)
    return folder


def own(folder: Path, **keys):
    """Read a short recipe over three models."""
    file = folder / "own.yaml"
    names = {"base": "base", "math": "./math", "ja": "ja"}
    file.write_text(yaml.safe_dump({"sources": names} | keys), encoding="utf-8")
    return open_recipe(file)


def there_and_back(opened, folder: Path):
    """Write a recipe as mergekit's file, and read that."""
    written = write_mergekit(opened.recipe, opened.models)
    file = folder / "merge.yml"
    file.write_text(yaml.safe_dump(dict(written.data)), encoding="utf-8")
    return written, open_recipe(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_mergekit_can_say_comes_back_with_the_same_digest(file, tmp_path):
    opened = open_recipe(file)
    written, again = there_and_back(opened, tmp_path)
    assert written.losses == ()
    assert again.recipe.digest == opened.recipe.digest


@pytest.mark.parametrize("file", UNEVEN, ids=lambda file: file.stem)
def test_a_head_of_inputs_that_the_last_slice_does_not_begin_with_is_told_of(
    file, tmp_path
):
    opened = open_recipe(file)
    written, again = there_and_back(opened, tmp_path)
    assert [loss for loss in written.losses if "head" in loss] == list(written.losses)
    assert written.losses
    assert again.recipe.slots == opened.recipe.slots


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_own_recipes_come_back_with_the_same_digest(folder, data):
    weights = st.floats(0.01, 2.0).map(lambda value: round(value, 3))
    listed = st.lists(weights, min_size=2, max_size=4)
    operator = data.draw(st.sampled_from(["linear", "task_arithmetic"]))
    knobs = {
        "weight": {
            "math": data.draw(weights | listed),
            "ja": data.draw(weights | listed),
        },
        "normalize": data.draw(st.booleans()),
    }
    if operator == "task_arithmetic":
        knobs["lambda"] = data.draw(weights)
    dtype = data.draw(st.sampled_from(["float32", "bfloat16"]))
    base = {"base": "base"} if operator == "task_arithmetic" else {}
    opened = own(
        folder,
        operator=operator,
        experts=["math", "ja"],
        knobs=knobs,
        dtype=dtype,
        **base,
    )
    written, again = there_and_back(opened, folder)
    assert written.losses == ()
    assert again.recipe.digest == opened.recipe.digest


def test_a_frame_that_is_merged_of_nothing_is_kept(folder):
    opened = own(folder, operator="linear", experts=["math", "ja"], frame="base")
    written, again = there_and_back(opened, folder)
    assert written.losses == ()
    assert "slices" in written.data  # listed models would make the base an input
    assert again.recipe.digest == opened.recipe.digest


def test_names_and_seeds_are_kept_beside_what_mergekit_reads(folder):
    file = folder / "named.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "merge_method": "dare_ties",
                "base_model": "base",
                "models": [{"model": "math"}, {"model": "ja"}],
                "parameters": {"weight": 0.5, "density": 0.4},
                "evomerge": {
                    "inputs": {"start": "base", "one": "math", "two": "ja"},
                    "frame": "two",
                    "seed": 7,
                },
            }
        )
    )
    opened = open_recipe(file)
    assert [name for name, _ in opened.recipe.inputs] == ["one", "start", "two"]
    written, again = there_and_back(opened, folder)
    assert written.data["evomerge"]["seed"] == 7
    assert written.data["evomerge"]["frame"] == "two"
    assert again.recipe.digest == opened.recipe.digest
    assert "draws others" in written.notes[0]


def test_a_few_words_tell_tensors_apart(folder):
    file = folder / "filtered.yml"
    weight = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    file.write_text(
        yaml.safe_dump(
            {
                "merge_method": "linear",
                "models": [
                    {"model": "math", "parameters": {"weight": weight}},
                    {"model": "ja", "parameters": {"weight": 1}},
                ],
                "dtype": "float32",
            }
        )
    )
    written, _ = there_and_back(open_recipe(file), folder)
    models = written.data["models"]
    cases = models[0]["parameters"]["weight"]
    assert [case.get("filter") for case in cases] == ["mlp", None]
    assert models[1]["parameters"] == {"weight": 1.0}


def test_defaults_of_our_own_are_told_of(folder):
    opened = own(folder, operator="ties", base="base", experts=["math", "ja"])
    written, again = there_and_back(opened, folder)
    said = " ".join(written.losses)
    assert "Knob rounding of ties is safe, and in mergekit int" in said
    assert "Tensors are merged by task_arithmetic" in said
    assert again.recipe.digest != opened.recipe.digest


def test_an_operator_that_mergekit_lacks_is_refused(folder):
    opened = own(folder, operator="emr", base="base", experts=["math", "ja"])
    with pytest.raises(RecipeError, match="no method for emr"):
        write_mergekit(opened.recipe, opened.models)


def test_a_merge_within_a_merge_is_refused(folder):
    opened = own(folder, operator="linear", experts=["math", "ja"])
    inputs = tuple(
        (name, Nested(opened.recipe) if name == "ja" else source)
        for name, source in opened.recipe.inputs
    )
    recipe = type(opened.recipe)(
        **{
            key: getattr(opened.recipe, key)
            for key in ("frame", "dtype", "embed", "slots", "head")
        },
        inputs=inputs,
    )
    with pytest.raises(RecipeError, match="is itself a merge"):
        write_mergekit(recipe, {"math": read_model(folder / "math")})


def test_adapters_come_back_with_the_same_digest(folder):
    tiny_adapter(folder / "lora", folder / "math")
    file = folder / "adapted.yml"
    models = [{"model": "math+lora"}, {"model": "ja"}]
    data = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    opened = open_recipe(file)
    written, again = there_and_back(opened, folder)
    assert written.losses == ()
    assert written.data["models"][0]["model"] == f"{folder}/math+{folder}/lora"
    assert again.recipe.digest == opened.recipe.digest
