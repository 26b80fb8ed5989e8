"""Mixtures assembled from dense models, as mergekit-moe's files describe them."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import api
from evomerge.checkpoints import read_model
from evomerge.core.mixture import Mixture
from evomerge.errors import ExportError, RecipeError, SpecError
from evomerge.merging.routers import drawn_rows, hard_to_tell
from evomerge.specs.mergekit.mixture import open_mixture
from evomerge.specs.recipes import open_recipe
from evomerge.testing.models import tiny_model

IDS = torch.tensor([[1, 5, 9, 40, 77, 100, 33, 8]])
MATH = {"source_model": "math", "positive_prompts": ["12+7=", "45"]}
JA = {"source_model": "ja", "positive_prompts": ["konnichi wa"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models each of three families, in float32, and one that fits none."""
    folder = tmp_path_factory.mktemp("dense")
    for family in ("llama", "qwen2", "qwen3"):
        for seed, name in enumerate(("base", "math", "ja")):
            place = folder / family / name
            tiny_model(place, family, seed=seed, n_layers=2)
    for name in ("base", "math", "ja"):
        shutil.copytree(folder / "llama" / name, folder / "mistral" / name)
        file = folder / "mistral" / name / "config.json"
        config = json.loads(file.read_text())
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        file.write_text(json.dumps(config | {"sliding_window": 4}))
    tiny_model(folder / "llama" / "wide", seed=3, n_layers=2, hidden=64)
    tiny_model(folder / "llama" / "deep", seed=3, n_layers=3)
    return folder


