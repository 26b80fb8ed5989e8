"""Adapters as sources of recipes and studies: ``model+adapter``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.adapters import WEIGHTS, adapter_tensors, tiny_adapter

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.checkpoints.finite import non_finite
from evomerge.core.recipes.recipe import Adapted, Checkpoint, Operation
from evomerge.errors import SpecError
from evomerge.specs.recipes import load_recipe
from evomerge.specs.sources import open_source
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import read_study

Write = Callable[..., Path]


@pytest.fixture
def adapters(zoo: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        name: tiny_adapter(tmp_path / name, zoo / "base", seed=seed)
        for seed, name in enumerate(("math", "ja"))
    }


@pytest.fixture
def sources(zoo: Path, adapters: dict[str, Path]) -> dict[str, str]:
    """A base, and two adapters of it."""
    base = zoo / "base"
    return {"base": str(base), **{n: f"{base}+{a}" for n, a in adapters.items()}}


def adapted(zoo: Path, adapter: Path) -> Adapted:
    return Adapted(
        read_model(zoo / "base").fingerprint, read_adapter(adapter).fingerprint
    )


def test_both_forms_of_a_recipe_name_base_and_adapter(
    sources: dict[str, str],
    adapters: dict[str, Path],
    zoo: Path,
    write: Write,
    tmp_path: Path,
) -> None:
    short = {
        "sources": sources,
        "operator": "task_arithmetic",
        "base": "base",
        "experts": ["math", "ja"],
    }
    recipe, folders = load_recipe(write(short))
    expected = adapted(zoo, adapters["math"])
    assert recipe.input("math") == expected
    assert recipe.input("base") == Checkpoint(expected.fingerprint)
    assert folders[expected.adapter] == str(adapters["math"])
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**recipe.to_json(), "paths": sources}))
    again, found = load_recipe(file)
    assert again.digest == recipe.digest
    assert found == folders


def test_a_recipe_read_with_another_adapter_is_refused(
    sources: dict[str, str], write: Write
) -> None:
    short = {"sources": sources, "operator": "linear", "experts": ["math", "ja"]}
    recipe, _ = load_recipe(write(short))
    paths = {"math": sources["ja"], "ja": sources["ja"]}
    with pytest.raises(SpecError, match=r"paths\.math: expected a folder with finger"):
        load_recipe(write({**recipe.to_json(), "paths": paths}))


def test_a_mergekit_file_names_adapters_in_both_of_its_forms(
    adapters: dict[str, Path], zoo: Path, write: Write
) -> None:
    weight = {"weight": 0.5}
    merge = {
        "merge_method": "linear",
        "models": [
            {"model": f"{zoo / 'base'}+{adapters['math']}", "parameters": weight},
            {
                "model": {
                    "model": {"path": str(zoo / "base")},
                    "lora": {"path": str(adapters["ja"])},
                },
                "parameters": weight,
            },
        ],
    }
    recipe, folders = load_recipe(write(merge))
    expected = [adapted(zoo, adapters[name]) for name in ("math", "ja")]
    found = [source for _, source in recipe.inputs]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert {source.adapter for source in expected} < set(folders)


def test_a_study_reads_its_adapters_and_is_restored_with_them(
    sources: dict[str, str],
    adapters: dict[str, Path],
    zoo: Path,
    minimal: dict[str, Any],
    write: Write,
) -> None:
    study = read_study(write({**minimal, "sources": sources}))
    assert study.inputs["math"] == adapted(zoo, adapters["math"])
    parents = {b.label: b.recipe for b in study.baselines}
    assert parents["math"].input("math") == study.inputs["math"]
    assert parents["math"].digest != parents["base"].digest
    again = restore(study.config, study.allowance)
    assert again.config == study.config
    assert again.inputs == study.inputs
    assert dict(study.allowance["sources"]) == sources


def test_the_self_test_swaps_in_a_plain_parent_if_there_is_one(
    sources: dict[str, str], zoo: Path, minimal: dict[str, Any], write: Write
) -> None:
    study = read_study(write({**minimal, "sources": sources}))
    assert (study.frame, study.probe) == ("base", "ja")
    both = {**sources, "zh": str(zoo / "ja")}
    study = read_study(write({**minimal, "sources": both}))
    assert study.probe == "zh"


def soup(sources: dict[str, str], **knobs: Any) -> dict[str, Any]:
    return {
        "sources": sources,
        "experts": ["math", "ja"],
        "operator": "rewarded_soups",
        "knobs": {"mu": {"math": 0.75, "ja": 0.25}, **knobs},
    }


def test_a_recipe_says_whether_factors_are_averaged(
    sources: dict[str, str], write: Write
) -> None:
    recipe, _ = load_recipe(write(soup(sources, lora_space="factors")))
    names, weights = ("math", "ja"), (("weight", (0.75, 0.25)),)
    operation = recipe.slots[0].operation("attn")
    assert operation == Operation("lora_linear", names, each=weights)
    usual, _ = load_recipe(write(soup(sources)))
    assert usual.slots[0].operation("attn").operator == "linear"
    weight = {"weight": {"math": 0.75, "ja": 0.25}}
    by_hand = {**soup(sources), "operator": "lora_linear", "knobs": weight}
    again, _ = load_recipe(write(by_hand))
    assert again.digest == recipe.digest


def test_a_space_may_leave_open_whether_factors_are_averaged(
    sources: dict[str, str], minimal: dict[str, Any], write: Write
) -> None:
    knobs = {"mu": "search", "lora_space": "search"}
    space = {
        "operator": "rewarded_soups",
        "experts": ["math", "ja"],
        "knobs": knobs,
    }
    changes = {"sources": sources, "space": space, "strategy": {"kind": "tpe"}}
    study = read_study(write({**minimal, **changes}))
    point = {"mu.math": 0.5, "mu.ja": 0.5}
    for lora_space, operator in (("factors", "lora_linear"), ("delta", "linear")):
        recipe = study.blueprint.recipe({**point, "lora_space": lora_space})
        assert recipe.slots[0].operation("mlp").operator == operator


@pytest.mark.parametrize("lora_space", ["factors", "search"])
def test_factors_of_models_without_adapters_are_a_mistake_of_the_experts(
    sources: dict[str, str],
    minimal: dict[str, Any],
    write: Write,
    zoo: Path,
    lora_space: str,
) -> None:
    space = {
        "operator": "rewarded_soups",
        "experts": ["math", "ja", "zh"],
        "knobs": {"mu": "search", "lora_space": lora_space},
    }
    changes = {
        "sources": {**sources, "zh": str(zoo / "ja")},
        "space": space,
        "strategy": {"kind": "tpe"},
    }
    with pytest.raises(SpecError) as caught:
        read_study(write({**minimal, **changes}))
    said = str(caught.value)
    assert "space.experts: expected one model with adapters of like shape" in said
    assert "'zh': no model+adapter" in said
    space["knobs"] = {"mu": "search", "lora_space": "delta"}
    assert read_study(write({**minimal, **changes})).blueprint


def test_factors_of_two_ranks_are_a_mistake_of_the_experts(
    sources: dict[str, str], zoo: Path, tmp_path: Path, write: Write
) -> None:
    wide = tiny_adapter(tmp_path / "wide", zoo / "base", rank=6)
    written = soup({**sources, "ja": f"{zoo / 'base'}+{wide}"}, lora_space="factors")
    with pytest.raises(SpecError, match=r"experts: .*'ja': A \[6, .*'math' has A \[4"):
        load_recipe(write(written))


def test_a_changed_adapter_ends_a_study(
    sources: dict[str, str],
    adapters: dict[str, Path],
    minimal: dict[str, Any],
    write: Write,
) -> None:
    study = read_study(write({**minimal, "sources": sources}))
    tensors = adapter_tensors(adapters["ja"])
    save_file({n: t * 2 for n, t in tensors.items()}, adapters["ja"] / WEIGHTS)
    with pytest.raises(SpecError, match=r"sources\.ja: "):
        restore(study.config, study.allowance)


def test_an_adapter_for_another_base_is_a_mistake_of_its_key(
    zoo: Path, minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    wide = tiny_adapter(tmp_path / "wide", zoo / "wide")
    sources = {**minimal["sources"], "math": f"{zoo / 'base'}+{wide}"}
    with pytest.raises(SpecError) as caught:
        read_study(write({**minimal, "sources": sources}))
    said = str(caught.value)
    assert "sources.math: " in said
    assert "for another base" in said


def test_numbers_that_are_none_are_found_in_the_adapter(
    zoo: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    written = f"{zoo / 'base'}+{adapters['ja']}"
    assert non_finite(open_source(written, tmp_path)) == ()
    tensors = adapter_tensors(adapters["ja"])
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensors[name][0, 0] = torch.inf
    save_file(tensors, adapters["ja"] / WEIGHTS)
    assert non_finite(open_source(written, tmp_path)) == (name,)
