"""What the README says of merging without a search can be done as it stands there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.adapters import tiny_adapter
from support.study_files import NAMES

from evomerge.checkpoints import read_model
from evomerge.testing.models import tiny_model

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Merging without a search\n")[2].partition("\n## ")[0]


@pytest.fixture
def zoo(here: Path) -> Path:
    """Stand-ins for the models of the zoo, where the README has them."""
    for seed, name in enumerate(NAMES):
        tiny_model(here / "demo" / "zoo" / name, seed=seed, n_layers=4)
    tiny_adapter(here / "adapters" / "ja", here / "demo" / "zoo" / "base")
    return here


def recipe() -> str:
    (text,) = re.findall(r"```yaml\n# recipe.yaml\n(.*?)```", SECTION, re.DOTALL)
    return text


def test_the_commands_of_the_section_run_as_they_stand(call, zoo: Path) -> None:
    (zoo / "recipe.yaml").write_text(recipe(), encoding="utf-8")
    first, *_ = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    commands = re.findall(r"^evomerge (.*)$", first, re.MULTILINE)
    assert len(commands) == 2
    for words in commands:
        ended = call(*words.split())
        assert ended.code == 0, ended.err
    assert read_model(zoo / "small-model").config["dtype"] == "bfloat16"
    card = (zoo / "merged-model" / "README.md").read_text(encoding="utf-8")
    for words in (
        "made from a recipe",
        "nothing was scored",
        "demo/zoo/math",
        "## Use",
    ):
        assert words in card


def test_the_recipe_in_a_merged_folder_gives_the_same_bytes(call, zoo: Path) -> None:
    (zoo / "recipe.yaml").write_text(recipe(), encoding="utf-8")
    assert call("merge", "recipe.yaml", "one").code == 0
    data = json.loads((zoo / "one" / "recipe.json").read_text(encoding="utf-8"))
    data["paths"] = {name: f"demo/zoo/{name}" for name in NAMES}
    (zoo / "again.json").write_text(json.dumps(data), encoding="utf-8")
    ended = call("merge", "again.json", "two", "--threads", "1")
    assert ended.code == 0, ended.err
    weights = [zoo / name / "model.safetensors" for name in ("one", "two")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


ROWS: list[dict[str, Any]] = [
    {"operator": "ema", "experts": ["math", "ja"], "base": None, "knobs": {}},
    {
        "operator": "staged",
        "knobs": {
            "sparsify": "magnitude",
            "density": 0.3,
            "consensus": "sum_sign",
            "reduce": "mean",
        },
    },
    {"sources": {"base": "demo/zoo/base", "ja": "demo/zoo/base+adapters/ja"}},
    {"vocabulary": "union"},
]


@pytest.mark.parametrize("changes", ROWS, ids=["preset", "stages", "adapter", "union"])
def test_every_row_of_the_table_is_a_recipe(
    call, zoo: Path, changes: dict[str, Any]
) -> None:
    data = {**yaml.safe_load(recipe()), "knobs": {"density": 0.5}, **changes}
    data = {key: value for key, value in data.items() if value is not None}
    (zoo / "row.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    ended = call("merge", "row.yaml", "out")
    assert ended.code == 0, ended.err
    assert read_model(zoo / "out").n_layers == 4


def test_a_stack_of_the_table_is_deeper(call, zoo: Path) -> None:
    stack = {"upscale": {"source": "math", "overlap": 1}}
    assert "{upscale: {source: math, overlap: 1}}" in SECTION
    data = {"sources": {"math": "demo/zoo/math"}, "stack": stack}
    (zoo / "row.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert call("merge", "row.yaml", "out").code == 0
    assert read_model(zoo / "out").n_layers == 6
