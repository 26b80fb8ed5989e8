"""Recipe files whose ``stack`` sets layers of whole models on each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import SpecError
from evomerge.specs.recipes import load_recipe
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]
Read = Callable[..., Recipe]


@pytest.fixture
def read(zoo: Path, write: Write) -> Read:
    """Read a recipe with this stack."""

    def _read(stack: Any, **parts: Any) -> Recipe:
        sources = {name: str(zoo / name) for name in ("math", "ja")}
        return load_recipe(write({"sources": sources, "stack": stack, **parts}))[0]

    return _read


def fed(recipe: Recipe) -> list[tuple[str, int]]:
    """Return which layer of which input fills each slot."""
    return [layer for slot in recipe.slots for layer in slot.layers]


def test_slices_stack_layers_of_sources(read: Read) -> None:
    recipe = read(
        {
            "slices": [
                {"source": "math", "layers": [0, 3]},
                {"source": "ja", "layers": [1, 4], "scale": 0.5},
            ]
        }
    )
    assert fed(recipe) == [("math", i) for i in range(3)] + [
        ("ja", i) for i in range(1, 4)
    ]
    assert recipe.frame == "math"
    scaled = recipe.slots[4].operation("mlp", "mlp.down_proj.weight")
    assert scaled.knobs("weight") == (0.5,)
    assert recipe.head.operation("head").inputs == ("ja",)


def test_a_shuffle_draws_donors_or_switches_them(read: Read) -> None:
    drawn = read({"shuffle": {"donors": {"math": 1, "ja": 1}, "seed": 5}})
    assert [layer for _, layer in fed(drawn)] == [0, 1, 2, 3]
    again = read({"shuffle": {"donors": {"math": 1, "ja": 1}, "seed": 5}})
    assert again.digest == drawn.digest
    switched = read({"shuffle": {"donors": {"math": 1, "ja": 1}, "points": [1]}})
    assert [name for name, _ in fed(switched)] == ["math", "ja", "ja", "ja"]


def test_up_scaling_repeats_the_middle_of_a_source(read: Read) -> None:
    recipe = read({"upscale": {"source": "ja", "overlap": 1}})
    assert fed(recipe) == [("ja", i) for i in (0, 1, 2, 1, 2, 3)]
    short = read({"upscale": {"source": "ja", "n": 3, "overlap": 1}})
    assert fed(short) == [("ja", i) for i in (0, 1, 1, 2)]


def test_the_ends_and_the_frame_may_be_said(read: Read) -> None:
    recipe = read(
        {"upscale": {"source": "ja", "overlap": 0}, "embed": "math", "head": "math"},
        frame="math",
        dtype="bfloat16",
    )
    assert recipe.embed.operation("embed").inputs == ("math",)
    assert recipe.head.operation("head").inputs == ("math",)
    assert (recipe.frame, recipe.dtype) == ("math", "bfloat16")


SLICE = {"source": "math", "layers": [0, 4]}


@pytest.mark.parametrize(
    ("stack", "where", "message"),
    [
        ({}, "stack", "expected one of slices, shuffle, upscale, got none"),
        (
            {"slices": [SLICE], "upscale": {"source": "ja", "overlap": 1}},
            "stack",
            "got slices and upscale",
        ),
        ({"slices": []}, "stack", "at least one slice"),
        ({"shuffle": {"donors": {}}}, "stack", "not all zero"),
        ({"slices": [{**SLICE, "layers": [2, 2]}]}, "stack", "empty"),
        ({"slices": [{**SLICE, "layers": [3, 1]}]}, "stack", "empty"),
        ({"slices": [{**SLICE, "layers": [0, 5]}]}, "stack", "layers 0 to 3 of 'math'"),
        ({"slices": [{**SLICE, "scale": -1}]}, "stack.slices.0.scale", "0"),
        ({"slices": [{**SLICE, "source": "maths"}]}, "stack.slices.0.source", "'math'"),
        ({"slices": [{**SLICE, "sorce": 1}]}, "stack.slices.0.sorce", "source"),
        ({"upscale": {"source": "ja", "overlap": 4}}, "stack", "from 0 to 3"),
        ({"upscale": {"source": "ja", "n": 9, "overlap": 1}}, "stack", "0 to 3"),
        ({"shuffle": {"donors": {"ja": 0}}}, "stack", "not all zero"),
        ({"shuffle": {"donors": {"jaa": 1}}}, "stack.shuffle.donors.jaa", "'ja'"),
        ({"slices": [SLICE], "head": "mat"}, "stack.head", "'math'"),
    ],
)
def test_mistakes_in_a_stack_are_named(
    stack: Any, where: str, message: str, read: Read
) -> None:
    with pytest.raises(SpecError) as caught:
        read(stack)
    (problem,) = caught.value.problems
    assert problem.where == f"study.yaml: {where}"
    assert message in str(problem)


def test_an_unknown_frame_is_named(read: Read) -> None:
    with pytest.raises(SpecError, match="frame: unknown source 'mth'"):
        read({"slices": [SLICE]}, frame="mth")


def test_a_stack_and_an_operator_exclude_each_other(read: Read) -> None:
    with pytest.raises(SpecError, match="operator"):
        read({"slices": [SLICE]}, operator="linear")


@pytest.mark.slow
def test_a_scale_before_a_norm_of_the_outputs_is_refused(
    tmp_path: Path, write: Write
) -> None:
    from evomerge.testing.families import family_config, family_model, save_family

    save_family(tmp_path / "olmo", family_model(family_config("olmo2")))
    stack = {"slices": [{"source": "a", "layers": [0, 2], "scale": 0.5}]}
    with pytest.raises(SpecError, match="norm behind their outputs"):
        load_recipe(write({"sources": {"a": str(tmp_path / "olmo")}, "stack": stack}))
    stack["slices"][0]["scale"] = 1.0
    load_recipe(write({"sources": {"a": str(tmp_path / "olmo")}, "stack": stack}))


def test_sources_of_a_stack_must_fit_together(tmp_path: Path, write: Write) -> None:
    tiny_model(tmp_path / "a", seed=1)
    tiny_model(tmp_path / "b", seed=2, hidden=64)
    sources = {name: str(tmp_path / name) for name in "ab"}
    stack = {"slices": [{"source": name, "layers": [0, 2]} for name in "ab"]}
    with pytest.raises(SpecError, match="fit together"):
        load_recipe(write({"sources": sources, "stack": stack}))
