"""Model folders: what is read of good ones, what is said of bad ones."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import INDEX, read_model
from evomerge.errors import CheckpointError
from evomerge.testing.models import tiny_model

WEIGHTS = "model.safetensors"


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / WEIGHTS) | changes
    kept = {name: t.clone() for name, t in tensors.items() if t is not None}
    save_file(kept, folder / WEIGHTS)


def shard(folder: Path, change: Callable[[dict[str, str]], None] | None = None) -> None:
    """Cut the weights in two files with an index, perhaps a false one."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    weight_map = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(names)}
    for part in set(weight_map.values()):
        inside = {n: tensors[n].clone() for n in names if weight_map[n] == part}
        save_file(inside, folder / part)
    (folder / WEIGHTS).unlink()
    if change is not None:
        change(weight_map)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reads_what_a_folder_says(
    tmp_path: Path, family: str, tied: bool, dtype: str
) -> None:
    folder = tiny_model(tmp_path / "m", family, tied=tied, dtype=dtype, n_layers=2)
    model = read_model(folder)
    stored = load_file(folder / WEIGHTS)
    assert {n: i.shape for n, i in model.tensors.items()} == {
        n: tuple(t.shape) for n, t in stored.items()
    }
    assert model.size_bytes == sum(t.nbytes for t in stored.values())
    assert (model.n_layers, model.tied, model.vocab_size) == (2, tied, 288)
    assert model.architecture.lower().startswith(family)
    assert model.places["model.layers.1.mlp.up_proj.weight"].layer == 1
    assert len(model.fingerprint) == len(model.tokenizer_digest) == 32


def test_a_sharded_folder_holds_the_same_tensors(tmp_path: Path) -> None:
    whole = read_model(tiny_model(tmp_path / "whole"))
    folder = tiny_model(tmp_path / "cut")
    shard(folder)
    cut = read_model(folder)
    assert {(i.name, i.dtype, i.shape) for i in cut.tensors.values()} == {
        (i.name, i.dtype, i.shape) for i in whole.tensors.values()
    }


def test_fingerprints_follow_weights_config_and_tokenizer_only(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / str(i)) for i in range(5)]
    edit_weights(folders[1], **{"model.norm.weight": torch.ones(32)})
    edit_config(folders[2], rms_norm_eps=1e-6)
    (folders[3] / "tokenizer_config.json").write_text("{}")
    (folders[4] / "README.md").write_text("a card")
    names = [read_model(folder).fingerprint for folder in folders]
    assert names[4] == names[0]
    assert len(set(names)) == 4


def test_the_tie_flag_may_be_left_out(tmp_path: Path) -> None:
    tied = tiny_model(tmp_path / "tied", tied=True)
    untied = tiny_model(tmp_path / "untied")
    for folder in (tied, untied):
        edit_config(folder, tie_word_embeddings=None)
    assert read_model(tied).tied
    assert not read_model(untied).tied


def test_a_tied_model_may_store_its_head_twice(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", tied=True)
    embed = load_file(folder / WEIGHTS)["model.embed_tokens.weight"]
    edit_weights(folder, **{"lm_head.weight": embed})
    model = read_model(folder)
    assert model.tied
    assert "lm_head.weight" not in model.tensors
    edit_weights(folder, **{"lm_head.weight": embed + 1})
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        read_model(folder)


def test_an_untied_model_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    edit_weights(folder, **{"lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"no lm_head\.weight is stored"):
        read_model(folder)


def test_a_model_of_hidden_states_has_no_head(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    edit_weights(folder, **{"lm_head.weight": None})
    edit_config(folder, architectures=["LlamaModel"])
    assert read_model(folder).layout.is_headless


def test_a_pickle_is_refused_with_the_reason_and_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    folder = tiny_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"run any code.*Convert") as caught:
        read_model(folder)
    assert "pytorch_model.bin" in str(caught.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "a/../../outside.safetensors",
        "..\\outside.safetensors",
        "part-0.bin",
        "",
        7,
    ],
)
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, elsewhere: Any) -> None:
    folder = tiny_model(tmp_path / "m")
    save_file({"x": torch.ones(1)}, tmp_path / "outside.safetensors")
    shard(folder, lambda weight_map: weight_map.update(x=elsewhere))
    with pytest.raises(CheckpointError, match="inside the folder") as caught:
        read_model(folder)
    assert repr(elsewhere) in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'part-1\.safetensors' is missing"):
        read_model(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(ghost="part-0.safetensors"), "lacks tensor 'ghost'"),
        (lambda m: m.pop("lm_head.weight"), "mixes two models"),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    tmp_path: Path, change: Any, says: str
) -> None:
    folder = tiny_model(tmp_path / "m")
    shard(folder, change)
    with pytest.raises(CheckpointError, match=says):
        read_model(folder)


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="expected a weight_map"):
        read_model(folder)


@pytest.mark.parametrize(
    ("present", "says"),
    [
        ([], "holds no weights"),
        (["adapter_config.json", "adapter_model.safetensors"], "low-rank adapter"),
        (["model-00001-of-00002.safetensors"], "Copy the whole folder"),
        (["consolidated.00.pth"], "pickle"),
    ],
)
def test_a_folder_without_weights_is_explained(
    tmp_path: Path, present: list[str], says: str
) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    for name in present:
        (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=says):
        read_model(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": 5}, r"layers \[4\] are missing"),
        ({"num_hidden_layers": 3}, r"layers \[3\] are missing or too many"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 289}, "vocabulary of 289"),
        ({"tie_word_embeddings": "no"}, "true or false"),
        ({"architectures": None, "model_type": None}, "architectures"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"text_config": {"num_hidden_layers": 9}}, r"layers \[4, 5, 6, 7, 8\]"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    ],
)
def test_a_false_configuration_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = tiny_model(tmp_path / "m")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\ud800"])
def test_a_configuration_that_is_no_object_is_refused(
    tmp_path: Path, text: str
) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model(folder)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_model(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        read_model(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_model(tmp_path / "empty")


def test_a_tensor_that_is_not_understood_is_named_with_its_folder(
    tmp_path: Path,
) -> None:
    folder = tiny_model(tmp_path / "m")
    edit_weights(folder, **{"model.strange.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match=r"model\.strange\.weight") as caught:
        read_model(folder)
    assert str(folder) in str(caught.value)


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        read_model(folder)


def test_reading_a_model_loads_no_torch() -> None:
    code = (
        "import sys, evomerge.checkpoints; "
        "sys.exit(bool({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("key", ["attn_config", "ffn_config"])
def test_settings_of_blocks_are_no_second_model(tmp_path: Path, key: str) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    edit_config(folder, **{key: {"model_type": "mpt", "hidden_size": 8}})
    assert read_model(folder).n_layers == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": None}, "does not say how many layers it has"),
        ({"vocab_size": None}, "does not say how many tokens it knows"),
        ({"is_encoder_decoder": True}, "only one stack of layers, model.layers.N"),
    ],
)
def test_what_a_configuration_lacks_is_said(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_model(folder)
    assert "got None" not in str(caught.value)
