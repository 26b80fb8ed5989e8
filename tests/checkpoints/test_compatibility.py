"""Which models can be merged entry by entry, and why not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import compatibility, read_model, remarks
from evomerge.testing.models import tiny_model


def problems(tmp_path: Path, *kinds: dict[str, Any]) -> list[str]:
    models = {
        f"m{i}": read_model(
            tiny_model(tmp_path / f"m{i}", seed=i, **({"n_layers": 1} | kind))
        )
        for i, kind in enumerate(kinds)
    }
    return compatibility(models)


def test_models_of_one_family_and_size_fit(tmp_path: Path) -> None:
    assert problems(tmp_path, {}, {}, {"dtype": "bfloat16"}) == []


def test_tied_and_untied_models_fit(tmp_path: Path) -> None:
    assert problems(tmp_path, {"tied": True}, {}, {"tied": True}) == []


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"n_layers": 2}, "'m1' has number of layers 2, but 'm0' has 1"),
        ({"hidden": 64}, "'m1' has hidden size 64, but 'm0' has 32"),
        ({"vocab": 300}, "'m1' has vocabulary size 300, but 'm0' has 288"),
        ({"vocab": 300}, "different tokenizers"),
        ({"family": "qwen2"}, "'m1' has architecture family 'qwen2'"),
    ],
)
def test_each_difference_is_named_with_both_models(
    tmp_path: Path, kind: dict[str, Any], says: str
) -> None:
    found = problems(tmp_path, {}, kind, {})
    assert any(says in problem for problem in found)
    assert not any("m2" in problem for problem in found)


def test_tensors_are_compared_where_the_configurations_agree(tmp_path: Path) -> None:
    for name, kind in (("a", {}), ("b", {"family": "qwen2"}), ("c", {"hidden": 64})):
        folder = tiny_model(tmp_path / name, n_layers=1, **kind)
        config = json.loads((folder / "config.json").read_text())
        kept = ("num_hidden_layers", "vocab_size", "architectures")
        (folder / "config.json").write_text(json.dumps({k: config[k] for k in kept}))
    models = {name: read_model(tmp_path / name) for name in "abc"}
    missing, shapes = compatibility(models)
    assert "'a' lacks 3 tensors that 'b' has" in missing
    assert "differ in shape" in shapes
    assert "in 'c'" in shapes


def test_the_chat_template_and_merge_notation_do_not_matter(tmp_path: Path) -> None:
    first = tiny_model(tmp_path / "a")
    second = tiny_model(tmp_path / "b")
    (second / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    file = second / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["truncation"] = None
    file.write_text(json.dumps(data))
    assert compatibility({"a": read_model(first), "b": read_model(second)}) == []


def test_a_vocabulary_in_another_order_matters(tmp_path: Path) -> None:
    first = tiny_model(tmp_path / "a")
    second = tiny_model(tmp_path / "b")
    file = second / "tokenizer.json"
    data = json.loads(file.read_text())
    vocab = data["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(data))
    (problem,) = compatibility({"a": read_model(first), "b": read_model(second)})
    assert "different tokenizers" in problem


def test_a_single_model_fits_itself(tmp_path: Path) -> None:
    assert problems(tmp_path, {}) == []


def edited(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    known = {key: value for key, value in config.items() if value is not None}
    file.write_text(json.dumps(known))
    return folder


def pair(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    folders = [tiny_model(tmp_path / name, "qwen3") for name in "ab"]
    for folder, changes in zip(folders, (one, other), strict=True):
        edited(folder, **changes)
    return compatibility({f.name: read_model(f) for f in folders})


def test_layers_of_different_types_are_named_in_pairs(tmp_path: Path) -> None:
    full, sliding = "full_attention", "sliding_attention"
    (problem,) = pair(
        tmp_path,
        {"layer_types": [full] * 4},
        {"layer_types": [full, sliding, full, sliding]},
    )
    assert problem == (
        "2 layers are of different types, for example layer 1: sliding attention, one "
        "feed-forward block in 'b', full attention, one feed-forward block in 'a': "
        "equal weights would compute something else. To merge them all the same, say "
        "`allow: [layer_types]`."
    )


def test_lists_and_patterns_of_layer_types_are_compared(tmp_path: Path) -> None:
    listed = ["sliding_attention", "full_attention"] * 2
    pattern = {"sliding_window_pattern": 2}
    assert pair(tmp_path / "same", {"layer_types": listed}, pattern) == []
    (problem,) = pair(tmp_path / "other", {"layer_types": listed[::-1]}, pattern)
    assert "4 layers are of different types" in problem


NEW = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({}, {"rope_theta": None, "rope_parameters": NEW}, None),
        ({}, {"rope_theta": None}, None),
        ({}, {"rope_theta": 1e6}, "rope_theta 1000000.0, but 'a' with 10000.0"),
        (
            {"rope_theta": None, "rope_parameters": NEW},
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type 'linear', but 'a' with 'default'",
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_local_base_freq": 10000.0,
                "rope_theta": 1e6,
            },
            {
                "model_type": "gemma3_text",
                "rope_theta": None,
                "rope_parameters": {
                    "full_attention": NEW | {"rope_theta": 1e6},
                    "sliding_attention": NEW | {"rope_theta": 500.0},
                },
            },
            "sliding rope_theta 500.0, but 'a' with 10000.0",
        ),
    ],
)
def test_rotary_settings_are_compared_in_old_and_new_notation(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], says: str | None
) -> None:
    found = pair(tmp_path, one, other)
    assert len(found) == (0 if says is None else 1)
    assert says is None or says in found[0]


def test_another_vocabulary_is_no_problem_where_rows_are_moved(tmp_path: Path) -> None:
    folders = [
        tiny_model(tmp_path / "a", vocab=300),
        tiny_model(tmp_path / "b", vocab=288),
        tiny_model(tmp_path / "c", hidden=64),
    ]
    models = {folder.name: read_model(folder) for folder in folders}
    wide = models.pop("c")
    assert len(compatibility(models)) == 2
    assert compatibility(models, same_vocabulary=False) == []
    (problem,) = compatibility({**models, "c": wide}, same_vocabulary=False)[:1]
    assert "hidden size" in problem


def test_layers_that_are_only_set_on_each_other_need_no_common_depth(
    tmp_path: Path,
) -> None:
    def stacked(**kinds: dict[str, Any]) -> list[str]:
        models = {
            name: read_model(tiny_model(tmp_path / name, **kind))
            for name, kind in kinds.items()
        }
        return compatibility(models, same_depth=False)

    assert stacked(a={"n_layers": 2}, b={"n_layers": 5}, c={"tied": True}) == []
    said = stacked(d={"n_layers": 2}, e={"n_layers": 3, "hidden": 64})
    assert said[0] == "'e' has hidden size 64, but 'd' has 32."
    assert not any("layers" in problem for problem in said)


def test_layers_of_other_parts_cannot_be_set_on_each_other(tmp_path: Path) -> None:
    for name, kind in (("a", {}), ("b", {"family": "qwen2"}), ("c", {"hidden": 64})):
        folder = tiny_model(tmp_path / name, **kind)
        config = json.loads((folder / "config.json").read_text())
        kept = ("num_hidden_layers", "vocab_size", "architectures")
        (folder / "config.json").write_text(json.dumps({k: config[k] for k in kept}))
    models = {name: read_model(tmp_path / name) for name in "abc"}
    missing, shapes = compatibility(models, same_depth=False)
    assert missing.startswith("No layer of 'a' has 'self_attn.k_proj.bias', which")
    assert "tensors of a layer differ in shape, for example" in shapes
    assert "in 'c'" in shapes


def resaved(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(16)),
        ("model.rotary_emb.original_inv_freq", torch.ones(16)),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", torch.ones(1, 1, 8, 16)),
        ("model.position_ids", torch.arange(8)[None]),
        ("model.layers.0.self_attn.masked_bias", torch.tensor(-1e9)),
        ("model.layers.0.self_attn.bias", torch.ones(1, 1, 8, 8)),
    ],
)
def test_tables_that_one_model_stores_decide_nothing(
    tmp_path: Path, name: str, table: torch.Tensor
) -> None:
    plain = read_model(tiny_model(tmp_path / "a", n_layers=1))
    stored = resaved(
        tiny_model(tmp_path / "b", n_layers=1), lambda t: t | {name: table}
    )
    other = read_model(stored)
    assert name not in other.tensors
    for same_depth in (True, False):
        pair = {"a": plain, "b": other}
        assert compatibility(pair, same_depth=same_depth) == []
        assert compatibility(dict(reversed(pair.items())), same_depth=same_depth) == []


def test_names_without_the_usual_prefix_fit(tmp_path: Path) -> None:
    one = read_model(tiny_model(tmp_path / "a", n_layers=1, tied=True))
    folder = resaved(
        tiny_model(tmp_path / "b", n_layers=1, tied=True),
        lambda t: {name.removeprefix("model."): one for name, one in t.items()},
    )
    pair = {"a": one, "b": read_model(folder)}
    assert compatibility(pair) == []
    assert compatibility(dict(reversed(pair.items())), same_depth=False) == []


def test_a_text_decoder_and_the_model_that_sees_are_one_family(tmp_path: Path) -> None:
    models = {
        name: read_model(tiny_model(tmp_path / name, family=family))
        for name, family in (("one", "qwen3"), ("text", "qwen3"))
    }
    config = dict(models["text"].config) | {"model_type": "qwen3_text"}
    models["text"] = replace(models["text"], config=config)
    assert not [said for said in compatibility(models) if "family" in said]


def test_another_family_of_equal_tensors_can_be_allowed(tmp_path: Path) -> None:
    models = {n: read_model(tiny_model(tmp_path / n)) for n in ("one", "other")}
    config = dict(models["other"].config) | {"model_type": "mistral"}
    models["other"] = replace(models["other"], config=config)
    (said,) = compatibility(models)
    assert "architecture family 'mistral'" in said
    assert "allow: [family]" in said
    assert compatibility(models, allow=["family"]) == []
    (noted,) = remarks(models, allow=["family"])
    assert "'other' is of family 'mistral', but 'one' of 'llama'" in noted
