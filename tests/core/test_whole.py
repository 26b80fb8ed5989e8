import pytest

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.recipes.whole import passthrough
from evomerge.errors import RecipeError


def test_every_slot_takes_the_layer_of_its_own_number() -> None:
    recipe = passthrough("math", "f" * 32, 3, "bfloat16")
    assert [slot.layer_of("math") for slot in recipe.slots] == [0, 1, 2]
    assert recipe.frame == "math"
    assert recipe.dtype == "bfloat16"


def test_it_survives_json_with_its_digest() -> None:
    recipe = passthrough("math", "f" * 32, 2, "float32")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest


def test_parents_of_different_content_are_different_recipes() -> None:
    assert (
        passthrough("a", "1" * 32, 2, "float32").digest
        != passthrough("a", "2" * 32, 2, "float32").digest
    )


def test_a_parent_without_layers_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one slot"):
        passthrough("a", "1" * 32, 0, "float32")
