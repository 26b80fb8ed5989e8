"""The page for those who come from mergekit names every method, parameter and key."""

import re
from pathlib import Path

import pytest

from evomerge.cli.recipes import study
from evomerge.specs.mergekit.evolve.schema import EvolveSpec, EvolveTaskSpec, GenomeSpec
from evomerge.specs.mergekit.methods import METHODS
from evomerge.specs.mergekit.mixture_schema import (
    DrawSpec,
    ExpertSpec,
    MixtureSpec,
)
from evomerge.specs.mergekit.operations import operator_of
from evomerge.specs.mergekit.schema import MergekitSpec

PAGE = Path(__file__).parents[2] / "docs" / "mergekit.md"
LIKE_TIES = ("weight", "density", "lambda", "normalize", "rescale", "int8_mask")


def rows(heading: str) -> dict[str, str]:
    """The rows of the table below a heading, by their first cell."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    table = text.partition("\n## ")[0]
    return dict(re.findall(r"^\| (`.+?`) \| (.+) \|$", table, re.MULTILINE))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_listed_with_its_operator_and_parameters(name: str) -> None:
    row = rows("Methods")[f"`{name}`"]
    operator, parameters, _ = row.split(" | ")
    assert f"`{operator_of(name).name}`" in operator
    listed = set(re.findall(r"`(\w+)`", parameters)) - {"ties"}
    if "as `ties`" in parameters:
        listed |= set(LIKE_TIES)
    assert listed == {parameter.name for parameter in METHODS[name].parameters}


def test_no_other_method_is_listed() -> None:
    assert {name.strip("`") for name in rows("Methods")} == set(METHODS)


def test_every_key_is_listed() -> None:
    listed = {key for cell in rows("Keys") for key in re.findall(r"`(\w+)`", cell)}
    assert listed == set(MergekitSpec.model_fields)


def test_every_key_of_mergekit_evolve_is_listed_in_the_words_of_its_model() -> None:
    listed = rows("Coming from mergekit-evolve")
    for model, prefix in (
        (GenomeSpec, ""),
        (EvolveSpec, ""),
        (EvolveTaskSpec, "tasks.*."),
    ):
        for name, field in model.model_fields.items():
            assert listed[f"`{prefix}{name}`"] == field.description


def test_every_key_of_mergekit_moe_is_listed_in_the_words_of_its_model() -> None:
    listed = rows("Mixtures: files of mergekit-moe")
    for model, prefix in (
        (MixtureSpec, ""),
        (ExpertSpec, "experts.*."),
        (DrawSpec, "evomerge."),
    ):
        for name, field in model.model_fields.items():
            assert listed[f"`{prefix}{name}`"] == field.description


def test_every_option_of_the_study_command_is_listed() -> None:
    listed = " ".join(rows("Coming from mergekit-evolve"))
    words = [word for option in study.params for word in option.opts]
    own = ("config", "out", "--json")
    assert not [word for word in words if word not in own and f"`{word}`" not in listed]
