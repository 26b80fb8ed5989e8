"""Which models can be merged entry by entry, and why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoints import compatibility, read_model
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
