import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoints import read_model
from evomerge.errors import SpecError
from evomerge.specs.recipes import load_recipe
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]


@pytest.fixture
def short(zoo: Path) -> dict[str, Any]:
    """The short form of a merge."""
    return {
        "sources": {name: str(zoo / name) for name in ("base", "math", "ja")},
        "operator": "task_arithmetic",
        "base": "base",
        "experts": ["math", "ja"],
        "knobs": {"weight": {"math": 0.8, "ja": [0.0, 1.0]}, "lambda": 1},
    }


def test_the_short_form_is_a_space_with_nothing_open(
    short: dict[str, Any], write: Write, zoo: Path
) -> None:
    recipe, folders = load_recipe(write(short))
    weights = [slot.operation("attn").knobs("weight") for slot in recipe.slots]
    assert weights[0] == (0.8, 0.0)
    assert weights[-1] == (0.8, 1.0)
    assert folders == {
        read_model(zoo / name).fingerprint: str(zoo / name)
        for name in ("base", "math", "ja")
    }


def test_the_canonical_form_reads_back_as_json_or_yaml(
    short: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    recipe, folders = load_recipe(write(short))
    data = recipe.to_json() | {"paths": dict(short["sources"])}
    as_json = tmp_path / "recipe.json"
    as_json.write_text(json.dumps(data), encoding="utf-8")
    for file in (as_json, write(data, "recipe.yaml")):
        again, found = load_recipe(file)
        assert again.digest == recipe.digest
        assert found == folders


def test_a_folder_with_other_content_is_refused(
    short: dict[str, Any], write: Write
) -> None:
    recipe, _ = load_recipe(write(short))
    paths = short["sources"] | {"math": short["sources"]["ja"], "moth": "x"}
    with pytest.raises(SpecError) as caught:
        load_recipe(write(recipe.to_json() | {"paths": paths}))
    places = [problem.where for problem in caught.value.problems]
    assert places == ["study.yaml: paths.moth", "study.yaml: paths.math"]


def test_an_open_choice_is_refused(short: dict[str, Any], write: Write) -> None:
    short["knobs"]["lambda"] = "search"
    with pytest.raises(SpecError, match="every choice decided, got open ones: lambda"):
        load_recipe(write(short))


def test_mistakes_in_the_short_form_come_together(
    short: dict[str, Any], write: Write
) -> None:
    short |= {"operater": "ties", "base": "bass", "experts": ["math", "jaa"]}
    with pytest.raises(SpecError) as caught:
        load_recipe(write(short))
    places = {problem.where for problem in caught.value.problems}
    assert {"study.yaml: operater", "study.yaml: base", "study.yaml: experts.1"} <= (
        places
    )


def test_half_a_recipe_is_refused(write: Write) -> None:
    with pytest.raises(SpecError, match="Not a recipe"):
        load_recipe(write({"slots": [], "version": 1}))


def test_a_recipe_over_strange_sources_is_no_start(
    short: dict[str, Any], minimal: dict[str, Any], write: Write
) -> None:
    write(short, "mine.yaml")
    minimal["sources"].pop("ja")
    minimal["start"] = [{"name": "mine", "recipe": "mine.yaml"}]
    with pytest.raises(
        SpecError, match=r"start\.0\.recipe: .*over this study's sources"
    ):
        read_study(write(minimal))


def test_a_layer_outside_its_source_is_refused_when_the_file_is_read(
    short: dict[str, Any], write: Write
) -> None:
    recipe, _ = load_recipe(write(short))
    data = recipe.to_json() | {"paths": dict(short["sources"])}
    data["slots"][2]["layers"]["ja"] = 4
    with pytest.raises(SpecError) as caught:
        load_recipe(write(data))
    (problem,) = caught.value.problems
    assert problem.where == "study.yaml: slots.2.layers.ja"
    assert problem.message == "expected a layer from 0 to 3, got 4."


def test_layers_of_different_kinds_are_not_merged_into_one(
    short: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    for seed, (name, kinds) in enumerate(
        {"base": "sf", "math": "fs", "ja": "sf"}.items()
    ):
        folder = tiny_model(tmp_path / name, seed=seed, n_layers=2)
        words = {"s": "sliding_attention", "f": "full_attention"}
        config = json.loads((folder / "config.json").read_text())
        config |= {"sliding_window": 8, "layer_types": [words[kind] for kind in kinds]}
        (folder / "config.json").write_text(json.dumps(config))
        short["sources"][name] = str(folder)
    with pytest.raises(SpecError, match="layers are of different types"):
        load_recipe(write(short))
    crossed = {"base": 1, "ja": 1, "math": 0}
    operation = {"operator": "linear", "inputs": ["base", "ja", "math"]}
    inputs = {
        name: {"checkpoint": read_model(tmp_path / name).fingerprint}
        for name in crossed
    }
    roles = {"roles": {"*": operation}}
    data: dict[str, Any] = {
        "version": 1,
        "frame": "base",
        "dtype": "float32",
        "inputs": inputs,
        "embed": roles,
        "head": roles,
        "slots": [roles | {"layers": crossed}],
        "paths": short["sources"],
    }
    recipe, _ = load_recipe(write(data))
    assert dict(recipe.slots[0].layers) == crossed
    data["slots"].append(roles | {"layers": crossed | {"math": 1}})
    with pytest.raises(SpecError) as caught:
        load_recipe(write(data))
    (problem,) = caught.value.problems
    assert problem.where == "study.yaml: slots.1.layers.math"
    assert "got sliding attention" in problem.message