@pytest.fixture
def assemble(models, tmp_path, monkeypatch):
    def _assemble(family="llama", means=None, **written):
        monkeypatch.chdir(models / family)
        file = tmp_path / "moe.yml"
        file.write_text(yaml.safe_dump({"base_model": "base", **written}))
        out = tmp_path / "out"
        if out.exists():
            shutil.rmtree(out)
        api.merge(file, out, means=means)
        return out

    return _assemble


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("family", "model_type"),
    [("llama", "mixtral"), ("mistral", "mixtral"), ("qwen3", "qwen3_moe")],
)
def test_equal_experts_compute_what_the_dense_model_does(
    family, model_type, assemble, models
):
    base = {"source_model": "base"}
    out = assemble(family, gate_mode="random", experts=[base] * 4)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["num_experts_per_tok"]) == (model_type, 2)
    wanted = logits(models / family / "base")
    torch.testing.assert_close(logits(out), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_silent_shared_expert_leaves_the_dense_model(family, assemble, models):
    base = {"source_model": "base"}
    out = assemble(
        family,
        gate_mode="uniform_random",
        architecture="qwen",
        experts=[base] * 3,
        shared_experts=[{"source_model": "ja", "residual_scale": 0.0}],
    )
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2_moe"
    wanted = logits(models / family / "base")
    torch.testing.assert_close(logits(out), wanted, rtol=0, atol=1e-5)


def test_a_shared_expert_adds_what_its_own_row_lets_through(assemble, models):
    base = {"source_model": "base"}
    out = assemble(
        "qwen2",
        gate_mode="random",
        experts=[base] * 2,
        shared_experts=[{"source_model": "ja", "residual_scale": 0.5}],
    )
    stored = load_file(out / "model.safetensors")
    ja = load_file(models / "qwen2" / "ja" / "model.safetensors")
    down = "model.layers.1.mlp.{}down_proj.weight"
    wanted = ja[down.format("")] * 0.5
    torch.testing.assert_close(stored[down.format("shared_expert.")], wanted)
    assert stored["model.layers.0.mlp.shared_expert_gate.weight"].shape == (1, 32)
    dense = logits(models / "qwen2" / "base")
    assert (logits(out) - dense).abs().max() > 1e-3


def test_experts_are_weighed_by_the_router_as_by_hand(assemble, models):
    out = assemble(gate_mode="hidden", experts=[MATH, JA], dtype="float32")
    stored = load_file(out / "model.safetensors")
    dense = {
        name: AutoModelForCausalLM.from_pretrained(
            models / "llama" / name, dtype=torch.float32
        )
        for name in ("base", "math", "ja")
    }

    class Mixed(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.row = stored[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
            self.blocks = [dense[n].model.layers[layer].mlp for n in ("math", "ja")]

        def forward(self, x):
            gates = torch.softmax(x @ self.row.T, dim=-1)
            parts = [
                g.unsqueeze(-1) * b(x)
                for g, b in zip(gates.unbind(-1), self.blocks, strict=True)
            ]
            return sum(parts)

    for i, layer in enumerate(dense["base"].model.layers):
        layer.mlp = Mixed(i)
    with torch.no_grad():
        wanted = dense["base"](IDS).logits
    torch.testing.assert_close(logits(out), wanted, rtol=0, atol=1e-5)


def test_rows_follow_the_hidden_states_at_each_layers_input(assemble, models):
    negative = {**MATH, "negative_prompts": ["ab"]}
    out = assemble(gate_mode="hidden", experts=[negative, JA], dtype="float32")
    rows = load_file(out / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(
        models / "llama" / "base", dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(models / "llama" / "base")

    def last(prompt):
        text = (tokenizer.bos_token or "") + prompt
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            found = model(ids, output_hidden_states=True).hidden_states
        return torch.stack([state[0, -1] for state in found[:-1]])

    mine = (last("12+7=") + last("45")) / 2 - last("ab")
    other = last("konnichi wa")
    for layer in range(2):
        wanted = torch.stack([mine[layer], other[layer]])
        wanted /= wanted.norm(dim=-1, keepdim=True)
        found = rows[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_cheap_rows_are_the_sum_of_the_tokens_embeddings(assemble, models):
    out = assemble(gate_mode="cheap_embed", experts=[MATH, JA], dtype="float32")
    rows = load_file(out / "model.safetensors")
    dense = load_file(models / "llama" / "base" / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(models / "llama" / "base")
    begin = tokenizer.bos_token or ""
    ids = [
        tokenizer(begin + prompt, add_special_tokens=False).input_ids
        for prompt in MATH["positive_prompts"]
    ]
    chosen = [token for prompt in ids for token in prompt]
    total = dense["model.embed_tokens.weight"][chosen].sum(dim=0)
    wanted = total / total.norm()
    for layer in range(2):
        found = rows[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-6)


def test_every_other_tensor_is_the_bases_and_each_expert_its_sources(assemble, models):
    out = assemble(gate_mode="random", experts=[MATH, JA], dtype="float32")
    stored = load_file(out / "model.safetensors")
    base, math, ja = (
        load_file(models / "llama" / name / "model.safetensors")
        for name in ("base", "math", "ja")
    )
    for name, tensor in base.items():
        if ".mlp." not in name:
            assert torch.equal(stored.pop(name), tensor), name
    words = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for layer in range(2):
        stem = f"model.layers.{layer}"
        stored.pop(f"{stem}.block_sparse_moe.gate.weight")
        for i, source in enumerate((math, ja)):
            for own, theirs in words.items():
                made = stored.pop(f"{stem}.block_sparse_moe.experts.{i}.{own}.weight")
                assert torch.equal(made, source[f"{stem}.mlp.{theirs}.weight"])
    assert not stored


def test_noise_is_drawn_by_the_seed(assemble, models):
    def first(seed):
        out = assemble(
            gate_mode="random",
            experts=[{"source_model": "base", "noise_scale": 0.1}, JA],
            evomerge={"seed": seed},
        )
        stored = load_file(out / "model.safetensors")
        return stored["model.layers.0.block_sparse_moe.experts.0.w1.weight"]

    base = load_file(models / "llama" / "base" / "model.safetensors")
    noise = first(1) - base["model.layers.0.mlp.gate_proj.weight"]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_its_recipe_with_folders_beside_gives_the_same_bytes_in_shards_or_not(
    assemble, models, tmp_path
):
    out = assemble(gate_mode="hidden_avg", experts=[MATH, JA])
    data = json.loads((out / "recipe.json").read_text())
    assert open_mixture(tmp_path / "moe.yml").mixture == Mixture.from_json(data)
    assert Mixture.from_json(data).digest in (out / "README.md").read_text()
    again = tmp_path / "again.json"
    data["paths"] = {name: str(models / "llama" / name) for name in data["inputs"]}
    again.write_text(json.dumps(data))
    done = api.merge(again, tmp_path / "shards", means=api.Means(shard_bytes=40_000))
    assert len(done.shards) > 2
    parts = {}
    for shard in done.shards:
        parts |= load_file(tmp_path / "shards" / shard)
    whole = load_file(out / "model.safetensors")
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert torch.equal(logits(out), logits(tmp_path / "shards"))


def test_a_mixture_is_a_source_like_any_other_and_scores_in_an_engine(
    assemble, tmp_path
):
    one = assemble(gate_mode="hidden", experts=[MATH, JA]).rename(tmp_path / "one")
    base = {"source_model": "base", "positive_prompts": ["x"]}
    other = assemble(gate_mode="hidden", experts=[JA, base]).rename(tmp_path / "other")
    assert read_model(one).architecture == "MixtralForCausalLM"
    found = api.doctor(
        api.EngineCheck(str(one), str(other), "hf", "float32"),
        db=f"sqlite:///{tmp_path}/mine.db",
        cache_dir=tmp_path / "cache",
    )
    assert not [row for row in found if row.verdict == "bad"]


def test_the_card_names_experts_prompts_and_what_the_router_is(assemble):
    out = assemble(gate_mode="hidden", experts=[MATH, JA])
    text = (out / "README.md").read_text()
    for part in ("| 0 | math |", "| 1 | ja |", "konnichi wa", "were not trained"):
        assert part in text, text


def test_prompts_that_are_alike_are_warned_of(assemble, caplog):
    near = {**JA, "positive_prompts": ["12+7=", "45 "]}
    out = assemble(gate_mode="cheap_embed", experts=[MATH, near])
    assert "hardly tells experts apart in every layer" in caplog.text
    assert "hardly told apart" in (out / "README.md").read_text()


def test_a_condition_number_above_five_is_what_is_warned_of():
    even = torch.eye(3).expand(2, 3, 3).clone()
    assert hard_to_tell(even) == []
    even[1, 2] = torch.tensor([0.0, 0.95, 0.05])
    assert hard_to_tell(even) == [1]
    drawn = drawn_rows("uniform_random", (2, 4, 64), 0)
    assert float(drawn.abs().max()) <= 0.125


def test_all_mistakes_are_told_at_once_with_their_lines(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models / "llama")
    file = tmp_path / "moe.yml"
    file.write_text(
        "base_model: base\n"
        "gate_mode: hidden\n"
        "experts_per_token: 4\n"
        "experts:\n"
        "  - {source_model: math}\n"
        "  - {source_model: wide, positive_prompts: [one]}\n"
        "  - {source_model: deep, positive_prompts: [two], residual: 2}\n"
        "shared_expert: []\n"
    )
    with pytest.raises(SpecError) as caught:
        api.merge(file, tmp_path / "out")
    for part in (
        "moe.yml:4: experts: expected at least 4, as experts_per_token says, got 3.",
        "moe.yml:5: experts.0.positive_prompts: expected at least one prompt",
        "moe.yml:7: experts.2.residual: unknown key",
        "moe.yml:8: shared_expert: unknown key; did you mean 'shared_experts'?",
        "wide: expected mlp.gate_proj.weight of the base's shape",
        "deep: expected 2 layers, as the base has, got 3.",
    ):
        assert part in str(caught.value), str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ({"architecture": "deepseek"}, "needs code of its own"),
        ({"architecture": "phi"}, "expected one of mixtral, qwen moe, qwen3 moe"),
        ({"gate_mode": "best"}, "gate_mode: expected 'hidden'"),
        ({"architecture": "qwen3"}, "got one of llama. There are: Mixtral of llama"),
        (
            {"experts": [MATH, {**JA, "positive_prompts": ["12+7=", "45"]}]},
            "expected prompts that differ",
        ),
        ({"shared_experts": [JA, MATH]}, "shared_experts: expected one at most, got 2"),
        ({"dtype": "int8"}, "dtype: expected 'float32'"),
    ],
)
def test_what_cannot_be_assembled_is_refused_in_words(written, part, assemble):
    with pytest.raises(SpecError) as caught:
        assemble(**{"experts": [MATH, JA], **written})
    assert part in str(caught.value)


def test_a_folder_that_is_there_is_kept(assemble, models, tmp_path):
    assemble(gate_mode="random", experts=[MATH, JA])
    with pytest.raises(ExportError, match="exists already"):
        api.merge(tmp_path / "moe.yml", tmp_path / "out")


def test_other_commands_say_what_makes_a_mixture(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models / "llama")
    file = tmp_path / "moe.yml"
    file.write_text(yaml.safe_dump({"base_model": "base", "experts": [MATH, JA]}))
    with pytest.raises(SpecError, match="`evomerge merge FILE OUT` makes that"):
        open_recipe(file)


def test_a_recipe_that_contradicts_itself_is_refused():
    with pytest.raises(RecipeError, match="Not a mixture"):
        Mixture.from_json({"version": 1, "mixture": {}})


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.xdist_group("engines")
@pytest.mark.timeout(600)
def test_vllm_swaps_mixtures_exactly(assemble, tmp_path):
    one = assemble(gate_mode="hidden", experts=[MATH, JA]).rename(tmp_path / "one")
    base = {"source_model": "base", "positive_prompts": ["x"]}
    other = assemble(gate_mode="hidden", experts=[JA, base]).rename(tmp_path / "other")
    found = api.doctor(
        api.EngineCheck(str(one), str(other), "vllm", "float32"),
        db=f"sqlite:///{tmp_path}/mine.db",
        cache_dir=tmp_path / "cache",
    )
    assert not [row for row in found if row.verdict == "bad"]
