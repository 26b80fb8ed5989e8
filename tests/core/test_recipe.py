import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.digest import canonical_json, digest
from evomerge.core.recipes.recipe import (
    ANY_ROLE,
    Adapted,
    Checkpoint,
    Nested,
    Operation,
    Recipe,
    Slot,
    Transformed,
    copied,
    parents_of,
)
from evomerge.errors import RecipeError

HALF = (("weight", (0.5,)),)
PAIR = (("a", Checkpoint("f" * 32)), ("b", Adapted("e" * 32, "d" * 32)))
scalars = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-1e3, 1e3),
    st.booleans(),
    st.text(max_size=5),
)


def linear(weights=(0.5, 0.5), **shared):
    return Operation(
        "linear",
        ("a", "b"),
        shared=tuple(shared.items()),
        each=(("weight", tuple(weights)),),
    )


def recipe(**changes):
    plain = Slot((("*", linear()),))
    layer = Slot((("*", linear()),), layers=(("a", 0), ("b", 1)))
    parts = {
        "frame": "a",
        "dtype": "float32",
        "inputs": PAIR,
        "embed": plain,
        "slots": (layer, layer),
        "head": plain,
    }
    return Recipe(**{**parts, **changes})


@st.composite
def recipes(draw):
    names = draw(st.permutations(["a", "b"]))

    def operation():
        return Operation(
            draw(st.sampled_from(["linear", "ties"])),
            tuple(names),
            base=draw(st.sampled_from([None, "a"])),
            shared=tuple(draw(st.dictionaries(st.text(max_size=3), scalars)).items()),
            each=(("weight", (draw(st.floats(-2, 2)), draw(st.floats(-2, 2)))),),
        )

    def slot(layered):
        roles = (("*", operation()), ("norm", operation()))
        layers = (("a", draw(st.integers(0, 9))), ("b", draw(st.integers(0, 9))))
        scale = draw(st.floats(0.1, 2.0)) if layered else 1.0
        return Slot(roles, layers if layered else (), scale)

    inner = Nested(recipe())
    third = draw(
        st.sampled_from(
            [(), (("c", inner),), (("c", Transformed(Checkpoint("1"), "perm", "2")),)]
        )
    )
    return recipe(
        inputs=PAIR + third,
        embed=slot(False),
        slots=tuple(slot(True) for _ in range(draw(st.integers(1, 3)))),
        head=slot(False),
    )


@given(recipes())
def test_json_gives_the_same_recipe_back(made):
    again = Recipe.from_json(json.loads(canonical_json(made.to_json())))
    assert again == made
    assert again.digest == made.digest


def _shuffled(value, random):
    if isinstance(value, dict):
        items = list(value.items())
        random.shuffle(items)
        return {key: _shuffled(v, random) for key, v in items}
    if isinstance(value, list):
        return [_shuffled(v, random) for v in value]
    return value


@given(recipes(), st.randoms())
def test_the_digest_ignores_the_order_of_keys(made, random):
    assert Recipe.from_json(_shuffled(made.to_json(), random)).digest == made.digest


def test_the_digest_of_a_reference_recipe_never_changes():
    """A change here makes every stored outcome unreachable: raise the version."""
    assert recipe(version=1).digest == "6fd322ac6c299bf4b048bf5c7cd18a48"
    assert recipe().digest == "59ab805029a153d9c673bce51537a94b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (linear((3.0, 1.0)), linear((0.75, 0.25), normalize=False)),
        (linear((0.0, 0.5)), Operation("linear", ("b",))),
        (linear((1, 1)), Operation("linear", ("a", "b"))),
    ],
)
def test_equal_merges_have_one_digest_however_they_are_written(one, other):
    found = [
        recipe(embed=Slot((("*", op),)), slots=(Slot((("*", op),), layers),))
        for op in (one, other)
        for layers in [(("a", 0), ("b", 1))]
    ]
    assert found[0].digest == found[1].digest
    assert found[0].text != found[1].text
    old = [one.in_version(1) for one in found]
    assert old[0].digest != old[1].digest
    assert all(one.computed is one for one in old)


def test_a_role_that_says_what_all_say_is_nothing_of_its_own():
    mean, other = linear(), linear((0.4, 0.6))
    by_role = Slot((("*", other), ("attn", mean), ("norm", other), ("mlp", mean)))
    said = {"embed": mean, "head": mean, "router": other, "bias": other}
    again = Slot((("*", mean), ("expert", other), ("norm", other), *said.items()))
    one, two = (
        recipe(slots=(Slot(slot.roles, (("a", 0), ("b", 1))),))
        for slot in (Slot((*by_role.roles, ("embed", mean), ("head", mean))), again)
    )
    assert one.digest == two.digest


