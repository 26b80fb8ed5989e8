"""Parts beside the text decoder: carried bit for bit, or merged as a file says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures.built import CAUSAL, CLASSIFIER, IMAGE_TEXT, build
from architectures.table import stored
from safetensors.torch import load_file, save_file

from evomerge import api
from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.errors import RecipeError, SpecError
from evomerge.merging.materialise import describe
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import open_recipe
from evomerge.testing.models import tiny_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models with a vision tower, and the text decoder of one alone."""
    root = tmp_path_factory.mktemp("seeing")
    build(root, IMAGE_TEXT, "gemma3")
    decoder = {
        name.removeprefix("language_model."): t
        for name, t in stored(root / "b").items()
        if name.startswith("language_model.")
    }
    (root / "text").mkdir()
    save_file(decoder, root / "text" / "model.safetensors", {"format": "pt"})
    config = json.loads((root / "b" / "config.json").read_text())["text_config"]
    config["architectures"] = ["Gemma3ForCausalLM"]
    (root / "text" / "config.json").write_text(json.dumps(config))
    (root / "base" / "preprocessor_config.json").write_text('{"size": 32}')
    return root


def merged(root: Path, out: Path, text: str) -> Tensors:
    file = out.with_suffix(".yaml")
    names = [f"{p.name}: {p}" for p in sorted(root.iterdir()) if p.is_dir()]
    file.write_text(f"sources: {{{', '.join(names)}}}\n{text}")
    api.merge(file, out)
    return stored(out)


ADD = "base: base\noperator: task_arithmetic\nknobs: {weight: 0.5}\n"


