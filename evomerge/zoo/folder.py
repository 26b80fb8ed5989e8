"""Zoo models as ordinary transformers folders, and back.

The few JSON files are written here rather than by transformers: they then do not
change with its version, and a zoo is made without the seconds that loading it takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.zoo.model import EMBED, NORM_EPS, ROPE_THETA, State
from evomerge.zoo.recipes import HEAD_DIM, Shape
from evomerge.zoo.tokenizer import (
    BOS,
    BOS_ID,
    CHAT_TEMPLATE,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    UNK,
    build_tokenizer,
)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MAX_LENGTH = 256
_SPECIAL = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}


def write_model(folder: Path, state: State, shape: Shape) -> None:
    """Write weights, config, generation config, tokenizer and chat template.

    Args:
        folder: Made here; must not exist.
        state: The weights, written as they are (float32).
        shape: Of the model.
    """
    folder.mkdir(parents=True)
    _write(folder / _CONFIG, _config(shape, len(state[EMBED])))
    _write(folder / "generation_config.json", {**_SPECIAL, "do_sample": False})
    _write(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    build_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def read_weights(folder: Path) -> State:
    """Read the weights of a zoo model, or a merge of some, as float32 tensors.

    Raises:
        CheckpointError: The folder holds no model of the zoo's make.
    """
    config = folder / _CONFIG
    for path in (config, folder / _WEIGHTS):
        if not path.is_file():
            raise CheckpointError(
                f"Expected a zoo model in {str(folder)!r}, but {path.name} is missing; "
                "make a zoo first."
            )
    plain = json.loads(config.read_text(encoding="utf-8"))
    if plain.get("model_type") != "llama" or plain.get("head_dim") != HEAD_DIM:
        raise CheckpointError(
            f"{str(config)!r} describes no zoo model: expected a Llama with heads of "
            f"{HEAD_DIM} dimensions, got {plain.get('model_type')!r} with "
            f"{plain.get('head_dim')!r}."
        )
    weights = load_file(folder / _WEIGHTS)
    return {name: value.float() for name, value in weights.items()}


def _config(shape: Shape, vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": _MAX_LENGTH,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
        **_SPECIAL,
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _MAX_LENGTH,
    }


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
