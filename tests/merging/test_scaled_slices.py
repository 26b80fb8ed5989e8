"""A slice with a scale: all that its layers add is scaled, in every family on the list.

Proved by what a model answers: layers at scale 0 are as good as none.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.checkpoints.foldable import WIRINGS
from evomerge.errors import SpecError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe
from evomerge.testing.families import (
    FAMILIES,
    STRANGERS,
    family_config,
    family_model,
    logits,
    save_family,
)

MORE: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("gemma", "arcee", "nemotron", "ernie4_5", "cohere")},
    **{name: {} for name in ("cohere2", "persimmon", "seed_oss", "stablelm", "phi")},
    **{name: {"head_dim": 8} for name in ("glm", "helium")},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoeshared": {"num_local_experts": 4, "num_experts_per_tok": 2}
    | {"shared_intermediate_size": 24},
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    | {"moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
    | {"moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 1}
    | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "topk_group": 1}
    | {"qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
    "deepseek_v3": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
    | {"moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 1}
    | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "topk_group": 1}
    | {"qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
    "gptj": {"rotary_dim": 4, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48},
    "gpt_neo": {"num_layers": 3, "num_heads": 4}
    | {"attention_types": [[["global"], 3]], "num_hidden_layers": None},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48},
}
"""Families besides those of the architecture tables."""
NORM_BEHIND = ("gemma2", "gemma3_text", "olmo2")
QUICK = ("llama", "starcoder2", "granitemoe", "gpt_neox", "phi", "deepseek_v3")
SCALED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.long)
    for name in sorted(set(WIRINGS) - set(NORM_BEHIND))
]


def config_of(family: str) -> Any:
    if family in FAMILIES or family in STRANGERS:
        return family_config(family)
    base = family_config("mistral").to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    kept += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    kept += ("pad_token_id", "bos_token_id", "eos_token_id")
    from transformers import AutoConfig

    given = {key: base[key] for key in kept} | MORE[family]
    if "n_layer" in given:
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers"):
            given[key] = None
        given |= {"num_attention_heads": None, "num_key_value_heads": None}
    return AutoConfig.for_model(
        family, **{key: value for key, value in given.items() if value is not None}
    )


def stacked(tmp_path, slices, name):
    from transformers import AutoModelForCausalLM

    data = {"sources": {"m": "model"}, "dtype": "float32", "stack": {"slices": slices}}
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    recipe, folders = load_recipe(file)
    with Sources(folders) as sources:
        write_model(recipe, sources, tmp_path / name)
    return AutoModelForCausalLM.from_pretrained(
        tmp_path / name, dtype=torch.float32
    ).eval()


def cut(first, end, scale=1.0):
    return {"source": "m", "layers": [first, end], "scale": scale}


@pytest.mark.parametrize("family", SCALED)
def test_layers_at_scale_0_add_nothing_in_every_family(family, tmp_path):
    save_family(tmp_path / "model", family_model(config_of(family)))
    with_none = stacked(tmp_path, [cut(0, 2), cut(2, 3, 0.0)], "none")
    without = stacked(tmp_path, [cut(0, 2)], "without")
    torch.testing.assert_close(logits(with_none), logits(without), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["starcoder2", "granitemoe", "gpt_neox", "phi"])
def test_biases_and_fused_experts_are_scaled_and_nothing_else(family, tmp_path):
    save_family(tmp_path / "model", family_model(config_of(family)))
    stacked(tmp_path, [cut(0, 1), cut(1, 3, 0.5)], "half")
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("model", "half")
    )
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    words = ("c_proj", "o_proj", "dense", "dense_4h_to_h", "fc2", "output_linear")
    for name in before:
        word = name.rsplit(".", 2)[-2]
        wanted = 0.5 if word in words and (".1." in name or ".2." in name) else 1.0
        assert torch.equal(after[name], before[name] * wanted), name
    assert len(changed) >= 4


@pytest.mark.parametrize("family", NORM_BEHIND)
def test_a_norm_behind_the_outputs_is_a_reason_to_refuse(family, tmp_path):
    save_family(tmp_path / "model", family_model(config_of(family)))
    with pytest.raises(SpecError, match="norm behind their outputs"):
        stacked(tmp_path, [cut(0, 2), cut(2, 3, 0.5)], "half")


def test_a_family_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    import json

    save_family(tmp_path / "model", family_model(config_of("llama")))
    file = tmp_path / "model" / "config.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(data | {"model_type": "internlm2"}), encoding="utf-8")
    with pytest.raises(SpecError, match="'internlm2' model write to the hidden state"):
        stacked(tmp_path, [cut(0, 2), cut(2, 3, 0.5)], "half")
