"""Presets are written as operators and leave no trace in a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.presets import PRESETS
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import SpecError
from evomerge.specs.recipes import load_recipe
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]
STEPS = ("step1", "step2", "step3", "step4", "step5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training run, in order."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(STEPS):
        tiny_model(folder / name, seed=seed)
    return folder


@pytest.fixture
def read(run: Path, write: Write) -> Callable[..., Recipe]:
    """Read a recipe over the run."""

    def _read(**parts: Any) -> Recipe:
        sources = {name: str(run / name) for name in STEPS}
        return load_recipe(write({"sources": sources, "frame": "step5", **parts}))[0]

    return _read


def test_lawa_is_the_digest_of_the_same_weights_by_hand(
    read: Callable[..., Recipe],
) -> None:
    preset = read(operator="lawa", experts=[*STEPS], knobs={"k": 3})
    by_hand = read(operator="linear", experts=[*STEPS[2:]])
    assert preset.digest == by_hand.digest
    assert [name for name, _ in preset.inputs] == [*STEPS[2:]]


def test_an_average_along_a_run_is_the_digest_of_its_weights(
    read: Callable[..., Recipe],
) -> None:
    preset = read(operator="ema", experts=[*STEPS[:3]], knobs={"decay": 0.5})
    weights = dict(zip(STEPS[:3], (0.25, 0.25, 0.5), strict=True))
    by_hand = read(operator="linear", experts=[*STEPS[:3]], knobs={"weight": weights})
    assert preset.digest == by_hand.digest


def test_wise_ft_is_the_digest_of_task_arithmetic(
    read: Callable[..., Recipe],
) -> None:
    preset = read(operator="wise_ft", base="step1", experts=["step5"])
    by_hand = read(
        operator="task_arithmetic",
        base="step1",
        experts=["step5"],
        knobs={"weight": 0.5},
    )
    assert preset.digest == by_hand.digest


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe(name: str, read: Callable[..., Recipe]) -> None:
    operator = PRESETS[name].operator
    parts: dict[str, Any] = {"experts": list(STEPS[1:][: operator.n_inputs])}
    if operator.needs_base:
        parts["base"] = "step1"
    recipe = read(operator=name, **parts)
    assert {
        operation.operator for _, slot in recipe.places() for _, operation in slot.roles
    } <= {"linear", "task_arithmetic"}


def test_negation_keeps_the_base_where_it_is_not_asked_otherwise(
    read: Callable[..., Recipe],
) -> None:
    parts: dict[str, Any] = {
        "operator": "negation",
        "base": "step1",
        "experts": ["step2"],
    }
    recipe = read(**parts)
    assert recipe.embed.operation("embed").inputs == ("step1",)
    assert recipe.slots[0].operation("norm").inputs == ("step1",)
    assert recipe.slots[0].operation("attn").inputs == ("step2",)
    asked = read(**parts, norm_policy="same", embed_policy="linear")
    assert asked.embed.operation("embed").inputs == ("step2",)
    assert asked.slots[0].operation("norm").inputs == ("step2",)


def test_the_knobs_of_a_preset_are_searched(
    minimal: dict[str, Any], write: Write, run: Path
) -> None:
    minimal["sources"] = {name: str(run / name) for name in STEPS}
    minimal["space"] = {
        "operator": ["lawa", "ema"],
        "experts": list(STEPS),
        "knobs": {"k": {"low": 1, "high": 5}, "decay": "search"},
    }
    minimal["strategy"] = {"kind": "tpe"}
    study = read_study(write(minimal))
    assert [axis.name for axis in study.space.axes] == ["operator", "k", "decay"]
    for k in (1, 4):
        recipe = study.blueprint.recipe({"operator": "lawa", "k": k})
        operation = recipe.slots[0].operation("mlp")
        assert operation.inputs == STEPS[-k:]
        assert set(dict(recipe.slots[0].layers)) == set(STEPS[-k:])


def test_another_number_of_checkpoints_is_refused(
    read: Callable[..., Recipe],
) -> None:
    with pytest.raises(SpecError, match="expected 1 for 'expo', got 2"):
        read(operator="expo", base="step1", experts=["step2", "step3"])


def test_a_misspelt_preset_is_suggested(read: Callable[..., Recipe]) -> None:
    with pytest.raises(SpecError, match="did you mean 'lawa'"):
        read(operator="lawwa", experts=[*STEPS])