@pytest.mark.slow
def test_a_text_model_is_merged_into_one_that_sees(
    tmp_path: Path, seeing: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    found = merged(seeing, tmp_path / "out", f"{ADD}experts: [text]\n")
    base, text = stored(seeing / "base"), stored(seeing / "text")
    assert found.keys() == base.keys()
    for name, start in base.items():
        own = name.removeprefix("language_model.")
        wanted = start if own == name else start + 0.5 * (text[own] - start)
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=3e-7)
        assert own != name or torch.equal(found[name], start)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    model, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert not any(info.values()), info
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 4
    assert config["vision_config"]["model_type"] == "siglip_vision_model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("linear", lambda base, a, b: base + 0.5 * (a - base) + 0.5 * (b - base)),
        ("a", lambda base, a, b: a),
        ("from_base", lambda base, a, b: base),
    ],
)
def test_a_part_is_merged_as_the_file_says(
    tmp_path: Path,
    seeing: Path,
    how: str,
    wanted: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    text = f"{ADD}experts: [a, b]\nparts: {{vision: {how}}}\n"
    found = merged(seeing, tmp_path / "out", text)
    base, a, b = (stored(seeing / name) for name in ("base", "a", "b"))
    parts = read_model(seeing / "base").beside
    assert set(parts) == {"vision", "projector"}
    for name in parts["vision"]:
        expected = wanted(base[name], a[name], b[name])
        torch.testing.assert_close(found[name], expected, rtol=0, atol=3e-7)
        assert how == "linear" or torch.equal(found[name], expected)
    assert all(torch.equal(found[name], base[name]) for name in parts["projector"])
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert Recipe.from_json(recipe).to_json()["parts"].keys() == {"vision"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"{ADD}experts: [a, text]\nparts: {{vision: linear}}\n",
            "80 tensors as the frame 'base' has; 'text' has none",
        ),
        (f"{ADD}experts: [a]\nparts: {{audio: linear}}\n", "it has projector, vision"),
        (f"{ADD}experts: [a]\nparts: {{vision: c}}\n", "expected one of from_base"),
        (f"{ADD}experts: [a]\nparts: {{ears: linear}}\n", "ears"),
        (
            "experts: [a, b]\noperator: linear\nparts: {vision: from_base}\n",
            "there is no base",
        ),
    ],
)
def test_parts_that_cannot_be_merged_so_are_named(
    tmp_path: Path, seeing: Path, text: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        merged(seeing, tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_carried_parts_keep_their_element_type(tmp_path: Path, seeing: Path) -> None:
    text = "experts: [a, b]\noperator: linear\nframe: a\ndtype: bfloat16\n"
    found, own = merged(seeing, tmp_path / "out", text), stored(seeing / "a")
    parts = [n for names in read_model(seeing / "a").beside.values() for n in names]
    assert all(torch.equal(found[name], own[name]) for name in parts)
    assert found["language_model.model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.slow
def test_layers_that_predict_further_tokens_are_carried(tmp_path: Path) -> None:
    build(tmp_path / "models", CAUSAL, "deepseek_v3", num_nextn_predict_layers=1)
    root = tmp_path / "models"
    for folder in root.iterdir():
        file = folder / "model.safetensors"
        own = load_file(file)
        last = "model.layers.4."
        own |= {f"{last}eh_proj.weight": torch.randn(32, 64)}
        own |= {f"{last}enorm.weight": torch.randn(32)}
        own |= {f"{last}mlp.gate.weight": torch.randn(4, 32)}
        save_file(own, file, {"format": "pt"})
    text = "experts: [a, b]\noperator: linear\nframe: a\n"
    found, a, b = (
        merged(root, tmp_path / "out", text),
        stored(root / "a"),
        stored(root / "b"),
    )
    assert found.keys() == a.keys()
    assert read_model(root / "a").beside.keys() == {"prediction"}
    for name, values in found.items():
        behind = name.startswith("model.layers.4.")
        wanted = a[name] if behind else 0.5 * a[name] + 0.5 * b[name]
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_parts_that_are_carried_are_told_and_no_mistake_however_strict(
    tmp_path: Path, seeing: Path
) -> None:
    file = tmp_path / "merge.yaml"
    names = ", ".join(f"{name}: {seeing / name}" for name in ("base", "a"))
    file.write_text(f"sources: {{{names}}}\nexperts: [a]\n{ADD}")
    opened = open_recipe(file, strict=True)
    assert any("vision (80 tensors)" in str(said) for said in opened.warnings)


@pytest.mark.slow
def test_a_text_model_is_compared_with_one_that_sees(seeing: Path) -> None:
    found = api.compare(str(seeing / "base"), [str(seeing / n) for n in ("b", "text")])
    one, other = found.models
    assert one.norm > 0
    assert other.norm == pytest.approx(one.norm)
    assert all("vision" in name or "projector" in name for name in found.left_out)


@pytest.mark.slow
def test_classifiers_merge_with_their_head(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    root = tmp_path / "models"
    build(root, CLASSIFIER, "llama")
    text = "experts: [a, b]\noperator: linear\nframe: a\nparts: {classifier: linear}\n"
    found = merged(root, tmp_path / "out", text)
    a, b = stored(root / "a"), stored(root / "b")
    assert found.keys() == a.keys()
    for name in a:
        torch.testing.assert_close(found[name], 0.5 * (a[name] + b[name]))
    _, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with a matrix in each layer that no rule covers."""
    root = tmp_path_factory.mktemp("strange")
    for seed, name in enumerate(("base", "a", "b")):
        folder = tiny_model(root / name, n_layers=2, seed=seed)
        own = load_file(folder / "model.safetensors")
        for layer in range(2):
            own[f"model.layers.{layer}.strange.weight"] = torch.randn(4, 4)
        save_file(own, folder / "model.safetensors", {"format": "pt"})
    return root


@pytest.mark.parametrize("how", ["linear", "from_base"])
def test_tensors_that_no_rule_covers_are_merged_by_the_users_word(
    tmp_path: Path, strange: Path, how: str
) -> None:
    text = f"base: base\nexperts: [a, b]\noperator: ties\nunknown: {how}\n"
    found = merged(strange, tmp_path / "out", text)
    base, a, b = (stored(strange / name) for name in ("base", "a", "b"))
    assert found.keys() == base.keys()
    for layer in range(2):
        name = f"model.layers.{layer}.strange.weight"
        mean = base[name] + (a[name] - base[name] + b[name] - base[name]) / 2
        wanted = base[name] if how == "from_base" else mean
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-6)
    again = tmp_path / "again.yaml"
    written = json.loads((tmp_path / "out" / "recipe.json").read_text())
    paths = {name: str(strange / name) for name in written["inputs"]}
    again.write_text(json.dumps(written | {"paths": paths}))
    api.merge(again, tmp_path / "twice")
    assert stored(tmp_path / "twice").keys() == found.keys()


def test_without_the_users_word_such_tensors_are_an_error_with_their_names(
    tmp_path: Path, strange: Path
) -> None:
    text = "base: base\nexperts: [a, b]\noperator: ties\n"
    with pytest.raises(SpecError, match=r"layers\.0\.strange\.weight.*unknown: linear"):
        merged(strange, tmp_path / "out", text)


def test_a_recipe_that_says_nothing_of_them_is_refused_before_it_is_merged(
    strange: Path,
) -> None:
    found = read_model(strange / "a", unknown=True)
    slot = Slot.copy_of("a")
    recipe = Recipe(
        frame="a",
        dtype="float32",
        inputs=(("a", Checkpoint(found.fingerprint)),),
        embed=slot,
        slots=tuple(Slot.copy_of("a", layer) for layer in range(2)),
        head=slot,
    )
    with (
        Sources({found.fingerprint: found.path}) as sources,
        pytest.raises(RecipeError, match=r"strange\.weight.*unknown: linear"),
    ):
        describe(recipe, sources)
