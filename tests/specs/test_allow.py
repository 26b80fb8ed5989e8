"""What a file insists on: read, carried out, kept and written in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge import api
from evomerge.errors import SpecError
from evomerge.specs.completing.resolve import resolve
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import load_study
from evomerge.testing.models import tiny_model

FULL, SLIDING = "full_attention", "sliding_attention"
STUDY: dict[str, Any] = {
    "tasks": {"add": {"task": "simulated", "metric": "acc"}},
    "engine": {"kind": "simulated"},
    "budget": {"trials": 4},
}


def changed(folder: Path, **said: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    """Two models of which the second has other rotary positions."""
    one = tiny_model(tmp_path / "base", seed=1)
    other = changed(tiny_model(tmp_path / "far", seed=2), rope_theta=5e5)
    return {"base": str(one), "far": str(other)}


def forms(pair: dict[str, str]) -> dict[str, dict[str, Any]]:
    slices = [{"source": name, "layers": [0, 2]} for name in pair]
    return {
        "short": {"sources": pair, "operator": "linear", "knobs": {"weight": 0.5}},
        "stack": {"sources": pair, "stack": {"slices": slices}},
        "mergekit": {
            "merge_method": "linear",
            "models": [
                {"model": path, "parameters": {"weight": 0.5}} for path in pair.values()
            ],
            "dtype": "float32",
        },
    }


@pytest.mark.parametrize("form", ["short", "stack", "mergekit"])
def test_every_form_refuses_and_insists(
    form: str, pair: dict[str, str], write: Callable[..., Path]
) -> None:
    data = forms(pair)[form]
    with pytest.raises(SpecError, match=r"rope_theta 500000\.0.*`allow: \[rope\]`"):
        open_recipe(write(data))
    plain = open_recipe(
        write(
            forms({"base": pair["base"]} | {"far": pair["far"]})[form]
            | said(form, ["rope", "window"])
        )
    )
    assert plain.allow == ("rope", "window")
    assert any("other positions; it is allowed" in str(w) for w in plain.warnings)


def said(form: str, kinds: list[str]) -> dict[str, Any]:
    allow = {"allow": kinds}
    return {"evomerge": allow} if form == "mergekit" else allow


def test_it_is_written_beside_the_recipe_and_read_again(
    pair: dict[str, str], write: Callable[..., Path], tmp_path: Path
) -> None:
    file = write(forms(pair)["short"] | {"allow": ["rope"]})
    api.merge(file, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert kept["allow"] == ["rope"]
    again = open_recipe(write(kept | {"paths": pair}, "again.yaml"))
    assert again.allow == ("rope",)
    assert again.recipe.digest == open_recipe(file).recipe.digest
    del kept["allow"]
    with pytest.raises(SpecError, match="rotary positions"):
        open_recipe(write(kept | {"paths": pair}, "without.yaml"))
    for to in ("own", "mergekit"):
        text = api.convert_recipe(file, to=to).text
        other = write(yaml.safe_load(text), f"{to}.yaml")
        assert open_recipe(other).allow == ("rope",)


@pytest.mark.parametrize("word", ["rope", ["ropes"], [3], {"rope": True}])
def test_unknown_words_are_mistakes(
    word: Any, pair: dict[str, str], write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="allow"):
        open_recipe(write(forms(pair)["short"] | {"allow": word}))
    api.merge(write(forms(pair)["short"] | {"allow": ["rope"]}), tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "recipe.json").read_text())
    with pytest.raises(SpecError, match="expected a list of some of rope, window"):
        open_recipe(write(kept | {"paths": pair, "allow": word}, "again.yaml"))


def test_layers_of_different_types_are_merged_on_demand(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    kinds = {"a": [SLIDING, FULL] * 2, "b": [FULL, SLIDING] * 2}
    pair = {
        name: str(
            changed(
                tiny_model(tmp_path / name, "qwen3", seed=i),
                layer_types=listed,
                use_sliding_window=True,
                sliding_window=8,
            )
        )
        for i, (name, listed) in enumerate(kinds.items())
    }
    for form in ("short", "mergekit"):
        data = forms(pair)[form]
        with pytest.raises(SpecError, match="different types"):
            open_recipe(write(data))
        file = write(data | said(form, ["layer_types"]))
        api.merge(file, tmp_path / f"out-{form}")
        config = json.loads((tmp_path / f"out-{form}" / "config.json").read_text())
        assert config["layer_types"] == kinds["a"]


def test_a_study_keeps_it(pair: dict[str, str], write: Callable[..., Path]) -> None:
    space = {"operator": "linear", "knobs": {"weight": "search"}}
    data = STUDY | {"sources": pair, "space": space}
    with pytest.raises(SpecError, match="rotary positions"):
        resolve(load_study(write(data)), base_dir=".")
    study = resolve(load_study(write(data | {"allow": ["rope"]})), base_dir=".")
    assert study.config["study"]["allow"] == ["rope"]
    assert any("it is allowed" in str(warning) for warning in study.warnings)


def test_a_study_begun_before_goes_on_with_a_warning(
    pair: dict[str, str], write: Callable[..., Path]
) -> None:
    space = {"operator": "linear", "knobs": {"weight": "search"}}
    base = Path(pair["base"], "config.json").read_text()
    far = Path(pair["far"], "config.json")
    data = STUDY | {"sources": pair, "space": space, "allow": ["rope"]}
    study = resolve(load_study(write(data)), base_dir=".")
    config = json.loads(json.dumps(study.config))
    del config["study"]["allow"]  # as versions before wrote it
    assert base != far.read_text()
    again = restore(config, study.allowance)
    assert any("rotary positions" in str(warning) for warning in again.warnings)
    assert "allow" not in again.config["study"]


def test_one_model_under_two_names_is_told(
    pair: dict[str, str], write: Callable[..., Path]
) -> None:
    twins = {"base": pair["base"], "again": pair["base"]}
    for form in ("short", "stack"):
        opened = open_recipe(write(forms(twins)[form]))
        assert any("are one model" in str(warning) for warning in opened.warnings)


def test_more_positions_than_the_frame_has_are_told(
    pair: dict[str, str], write: Callable[..., Path]
) -> None:
    data = STUDY | {
        "sources": {"base": pair["base"]},
        "space": {"operator": "linear", "knobs": {"weight": "search"}},
        "engine": {"kind": "simulated", "max_model_len": 4096},
    }
    study = resolve(load_study(write(data)), base_dir=".")
    (said,) = [str(one) for one in study.warnings if "max_model_len" in str(one)]
    assert "expected at most 512" in said
    assert "cut to 512" in said
