"""Tiny models whose vocabularies differ: moved ids, further tokens, padding."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


def permute(folder: Path, seed: int = 0) -> torch.Tensor:
    """Give every token of a tiny model another id, and move its rows along.

    Returns:
        New id to old id, int64.
    """
    data = read_tokenizer(folder)
    ids = tokens_of(data)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    new_id = {int(was): now for now, was in enumerate(order)}
    data["model"]["vocab"] = {token: new_id[number] for token, number in ids.items()}
    for entry in data["added_tokens"]:
        entry["id"] = new_id[entry["id"]]
    write_tokenizer_json(folder, data)
    edit_rows(folder, lambda rows: rows[order])
    for name in ("config.json", "generation_config.json"):
        edit_json(
            folder / name,
            lambda found: {
                key: new_id[value] if key.endswith("_token_id") else value
                for key, value in found.items()
            },
        )
    return order


def add_tokens(folder: Path, tokens: Sequence[str], seed: int = 0) -> None:
    """Give a tiny model further tokens, with random rows at the end."""
    data = read_tokenizer(folder)
    first = max(tokens_of(data).values()) + 1
    data["added_tokens"] += [
        {
            "id": first + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(tokens)
    ]
    write_tokenizer_json(folder, data)
    add_rows(folder, len(tokens), seed)


def add_rows(folder: Path, n: int, seed: int = 0) -> None:
    """Give a tiny model further rows, which no token names if none is added."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def longer(rows: torch.Tensor) -> torch.Tensor:
        more = torch.randn(n, rows.shape[1], generator=generator).to(rows.dtype)
        return torch.cat([rows, 0.3 * more])

    edit_rows(folder, longer)


def train_tokenizer(folder: Path, text: Sequence[str], vocab: int) -> None:
    """Write a byte-level tokenizer of exactly ``vocab`` tokens, learned from a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() == vocab, "give more text"
    tokenizer.save(str(folder / "tokenizer.json"))


def edit_rows(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change embedding and head of a tiny model, and tell its configuration."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    for name in (EMBED, HEAD):
        if name in tensors:
            tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    rows = len(tensors[EMBED])
    edit_json(folder / "config.json", lambda found: {**found, "vocab_size": rows})


def edit_json(
    file: Path, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Change a JSON file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(change(found), indent=2), encoding="utf-8")


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Read a ``tokenizer.json``."""
    data: dict[str, Any] = json.loads(
        (folder / "tokenizer.json").read_text(encoding="utf-8")
    )
    return data


def write_tokenizer_json(folder: Path, data: Mapping[str, Any]) -> None:
    """Write a ``tokenizer.json``."""
    text = json.dumps(data, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def tokens_of(data: Mapping[str, Any]) -> dict[str, int]:
    """Return every token of a byte-level tokenizer with its id."""
    added = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    return {**data["model"]["vocab"], **added}
