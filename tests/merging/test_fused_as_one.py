"""mergekit files merge what transformers holds as one tensor as one, by its names."""

import pytest
import torch
from architectures.built import CAUSAL, build
from safetensors.torch import load_file

from evomerge.core.recipes.recipe import Recipe
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.canonical import own_text
from evomerge.specs.mergekit import write_mergekit
from evomerge.specs.recipes import open_recipe
from evomerge.testing.families import family_config, family_model, save_family

pytestmark = pytest.mark.slow

TIES = "merge_method: ties\nbase_model: base\ndtype: float32\nmodels:\n"
TIES += "- {model: a, parameters: {weight: 1, density: 0.4}}\n"
MIXTRAL = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
QWEN = "model.layers.{}.mlp.experts.{}.{}.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for family in ("mixtral", "qwen3_moe", "granitemoe", "gpt_neox"):
        near = None
        for seed, name in enumerate(("base", "a", "b")):
            near = family_model(family_config(family), seed, near=near)
            save_family(folder / family / name, near)
    return folder


@pytest.fixture
def read(folder):
    def _read(family, text, **more):
        file = folder / family / "merge.yml"
        file.write_text(text, encoding="utf-8")
        return open_recipe(file, **more)

    return _read


def tensors(opened):
    with Sources(opened.folders) as sources:
        return {k: v.clone() for k, v in materialise(opened.recipe, sources)}


def stored(folder, family, name):
    return load_file(folder / family / name / "model.safetensors")


def together(found, pattern, layer, words):
    experts = [
        torch.cat([found[pattern.format(layer, e, word)] for word in words])
        for e in range(4)
    ]
    return torch.stack(experts)


def trimmed(delta, density):
    """Keep the largest entries; of equally large ones the first."""
    keep = int(density * delta.numel())
    order = delta.abs().reshape(-1).argsort(descending=True, stable=True)
    out = torch.zeros(delta.numel())
    out[order[:keep]] = delta.reshape(-1)[order[:keep]]
    return out.view(delta.shape)


@pytest.mark.parametrize(
    ("family", "pattern", "words"),
    [
        ("mixtral", MIXTRAL, ("w1", "w3")),
        ("mixtral", MIXTRAL, ("w2",)),
        ("qwen3_moe", QWEN, ("gate_proj", "up_proj")),
        ("qwen3_moe", QWEN, ("down_proj",)),
    ],
)
def test_all_experts_of_a_layer_are_trimmed_as_one(
    family, pattern, words, read, folder
):
    opened = read(family, TIES)
    merged = together(tensors(opened), pattern, 2, words)
    base, a = (
        together(stored(folder, family, name), pattern, 2, words)
        for name in ("base", "a")
    )
    wanted = base + trimmed(a - base, 0.4)
    torch.testing.assert_close(merged, wanted, rtol=0, atol=1e-6)
    alone = [trimmed(x - y, 0.4) for x, y in zip(a, base, strict=True)]
    assert not torch.allclose(merged, base + torch.stack(alone), atol=1e-6)


def test_query_key_and_value_in_one_are_trimmed_as_one(read, folder):
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    base, a = (stored(folder, "gpt_neox", one)[name] for one in ("base", "a"))
    merged = tensors(read("gpt_neox", TIES))[name]
    torch.testing.assert_close(merged, base + trimmed(a - base, 0.4), rtol=0, atol=1e-6)


def test_experts_stored_as_one_are_merged_as_they_are_stored(read, folder):
    name = "model.layers.1.block_sparse_moe.input_linear.weight"
    base, a = (stored(folder, "granitemoe", one)[name] for one in ("base", "a"))
    merged = tensors(read("granitemoe", TIES))[name]
    torch.testing.assert_close(merged, base + trimmed(a - base, 0.4), rtol=0, atol=1e-6)


def test_recipes_of_our_own_merge_experts_one_by_one(read, folder):
    opened = read("mixtral", TIES, profile="default")
    assert not opened.recipe.fused
    name = MIXTRAL.format(2, 1, "w2")
    base, a = (stored(folder, "mixtral", one)[name] for one in ("base", "a"))
    merged = tensors(opened)[name]
    assert int((merged != base).sum()) <= int(0.45 * base.numel())
    written = write_mergekit(opened.recipe, opened.models)
    assert any("experts of a layer" in loss for loss in written.losses)
    assert not torch.equal(merged, a)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_methods_that_look_at_single_entries_have_one_recipe(method, read):
    text = f"merge_method: {method}\nbase_model: base\nparameters: {{weight: 1}}\n"
    opened = read("mixtral", text + "models: [{model: base}, {model: a}]\n")
    assert not opened.recipe.fused
    assert "fused" not in opened.recipe.to_json()


def test_a_recipe_that_merges_experts_as_one_comes_back(read, folder):
    opened = read("mixtral", TIES)
    assert Recipe.from_json(opened.recipe.to_json()) == opened.recipe
    file = folder / "mixtral" / "own.yaml"
    file.write_text(own_text(opened.recipe, opened.models), encoding="utf-8")
    assert open_recipe(file).recipe.digest == opened.recipe.digest
    assert not write_mergekit(opened.recipe, opened.models).losses


FILTERS = [
    ("mixtral", "mlp", MIXTRAL.format(0, 3, "w1"), True),
    ("mixtral", "mlp.gate", "model.layers.0.block_sparse_moe.gate.weight", True),
    ("mixtral", "gate_up_proj", MIXTRAL.format(1, 0, "w3"), True),
    ("mixtral", "gate_up_proj", MIXTRAL.format(1, 0, "w2"), False),
    ("mixtral", "experts.down_proj", MIXTRAL.format(1, 2, "w2"), True),
    ("qwen3_moe", "experts.gate_up_proj", QWEN.format(0, 2, "up_proj"), True),
    ("qwen3_moe", "experts.1", QWEN.format(0, 1, "up_proj"), False),
    (
        "granitemoe",
        "experts",
        "model.layers.0.block_sparse_moe.input_linear.weight",
        True,
    ),
]


@pytest.mark.parametrize(("family", "word", "name", "served"), FILTERS)
def test_a_filter_looks_at_the_names_that_transformers_has(
    family, word, name, served, read, folder
):
    cases = "parameters: {{weight: [{{filter: {}, value: {}}}, {{value: {}}}]}}"
    opened = read(
        family,
        "merge_method: linear\ndtype: float32\nmodels:\n"
        f"- {{model: a, {cases.format(word, 0, 1)}}}\n"
        f"- {{model: b, {cases.format(word, 1, 0)}}}\n",
    )
    whose = stored(folder, family, "b" if served else "a")
    assert torch.equal(tensors(opened)[name], whose[name])
    assert bool(opened.warnings) == (word == "experts.1")


def test_what_transformers_cuts_when_it_loads_is_merged_matrix_by_matrix(tmp_path):
    build(tmp_path, CAUSAL, "hrm_text")
    file = tmp_path / "merge.yml"
    file.write_text(TIES, encoding="utf-8")
    name = "model.H_module.layers.0.attn.gqkv_proj.weight"
    base, one = (
        load_file(tmp_path / parent / "model.safetensors")[name]
        for parent in ("base", "a")
    )
    found = tensors(open_recipe(file))[name]
    for rows in torch.arange(128).split(32):  # gate, queries, keys, values
        wanted = base[rows] + trimmed(one[rows] - base[rows], 0.4)
        assert torch.allclose(found[rows], wanted, 1e-6, 1e-6)
