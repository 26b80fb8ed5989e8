"""Stacks of layers as models: the same bytes, the same answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe
from evomerge.testing.families import family_config, family_model, logits, save_family

FAMILIES = ("llama", "qwen2", "mixtral", "phi3")


def stacked(tmp_path: Path, sources: dict[str, Path], stack: dict[str, Any]) -> Path:
    """Read and write a recipe of layers; return the folder."""
    file = tmp_path / "recipe.yaml"
    named = {name: str(folder) for name, folder in sources.items()}
    file.write_text(yaml.safe_dump({"sources": named, "stack": stack}))
    recipe, folders = load_recipe(file)
    opened = Sources({print_: Path(folder) for print_, folder in folders.items()})
    return write_model(recipe, opened, tmp_path / "out").path


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def parent(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    config = family_config(request.param)
    save_family(tmp_path / "parent", family_model(config, seed=3))
    return tmp_path / "parent"


def n_layers(folder: Path) -> int:
    return int(loaded(folder).config.num_hidden_layers)


@pytest.mark.parametrize("parent", FAMILIES, indirect=True)
def test_slices_that_cover_a_model_once_have_its_bytes(
    parent: Path, tmp_path: Path
) -> None:
    n = n_layers(parent)
    cut = [{"source": "a", "layers": [0, 1]}, {"source": "a", "layers": [1, n]}]
    out = stacked(tmp_path, {"a": parent}, {"slices": cut})
    stored = load_file(parent / "model.safetensors")
    copied = load_file(out / "model.safetensors")
    assert stored.keys() == copied.keys()
    assert all(torch.equal(stored[name], copied[name]) for name in stored)


@pytest.mark.parametrize("parent", FAMILIES, indirect=True)
def test_a_repeated_layer_that_adds_nothing_changes_no_answer(
    parent: Path, tmp_path: Path
) -> None:
    n = n_layers(parent)
    slices = [
        {"source": "a", "layers": [0, 2]},
        {"source": "a", "layers": [0, 2], "scale": 0.0},
        {"source": "a", "layers": [2, n]},
    ]
    out = stacked(tmp_path, {"a": parent}, {"slices": slices})
    assert n_layers(out) == n + 2
    torch.testing.assert_close(
        logits(loaded(out)), logits(loaded(parent)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("parent", ["llama"], indirect=True)
def test_a_repeated_layer_at_half_scale_changes_answers(
    parent: Path, tmp_path: Path
) -> None:
    n = n_layers(parent)
    slices = [
        {"source": "a", "layers": [0, n]},
        {"source": "a", "layers": [0, 1], "scale": 0.5},
    ]
    out = stacked(tmp_path, {"a": parent}, {"slices": slices})
    tensors = load_file(out / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        first, last = (tensors[f"model.layers.{i}.{name}.weight"] for i in (0, n))
        assert torch.equal(last, 0.5 * first)
    assert torch.equal(
        tensors[f"model.layers.{n}.self_attn.q_proj.weight"],
        tensors["model.layers.0.self_attn.q_proj.weight"],
    )
    assert not torch.allclose(logits(loaded(out)), logits(loaded(parent)))


def test_up_scaled_and_shuffled_models_load_and_answer(tmp_path: Path) -> None:
    config = family_config("llama")
    sources = {}
    for seed, name in enumerate("ab"):
        sources[name] = tmp_path / name
        save_family(sources[name], family_model(config, seed=seed))
    ways = {
        "shuffle": {"donors": {"a": 1.0, "b": 1.0}, "seed": 4},
        "upscale": {"source": "a", "overlap": 1},
    }
    for way, said in ways.items():
        folder = tmp_path / way
        folder.mkdir()
        model = loaded(stacked(folder, sources, {way: said}))
        assert torch.isfinite(logits(model)).all()
