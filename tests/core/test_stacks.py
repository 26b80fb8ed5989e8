"""Which layer fills which slot: passthrough, shuffle and up-scaling (E1, E3, E4)."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.flow.stacks import (
    Frame,
    Layer,
    Run,
    passthrough,
    recipe_of,
    shuffle,
    stack,
    switch,
    upscale,
)
from evomerge.core.recipes.recipe import Checkpoint, Recipe
from evomerge.errors import RecipeError

OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def frame(*names, **ends):
    return Frame(
        frame=names[0],
        dtype="float32",
        inputs={name: Checkpoint(f"print-{name}") for name in names},
        outputs=dict.fromkeys(names, OUTPUTS),
        **ends,
    )


def indices(layers):
    return [layer.index for layer in layers]


def test_slices_are_set_one_after_another():
    layers = stack([Run("a", 0, 3), Run("b", 1, 3, 0.5), Run("a", 2, 3)])
    assert layers == (
        Layer("a", 0),
        Layer("a", 1),
        Layer("a", 2),
        Layer("b", 1, 0.5),
        Layer("b", 2, 0.5),
        Layer("a", 2),
    )


def test_slices_that_cover_one_model_once_are_that_model():
    layers = stack([Run("a", 0, 1), Run("a", 1, 4)])
    recipe = recipe_of(layers, frame("a"))
    assert recipe.digest == passthrough("a", "print-a", 4, "float32").digest


def test_up_scaling_repeats_the_middle():
    assert indices(upscale("a", 32, 8)) == [*range(24), *range(8, 32)]
    assert len(upscale("a", 32, 8)) == 48
    assert indices(upscale("a", 4, 0)) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert indices(upscale("a", 4, 3)) == [0, 3]


def test_one_donor_is_that_model():
    layers = shuffle({"a": 1.0}, 5, seed=3)
    assert layers == Run("a", 0, 5).layers
    recipe = recipe_of(layers, frame("a"))
    assert recipe.digest == passthrough("a", "print-a", 5, "float32").digest


def test_a_shuffle_keeps_the_order_and_follows_its_seed():
    donors = {"a": 1.0, "b": 1.0, "c": 0.0}
    layers = shuffle(donors, 40, seed=1)
    assert indices(layers) == list(range(40))
    assert {layer.source for layer in layers} == {"a", "b"}
    assert shuffle(donors, 40, seed=1) == layers
    assert shuffle(donors, 40, seed=2) != layers


def test_a_full_shuffle_draws_the_order_as_well():
    layers = shuffle({"a": 1.0, "b": 1.0}, 40, seed=1, full=True)
    assert sorted(indices(layers)) == list(range(40))
    assert indices(layers) != list(range(40))


def test_donors_are_drawn_by_their_weights():
    layers = shuffle({"a": 3.0, "b": 1.0}, 4000, seed=0)
    share = sum(layer.source == "a" for layer in layers) / 4000
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)


def test_a_shuffle_is_the_same_on_every_machine():
    layers = shuffle({"a": 1.0, "b": 1.0}, 8, seed=0)
    assert "".join(layer.source for layer in layers) == "bbaaaaba"


def test_donors_take_over_at_switch_points():
    layers = switch(["a", "b", "a"], 6, [2, 5])
    assert "".join(layer.source for layer in layers) == "aabbba"
    assert indices(layers) == list(range(6))
    skipped = switch(["a", "b", "c"], 4, [2, 2])
    assert "".join(layer.source for layer in skipped) == "aacc"


pieces = st.builds(
    Layer,
    st.sampled_from("ab"),
    st.integers(0, 4),
    st.sampled_from([1.0, 0.5]),
)


def _runs_of(layers: Iterable[Layer]) -> tuple[Run, ...]:
    """Return the fewest runs that hold these layers in this order."""
    runs: list[Run] = []
    for layer in layers:
        last = runs[-1] if runs else None
        if last is not None and _follows(last, layer):
            runs[-1] = replace(last, end=last.end + 1)
        else:
            runs.append(Run(layer.source, layer.index, layer.index + 1, layer.scale))
    return tuple(runs)


def _follows(run: Run, layer: Layer) -> bool:
    return (run.source, run.end, run.scale) == (layer.source, layer.index, layer.scale)


@given(st.lists(pieces, min_size=1))
def test_neighbours_from_one_donor_fuse_into_slices(layers):
    runs = _runs_of(layers)
    assert stack(runs) == tuple(layers)
    for a, b in pairwise(runs):
        assert (a.source, a.end, a.scale) != (b.source, b.first, b.scale)


def test_ends_come_from_the_first_and_the_last_layer_unless_said():
    layers = stack([Run("a", 0, 1), Run("b", 1, 2)])
    recipe = recipe_of(layers, frame("a", "b"))
    assert recipe.embed.operation("embed").inputs == ("a",)
    assert recipe.head.operation("norm").inputs == ("b",)
    said = recipe_of(layers, frame("a", "b", "c", embed="b", head="c"))
    assert said.embed.operation("embed").inputs == ("b",)
    assert said.head.operation("head").inputs == ("c",)
    assert [name for name, _ in said.inputs] == ["a", "b", "c"]


def test_a_scale_is_on_what_a_layer_adds():
    (slot,) = recipe_of(stack([Run("a", 1, 2, 0.25)]), frame("a")).slots
    for name in OUTPUTS:
        scaled = slot.operation("mlp", name)
        assert scaled.knobs("weight") == (0.25,)
        assert scaled.knob("normalize", True) is False
    plain = slot.operation("attn", "self_attn.q_proj.weight")
    assert plain.knob("normalize") is True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stack([]), "at least one slice"),
        (lambda: stack([Run("a", 2, 2)]), "empty"),
        (lambda: stack([Run("a", -1, 2)]), "empty"),
        (lambda: upscale("a", 4, 4), "from 0 to 3"),
        (lambda: upscale("a", 4, -1), "from 0 to 3"),
        (lambda: shuffle({"a": 0.0}, 4, 0), "not all zero"),
        (lambda: shuffle({"a": 2.0, "b": -1.0}, 4, 0), "not negative"),
        (lambda: switch(["a", "b"], 4, [1, 2]), "2 donors"),
        (lambda: switch(["a", "b", "c"], 4, [3, 2]), "ascending"),
        (lambda: switch(["a", "b"], 4, [5]), "ascending"),
    ],
)
def test_what_gives_no_stack_is_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_a_scale_without_known_outputs_is_refused():
    bare = Frame("a", "float32", {"a": Checkpoint("print")}, {})
    with pytest.raises(RecipeError, match="not known which of its tensors"):
        recipe_of(stack([Run("a", 0, 1, 0.5)]), bare)


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