def test_a_recipe_within_a_recipe_takes_its_one_form_too():
    forms = [
        recipe(
            inputs=(*PAIR, ("c", Nested(recipe(embed=Slot((("*", op),)))))),
            embed=Slot((("*", Operation("linear", ("c",))),)),
        )
        for op in (linear((3.0, 1.0)), linear((0.75, 0.25)))
    ]
    assert forms[0].digest == forms[1].digest
    assert forms[0].in_version(1).inputs[2][1].recipe.version == 1


def test_what_nothing_reads_is_not_part_of_what_is_carried_out():
    only = Operation("linear", ("a",))
    place = Slot((("*", only),))
    layer = Slot((("*", only),), (("a", 0), ("b", 0)))
    made = recipe(embed=place, slots=(layer,), head=place)
    assert [name for name, _ in made.computed.inputs] == ["a"]
    assert made.computed.slots[0].layers == (("a", 0),)
    assert (
        made.digest
        == recipe(
            inputs=PAIR[:1],
            embed=place,
            slots=(Slot((("*", only),), (("a", 0),)),),
            head=place,
        ).digest
    )


def of(inputs, operation, **changes):
    names = [name for name, _ in inputs]
    place = Slot((("*", operation),))
    layers = tuple(
        Slot((("*", operation),), tuple((name, i) for name in names)) for i in range(2)
    )
    parts = {"embed": place, "slots": layers, "head": place, **changes}
    return Recipe(names[0], "float32", tuple(inputs), **parts)


def test_parents_are_the_models_whose_weights_a_merge_is_made_of():
    a, b, c = Checkpoint("a"), Adapted("b", "lora"), Checkpoint("c")
    three = (("base", a), ("x", b), ("y", c))
    tasks = Operation("task_arithmetic", ("x", "y"), "base")
    assert parents_of(of(three, tasks)) == (a, b, c)
    # The frame alone, an input of weight zero, a base whose differences are none.
    assert parents_of(of(three, Operation("linear", ("x", "y")))) == (b, c)
    idle = Operation("task_arithmetic", ("x", "y"), "base", (), (("weight", (0, 1)),))
    assert parents_of(of(three, idle)) == (a, c)
    none = Operation("task_arithmetic", ("x", "y"), "base", (("lambda", 0.0),))
    assert parents_of(of(three, none)) == (a,)
    nested = (("m", Nested(of(three, Operation("linear", ("x", "base"))))), ("z", c))
    both = Operation("linear", ("m", "z"))
    assert parents_of(of(nested, both)) == (a, b, c)
    assert parents_of(of(nested, Operation("linear", ("m",)))) == (a, b)
    moved = Transformed(a, "vocabulary", "d", (), (("y", c),))
    assert parents_of(of((("t", moved),), Operation("linear", ("t",)))) == (a, c)


def test_a_copy_of_one_model_is_known_as_one_however_it_is_written():
    a, b = Checkpoint("a"), Checkpoint("b")
    both = (("a", a), ("b", b))
    assert copied(of(both, Operation("linear", ("b",)))) == b
    assert copied(of(both, Operation("slerp", ("a", "b"), None, (("t", 0.0),)))) == a
    gone = Operation("ties", ("b",), "a", (("lambda", 0.0),))
    assert copied(of(both, gone)) == a
    for other in (
        of(both, Operation("linear", ("a", "b"))),
        of(both, Operation("linear", ("a",)), head=Slot((("*", linear()),))),
        of(both, Operation("linear", ("a",), None, (("normalize", False),), HALF)),
        of(both, Operation("linear", ("a",)), slots=of(both, linear()).slots),
    ):
        assert copied(other) is None
    plain = of(both, Operation("linear", ("a",)))
    assert copied(replace(plain, slots=plain.slots[::-1])) is None
    scaled = tuple(replace(slot, scale=0.5) for slot in plain.slots)
    assert copied(replace(plain, slots=scaled)) is None


def test_versions_know_the_digests_of_a_merge_with_equal_bits():
    new, old = recipe(), recipe(version=1)
    assert old.digest in new.also
    assert old.also == (new.digest,)
    base = (*PAIR, ("c", Checkpoint("0" * 32)))
    scaled = Operation(
        "task_arithmetic",
        ("a", "b"),
        "c",
        (("lambda", 0.7),),
        (("weight", (0.3, 0.9)),),
    )
    new = recipe(inputs=base, embed=Slot((("*", scaled),)))
    old = new.in_version(1)
    assert old.also == ()
    assert old.digest not in new.also
    # What version 2 makes of it can be written in version 1.
    assert new.also == (new.computed.in_version(1).digest,)


