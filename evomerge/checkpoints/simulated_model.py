"""Models that nobody trained, for dry runs: ``simulated:NAME``, ``simulated:NAME/24``.

A study of made-up tasks needs parents of some shape, and no model. Such a parent is an
ordinary folder of some 40 000 parameters in the cache folder, written when it is first
named; equal names give equal bytes on every machine. All have one tokenizer and, as
models of one training have, most of their weights in common.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoints.tokenizers.canonical_form import byte_alphabet
from evomerge.errors import CheckpointError

SCHEME = "simulated:"
LAYERS = 4
"""Layers, where no number is said."""
MOST_LAYERS = 256

_NAME = re.compile(r"([A-Za-z][\w-]{0,63})(?:/([0-9]{1,4}))?", re.ASCII)
_FOLDER = "simulated_models"
_HIDDEN = 32
_SPECIALS = ("<s>", "</s>")
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _HIDDEN,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": _HIDDEN,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def is_simulated(written: str) -> bool:
    """Tell whether a source is one of this module's."""
    return written.startswith(SCHEME)


def simulated_folder(written: str, cache_dir: Path) -> Path:
    """Return the folder of a made-up model, written now if it is not there yet.

    Args:
        written: ``simulated:NAME``, perhaps with ``/`` and a number of layers.
        cache_dir: In which folder it is kept.

    Raises:
        CheckpointError: What is written is no such name.
    """
    name, n_layers = _parsed(written)
    folder = cache_dir / _FOLDER / str(n_layers) / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            new = Path(partial) / "new"
            new.mkdir()
            _write(new, name, n_layers)
            with suppress(OSError):  # another process was quicker
                new.rename(folder)
    return folder


def _parsed(written: str) -> tuple[str, int]:
    found = _NAME.fullmatch(written.removeprefix(SCHEME))
    n_layers = int(found[2] or LAYERS) if found else 0
    if found is None or not 0 < n_layers <= MOST_LAYERS:
        raise CheckpointError(
            f"{written!r} is no made-up model: expected {SCHEME}NAME, or "
            f"{SCHEME}NAME/24 with a number of layers from 1 to {MOST_LAYERS}."
        )
    return found[1], n_layers


def _write(folder: Path, name: str, n_layers: int) -> None:
    tokens = [*_SPECIALS, *sorted(byte_alphabet())]
    shapes = _shapes(len(tokens), n_layers)
    tensors = {key: _weights(name, key, shape) for key, shape in shapes.items()}
    _write_tensors(folder / "model.safetensors", tensors)
    sizes = {"vocab_size": len(tokens), "num_hidden_layers": n_layers}
    _write_json(folder / "config.json", {**_CONFIG, **sizes})
    _write_json(folder / "tokenizer.json", _tokenizer(tokens))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIALS[0],
        "eos_token": _SPECIALS[1],
        "pad_token": _SPECIALS[1],
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_tensors(file: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Write safetensors; the library's own bytes may differ between its versions."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text]
    parts += [tensor.astype("<f4").tobytes() for tensor in tensors.values()]
    file.write_bytes(b"".join(parts))


def _shapes(vocab: int, n_layers: int) -> dict[str, tuple[int, ...]]:
    square, row = (_HIDDEN, _HIDDEN), (_HIDDEN,)
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, _HIDDEN)}
    for layer in range(n_layers):
        for part in ("q", "k", "v", "o"):
            out[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = square
        for part in ("gate", "up", "down"):
            out[f"model.layers.{layer}.mlp.{part}_proj.weight"] = square
        for part in ("input", "post_attention"):
            out[f"model.layers.{layer}.{part}_layernorm.weight"] = row
    out["model.norm.weight"] = row
    out["lm_head.weight"] = (vocab, _HIDDEN)
    return out


def _weights(name: str, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return weights that all models have in common, and a little of the name's own."""
    common, own = _drawn(f"/{key}", shape), _drawn(f"{name}/{key}", shape)
    middle = np.float32(1.0 if len(shape) == 1 else 0.0)
    return middle + common / np.float32(4) + own / np.float32(32)


def _drawn(text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return numbers in [-1, 1) that follow from a text, exact in float32."""
    n = int(np.prod(shape))
    drawn = np.frombuffer(hashlib.shake_256(text.encode()).digest(n), np.int8)
    return drawn.reshape(shape).astype(np.float32) / np.float32(128)


def _tokenizer(tokens: list[str]) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocab = {token: i for i, token in enumerate(tokens)}
    added = {"single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": vocab[token], "content": token, **added} for token in _SPECIALS
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
