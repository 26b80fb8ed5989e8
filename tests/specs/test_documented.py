"""Every key of every file is in the documentation, in the words of its model."""

import re
from pathlib import Path

import pytest

from evomerge.specs.reading.spec import Key, Spec, all_keys
from evomerge.specs.recipes import RecipeSpec
from evomerge.specs.schema.measures import EvaluatorsSpec
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.stacks import StackedSpec

PAGE = Path(__file__).parents[2] / "docs" / "study-files.md"
ROW = re.compile(r"^\| `([^`]+)` \| (?:(needed)|`(.+)`|) ?\| (.+) \|$", re.MULTILINE)
MODELS = [StudySpec, EvaluatorsSpec, RecipeSpec, StackedSpec]


def rows() -> set[tuple[str, str, str]]:
    """Every key of the page with its default and meaning."""
    found = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {(key, needed or default, help_) for key, needed, default, help_ in found}


def forms(key: Key) -> set[str]:
    """How a key may be listed: once for all experts, all stages and both spaces."""
    once = key.dotted.replace("knobs.*.*.", "knobs.*.")
    return {once, f"space.{once}", once.removeprefix("stages.*.")}


@pytest.mark.parametrize("model", MODELS)
def test_every_key_is_documented(model: type[Spec]) -> None:
    listed = {name for name, _, _ in rows()}
    missing = {key.dotted for key in all_keys(model) if not forms(key) & listed}
    assert not missing


def test_the_page_says_what_the_models_say_and_their_defaults() -> None:
    known = {
        (key.dotted, key.default, key.help)
        for model in MODELS
        for key in all_keys(model)
    }
    assert rows() <= known


@pytest.mark.parametrize("model", MODELS)
def test_every_key_explains_itself(model: type[Spec]) -> None:
    assert all(key.help.endswith(".") for key in all_keys(model))