def test_the_digest_does_not_depend_on_the_process():
    code = (
        "import json, sys; from evomerge.core.recipes.recipe import Recipe;"
        "print(Recipe.from_json(json.load(sys.stdin)).digest)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(recipe().to_json()),
        env={"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == recipe().digest


@pytest.mark.parametrize(
    "other",
    [
        recipe(frame="b"),
        recipe(dtype="bfloat16"),
        recipe(slots=recipe().slots[:1]),
        recipe(embed=Slot((("*", linear((0.4, 0.6))),))),
        recipe(embed=Slot((("*", linear((0.4, 0.4), normalize=False)),))),
        recipe(inputs=(PAIR[0], ("b", Checkpoint("e" * 32)))),
        recipe(
            slots=(
                Slot((("*", linear()),), layers=(("a", 1), ("b", 1))),
                recipe().slots[1],
            )
        ),
        recipe(slots=(Slot((("*", linear()),), recipe().slots[0].layers, 0.9),) * 2),
    ],
)
def test_whatever_changes_the_merge_changes_the_digest(other):
    assert other.digest != recipe().digest


def test_the_order_of_inputs_of_an_operation_is_part_of_the_recipe():
    swapped = Operation("linear", ("b", "a"), each=(("weight", (0.5, 0.5)),))
    assert recipe(embed=Slot((("*", swapped),))).digest != recipe().digest


def test_the_order_in_which_names_are_given_is_not():
    assert recipe(inputs=PAIR[::-1]) == recipe()
    knobs = (("x", 1), ("y", 2))
    assert Operation("o", ("a",), shared=knobs) == Operation(
        "o", ("a",), shared=knobs[::-1]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "version 3"),
        ({"version": True}, "version True"),
        ({"dtype": "int8"}, "'int8' is not one of"),
        ({"frame": "z"}, "'z' is not an input"),
        ({"slots": ()}, "at least one slot"),
        ({"inputs": PAIR[:1]}, "embed reads 'b'"),
        ({"slots": (Slot((("*", linear()),), layers=(("a", 0),)),)}, "no layer of"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


def test_every_input_needs_its_knob():
    with pytest.raises(RecipeError, match=r"one value per input \(2\), but has 1"):
        linear((0.5,))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {**recipe().to_json(), "slots": 3},
        {**recipe().to_json(), "embed": {"layers": {}}},
        {**recipe().to_json(), "inputs": {"a": {}}},
        {**recipe().to_json(), "inputs": []},
        {**recipe().to_json(), "head": {**recipe().head.to_json(), "scale": "big"}},
        [],
    ],
)
def test_what_is_no_recipe_is_refused(data):
    with pytest.raises(RecipeError, match="Not a recipe"):
        Recipe.from_json(data)


def test_reads_lists_the_base_last_and_once():
    assert Operation("o", ("a", "b"), base="c").reads == ("a", "b", "c")
    assert Operation("o", ("a", "b"), base="a").reads == ("a", "b")


def test_a_slot_serves_named_roles_before_the_rest():
    special, rest = linear((0.1, 0.9)), linear()
    slot = Slot((("norm", special), ("*", rest)))
    assert slot.operation("norm") == special
    assert slot.operation("mlp") == rest
    with pytest.raises(RecipeError, match="No operation for role 'mlp'"):
        Slot((("norm", special),)).operation("mlp")


def test_knobs_are_found_by_name():
    operation = linear(density=0.5)
    assert operation.knob("density") == 0.5
    assert operation.knob("lambda", 1.0) == 1.0
    assert operation.knobs("weight") == (0.5, 0.5)
    assert operation.knobs("density") is None
    with pytest.raises(RecipeError, match="no knob 'lambda'"):
        operation.knob("lambda")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_json_cannot_hold_have_no_digest(bad):
    with pytest.raises(ValueError, match="JSON"):
        digest({"x": bad})


@pytest.mark.parametrize("moved", [False, True])
def test_recipes_in_each_other_are_bounded(moved: bool) -> None:
    one = Operation("linear", ("a",), each=(("weight", (1.0,)),))
    whole = Slot(((ANY_ROLE, one),))
    slot = Slot(((ANY_ROLE, one),), layers=(("a", 0),))

    def over(source):
        return Recipe("a", "float32", (("a", source),), whole, (slot,), whole)

    recipe = over(Checkpoint("f" * 32))
    for _ in range(9):
        inner = Nested(recipe)
        recipe = over(Transformed(inner, "rows", "e" * 32) if moved else inner)
    assert recipe.nesting == 10
    assert Recipe.from_json(json.loads(recipe.text)) == recipe
    with pytest.raises(RecipeError, match="at most 10 recipes in each other, got 11"):
        over(Nested(recipe))


@pytest.mark.parametrize("value", [{"a": 1}, [0.5], []])
@pytest.mark.parametrize("where", ["shared", "each"])
def test_a_knob_that_is_a_list_or_a_mapping_is_refused(where, value):
    data = {"operator": "ties", "inputs": ["a"]}
    data[where] = {"density": value if where == "shared" else [value]}
    with pytest.raises(RecipeError, match="Knob 'density': expected numbers, words"):
        Operation.from_json(data)
