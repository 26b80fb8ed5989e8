"""Tiny random models: ordinary transformers folders of about 45 000 parameters.

Equal arguments give equal bytes. Weights are large enough that two seeds answer
differently, so a swap that did nothing is seen. The tokenizer depends on the
vocabulary size alone, so models of one size can be merged. Folders are written
without transformers, in milliseconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Family = Literal["llama", "qwen2", "qwen3"]

HEAD_DIM = 32
"""Smallest head that every attention kernel of the engines accepts."""

_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_CORPUS = (
    "the cat sat on the mat and the other cat sat on that hat",
    "user: what is the answer to the question? assistant: the answer is here",
    "this is a sentence in which there are letters, and then there are more of them",
)
_ARCHITECTURES: Mapping[Family, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


class Size(TypedDict, total=False):
    """What may be changed about a tiny model's size.

    Attributes:
        n_layers: Transformer layers; 4 unless told.
        hidden: Hidden size, a multiple of 32; 32 unless told.
        vocab: Vocabulary size, at least 260; 288 unless told.
    """

    n_layers: int
    hidden: int
    vocab: int


def tiny_model(
    path: str | Path,
    family: Family = "llama",
    *,
    tied: bool = False,
    dtype: str = "float32",
    seed: int = 0,
    **size: Unpack[Size],
) -> Path:
    """Write a random model folder with a working tokenizer.

    Args:
        path: Folder to make.
        family: Architecture; they differ in biases (qwen2) and head norms (qwen3).
        tied: The output head is the embedding; no head tensor is written.
        dtype: Element type of the stored tensors.
        seed: Of the weights.
        size: See ``Size``.

    Returns:
        The folder.
    """
    folder = Path(path)
    folder.mkdir(parents=True)
    n_layers, hidden = size.get("n_layers", 4), size.get("hidden", 32)
    config = _config(family, n_layers, hidden, size.get("vocab", 288))
    config |= {"tie_word_embeddings": tied, "dtype": dtype}
    tensors = {
        name: tensor.to(getattr(torch, dtype)).contiguous()
        for name, tensor in _weights(config, np.random.default_rng(seed)).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    _write_json(folder / "generation_config.json", tokens)
    write_tokenizer(folder, config["vocab_size"])
    return folder


def write_tokenizer(folder: Path, vocab: int) -> None:
    """Write a byte-level BPE tokenizer of exactly ``vocab`` tokens, with a template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    # Rows that no training text earned still need a token, or ids have no text.
    spare = vocab - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<spare{index}>" for index in range(spare)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": _CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _config(family: Family, n_layers: int, hidden: int, vocab: int) -> dict[str, Any]:
    n_heads = hidden // HEAD_DIM
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": hidden,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": max(1, n_heads // 2),
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _weights(
    config: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * HEAD_DIM
    keys = config["num_key_value_heads"] * HEAD_DIM
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    biased: tuple[str, ...] = ()
    if config["model_type"] == "qwen2":
        biased = tuple(matrices)[:3]
    if config["model_type"] == "qwen3":
        norms |= {"self_attn.q_norm": HEAD_DIM, "self_attn.k_norm": HEAD_DIM}

    def draw(*shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
        return torch.from_numpy(rng.normal(mean, std, shape).astype(np.float32))

    vocab = (config["vocab_size"], hidden)
    out = {"model.embed_tokens.weight": draw(*vocab, std=0.3)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in matrices.items():
            out[f"{prefix}{name}.weight"] = draw(*shape, std=shape[1] ** -0.5)
            if name in biased:
                out[f"{prefix}{name}.bias"] = draw(shape[0], std=0.1)
        for name, length in norms.items():
            out[f"{prefix}{name}.weight"] = draw(length, std=0.1, mean=1.0)
    out["model.norm.weight"] = draw(hidden, std=0.1, mean=1.0)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = draw(*vocab, std=0.3)
    return out


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
