"""Adapters folded into their base, against the formula written out by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import (
    WEIGHTS,
    WRAPPER,
    adapter_tensors,
    tiny_adapter,
    write_adapter,
)

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Operation,
    Recipe,
    Slot,
)
from evomerge.errors import CheckpointError
from evomerge.merging.materialise import materialise
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.merging.views.merged import Merged
from evomerge.testing.models import tiny_model

LAYER = "model.layers.1."


def opened(base: Path, adapter: Path) -> tuple[Adapted, Sources]:
    prints = read_model(base).fingerprint, read_adapter(adapter).fingerprint
    return Adapted(*prints), Sources(dict(zip(prints, (base, adapter), strict=True)))


def whole(source: Input, n_layers: int, dtype: str = "float32") -> Recipe:
    keep = Operation("linear", ("m",), each=(("weight", (1.0,)),))
    roles = (("*", keep),)
    return Recipe(
        frame="m",
        dtype=dtype,
        inputs=(("m", source),),
        embed=Slot(roles),
        slots=tuple(Slot(roles, layers=(("m", i),)) for i in range(n_layers)),
        head=Slot(roles),
    )


def folded(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    source, sources = opened(base, adapter)
    with sources:
        return dict(materialise(whole(source, read_model(base).n_layers), sources))


def product(adapter: Path, module: str) -> torch.Tensor:
    """Sum over the rank, one outer product after the other."""
    tensors = adapter_tensors(adapter)
    a, b = (tensors[f"{WRAPPER}{module}.lora_{half}.weight"] for half in "AB")
    return sum(
        (torch.outer(b[:, k], a[k]) for k in range(len(a))), torch.zeros(len(b), 1)
    )


def test_every_target_gets_its_product_and_nothing_else_changes(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base, lora_alpha=6)
    stored, found = load_file(base / "model.safetensors"), folded(base, adapter)
    changed = {n for n in stored if not torch.equal(stored[n], found[n])}
    assert changed == {n for n in stored if "q_proj" in n or "down_proj" in n}
    for name in changed:
        expected = stored[name] + 6 / 4 * product(adapter, name[: -len(".weight")])
        assert torch.allclose(found[name], expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 2}}, 0.5),
        ({"alpha_pattern": {"model.layers.1.self_attn.q_proj": 1}}, 0.25),
        ({"alpha_pattern": {"^model.layers.[0-2].*q_proj": 3}}, 0.75),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1, "proj": 99}}, 2.0),
        ({"alpha_pattern": {"q_proj": 12}, "use_rslora": True}, 6.0),
    ],
)
def test_the_scale_is_pefts(
    tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    base = tiny_model(tmp_path / "base", n_layers=2)
    adapter = tiny_adapter(tmp_path / "a", base, targets=("q_proj",), **config)
    name = f"{LAYER}self_attn.q_proj"
    stored = load_file(base / "model.safetensors")[f"{name}.weight"]
    added = folded(base, adapter)[f"{name}.weight"] - stored
    assert torch.allclose(added, scale * product(adapter, name), atol=5e-7)


def test_each_module_may_have_its_own_rank(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", n_layers=2)
    tensors = adapter_tensors(tiny_adapter(tmp_path / "4", base))
    wide = adapter_tensors(tiny_adapter(tmp_path / "6", base, rank=6))
    tensors |= {n: t for n, t in wide.items() if "down_proj" in n}
    adapter = write_adapter(
        tmp_path / "a", tensors, {"rank_pattern": {"down_proj": 6}, "lora_alpha": 12}
    )
    stored, found = load_file(base / "model.safetensors"), folded(base, adapter)
    for module, scale in (("self_attn.q_proj", 3.0), ("mlp.down_proj", 2.0)):
        name = f"{LAYER}{module}"
        added = found[f"{name}.weight"] - stored[f"{name}.weight"]
        assert torch.allclose(added, scale * product(adapter, name), atol=1e-6)


def test_modules_to_save_and_biases_take_the_place_of_the_bases(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", n_layers=2)
    stored = load_file(base / "model.safetensors")
    tensors = adapter_tensors(tiny_adapter(tmp_path / "plain", base))
    new = {
        "lm_head.weight": stored["lm_head.weight"] * 2,
        f"{LAYER}self_attn.q_proj.bias": stored[f"{LAYER}self_attn.q_proj.bias"] + 1,
        "model.norm.weight": stored["model.norm.weight"] - 1,
    }
    written = {
        f"{WRAPPER}lm_head.weight": new["lm_head.weight"],
        f"{WRAPPER}{LAYER}self_attn.q_proj.base_layer.bias": new[
            f"{LAYER}self_attn.q_proj.bias"
        ],
        f"{WRAPPER}model.norm.modules_to_save.default.weight": new["model.norm.weight"],
    }
    config = {"modules_to_save": ["lm_head", "norm"], "bias": "lora_only"}
    found = folded(base, write_adapter(tmp_path / "a", tensors | written, config))
    for name, expected in new.items():
        assert torch.equal(found[name], expected)


def test_an_adapted_embedding_has_its_rows_moved(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    adapter = tiny_adapter(tmp_path / "a", base, targets=("embed_tokens",))
    tensors = adapter_tensors(adapter)
    a, b = (
        tensors[f"{WRAPPER}model.embed_tokens.lora_embedding_{half}"] for half in "AB"
    )
    stored = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    found = folded(base, adapter)["model.embed_tokens.weight"]
    for token in (0, 7, 287):
        expected = stored[token] + 2 * (b @ a[:, token])
        assert torch.allclose(found[token], expected, atol=1e-6)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tied_base_is_untied_where_only_one_end_was_trained(
    tmp_path: Path, target: str
) -> None:
    base = tiny_model(tmp_path / "base", tied=True, n_layers=1)
    embed = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    if target == "embed_tokens":
        adapter = tiny_adapter(tmp_path / "a", base, targets=(target,))
    else:
        saved = {f"{WRAPPER}lm_head.weight": embed * 3}
        adapter = write_adapter(tmp_path / "a", saved, {"modules_to_save": [target]})
    source, sources = opened(base, adapter)
    with sources:
        assert not Merged(whole(source, 1), sources).tied
        found = dict(materialise(whole(source, 1), sources))
    same = {"embed_tokens": "lm_head.weight", "lm_head": "model.embed_tokens.weight"}
    assert torch.equal(found[same[target]], embed)
    assert not torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_a_tied_base_stays_tied_if_neither_end_was_trained(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", tied=True, n_layers=1)
    source, sources = opened(base, tiny_adapter(tmp_path / "a", base))
    with sources:
        assert Merged(whole(source, 1), sources).tied


def test_a_narrow_base_is_rounded_once(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", dtype="bfloat16", n_layers=2)
    adapter = tiny_adapter(tmp_path / "a", base)
    name = f"{LAYER}mlp.down_proj"
    stored = load_file(base / "model.safetensors")[f"{name}.weight"]
    exact = stored.double() + 2 * product(adapter, name).double()
    source, sources = opened(base, adapter)
    with sources:
        narrow = dict(materialise(whole(source, 2, "bfloat16"), sources))
    assert torch.equal(narrow[f"{name}.weight"], exact.float().bfloat16())


def test_weights_stored_the_other_way_round_get_the_product_transposed(
    tmp_path: Path,
) -> None:
    base = tiny_model(tmp_path / "base", n_layers=2, hidden=64)
    tensors = {
        # The tiny k_proj is 32 x 64, so a transposed product fits 64 x 32 factors only.
        f"{WRAPPER}{LAYER}self_attn.k_proj.lora_A.weight": torch.randn(4, 32),
        f"{WRAPPER}{LAYER}self_attn.k_proj.lora_B.weight": torch.randn(64, 4),
    }
    adapter = write_adapter(tmp_path / "a", tensors, {"fan_in_fan_out": True})
    name = f"{LAYER}self_attn.k_proj"
    stored = load_file(base / "model.safetensors")[f"{name}.weight"]
    added = folded(base, adapter)[f"{name}.weight"] - stored
    assert torch.allclose(added, 2 * product(adapter, name).T, atol=1e-5)


def test_a_merge_of_two_adapters_of_one_base_adds_their_products(
    tmp_path: Path,
) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    folders = [tiny_adapter(tmp_path / n, base, seed=i) for i, n in enumerate("ab")]
    prints = [read_adapter(folder).fingerprint for folder in folders]
    own = read_model(base).fingerprint
    add = Operation(
        "task_arithmetic", ("a", "b"), base="m", each=(("weight", (1.0, 1.0)),)
    )
    roles = (("*", add),)
    recipe = Recipe(
        frame="a",
        dtype="float32",
        inputs=(
            ("a", Adapted(own, prints[0])),
            ("b", Adapted(own, prints[1])),
            ("m", Checkpoint(own)),
        ),
        embed=Slot(roles),
        slots=(Slot(roles, layers=(("a", 0), ("b", 0), ("m", 0))),),
        head=Slot(roles),
    )
    paths = {own: base, **dict(zip(prints, folders, strict=True))}
    with Sources(paths) as sources:
        found = dict(materialise(recipe, sources))
    name = "model.layers.0.self_attn.q_proj"
    expected = load_file(base / "model.safetensors")[f"{name}.weight"] + 2 * (
        product(folders[0], name) + product(folders[1], name)
    )
    assert torch.allclose(found[f"{name}.weight"], expected, atol=1e-6)


def test_the_written_folder_has_the_bases_files_and_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny_model(tmp_path / "base", n_layers=1)
    adapter = tiny_adapter(tmp_path / "a", base)
    source, sources = opened(base, adapter)
    with sources:
        out = write_model(whole(source, 1), sources, tmp_path / "out").path
    ids = torch.tensor([[5, 6, 7, 8]])
    model = AutoModelForCausalLM.from_pretrained(base)
    state = model.state_dict()
    state |= {
        name: tensor + 2 * product(adapter, name.removesuffix(".weight"))
        for name, tensor in state.items()
        if name.endswith(("q_proj.weight", "down_proj.weight"))
    }
    model.load_state_dict(state)
    with torch.inference_mode():
        expected = model(ids).logits
        found = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert AutoTokenizer.from_pretrained(out)("the cat")["input_ids"]


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    adapter = tiny_adapter(tmp_path / "a", base)
    tensors = adapter_tensors(adapter)
    name = f"{WRAPPER}model.layers.0.mlp.down_proj.lora_B.weight"
    tensors[name][1, 1] = float("nan")
    save_file(tensors, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match=name):
        folded(base, adapter)


def test_an_adapter_that_changed_is_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    adapter = tiny_adapter(tmp_path / "a", base)
    source, sources = opened(base, adapter)
    with sources:
        dict(materialise(whole(source, 1), sources))
        tensors = adapter_tensors(adapter)
        save_file({n: t * 2 for n, t in tensors.items()}, adapter / WEIGHTS)
        with pytest.raises(CheckpointError, match="changed while it was in use"):
            dict(materialise(whole(source, 1), sources))
    with sources, pytest.raises(CheckpointError, match="changed since it was recorded"):
        dict(materialise(whole(source, 1), sources))


def test_an_adapter_for_another_base_is_refused_before_anything_is_merged(
    tmp_path: Path,
) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    other = tiny_model(tmp_path / "other", n_layers=2)
    adapter = tiny_adapter(tmp_path / "a", other)
    source, sources = opened(base, adapter)
    with sources, pytest.raises(CheckpointError, match="for another base"):
        next(materialise(whole(source, 1), sources))
