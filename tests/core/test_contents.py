"""Keys of what a merge holds: equal exactly where the weights are."""

from dataclasses import replace

from evomerge.core.recipes.layer_keys import LayerKeys
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot


def _copy(name: str) -> tuple[tuple[str, Operation], ...]:
    return (("*", Operation("linear", (name,), each=(("weight", (1.0,)),))),)


def _recipe(*layers: tuple[str, int], names: str = "ab") -> Recipe:
    a, b = names[0], names[1]
    mine = {"a": a, "b": b}
    return Recipe(
        frame=a,
        dtype="float32",
        inputs=((a, Checkpoint("one")), (b, Checkpoint("two"))),
        embed=Slot(_copy(a)),
        slots=tuple(Slot(_copy(mine[n]), ((mine[n], i),)) for n, i in layers),
        head=Slot(_copy(a)),
    )


PLAIN = _recipe(("a", 0), ("b", 1), ("a", 0))


def test_layer_that_repeats_has_one_key_and_others_have_others() -> None:
    first, second, third = LayerKeys.of(PLAIN).layers
    assert first == third
    assert first != second


def test_names_places_and_scales_do_not_matter() -> None:
    moved = _recipe(("b", 1), ("a", 0), names="qp")
    scaled = replace(moved, slots=tuple(replace(s, scale=0.5) for s in moved.slots))
    assert set(LayerKeys.of(scaled).layers) == set(LayerKeys.of(PLAIN).layers)


def test_everything_the_weights_depend_on_matters() -> None:
    other = replace(PLAIN, inputs=(("a", Checkpoint("three")), *PLAIN.inputs[1:]))
    half = replace(PLAIN, dtype="bfloat16")
    double = Operation(
        "linear", ("a",), shared=(("normalize", False),), each=(("weight", (2.0,)),)
    )
    slots = (replace(PLAIN.slots[0], roles=(("*", double),)), *PLAIN.slots[1:])
    layers = [
        LayerKeys.of(recipe).layers[0]
        for recipe in (PLAIN, other, half, replace(PLAIN, slots=slots))
    ]
    layers.append(LayerKeys.of(_recipe(("a", 1))).layers[0])
    assert len(set(layers)) == len(layers)


def test_order_of_merged_inputs_matters() -> None:
    def of(*names: str) -> str:
        slot = Slot((("*", Operation("slerp", names)),), (("a", 0), ("b", 0)))
        return LayerKeys.of(replace(PLAIN, slots=(slot,))).layers[0]

    assert of("a", "b") != of("b", "a")


def test_head_changes_with_the_embedding_it_may_be_tied_to() -> None:
    moved = replace(PLAIN, embed=Slot(_copy("b")))
    ours, theirs = LayerKeys.of(PLAIN), LayerKeys.of(moved)
    assert ours.embed != theirs.embed
    assert ours.head != theirs.head
    assert ours.layers == theirs.layers
