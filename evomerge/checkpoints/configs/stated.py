"""What ``config.json`` must say for a folder to be a model that can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoints.configs.families import LAYER_COUNTS
from evomerge.checkpoints.configs.nested import models_beside
from evomerge.errors import CheckpointError

_LAYERS = f"layers it has: expected one of {', '.join(LAYER_COUNTS)}."
_WHAT = {
    "vocab_size": "tokens it knows: expected vocab_size. One that reads characters "
    "(CANINE) has no embedding of tokens."
}


def stated_count(
    file: Path, config: Mapping[str, Any], decoder: Mapping[str, Any], key: str
) -> int:
    """Return a number that must be said, of layers or of tokens.

    Args:
        file: ``config.json``, for messages.
        config: The whole of it.
        decoder: What it says of the text decoder.
        key: Which number.

    Raises:
        CheckpointError: It is not said, or no whole number from 1 up.
    """
    value = decoder.get(key)
    if value is None:
        parts = models_beside(config)
        several = f" It describes several models ({', '.join(parts)})." if parts else ""
        raise CheckpointError(
            f"{file}: does not say how many {_WHAT.get(key, _LAYERS)}{several} Such a "
            "model is not supported; text decoder models as transformers saves them "
            "are."
        )
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{file}: {key} should be a whole number from 1 up, got "
            f"{value!r}. Only text decoder models are supported."
        )
    return value


def stated_vocabulary(
    file: Path, config: Mapping[str, Any], decoder: Mapping[str, Any]
) -> int:
    """Return the vocabulary of a decoder, which may be said of the whole instead."""
    beside = {"vocab_size": config.get("vocab_size")} if config != decoder else {}
    said = {key: value for key, value in decoder.items() if value is not None}
    # Of two vocabularies that of what is written counts.
    beside |= {"vocab_size": said["tgt_vocab_size"]} if "tgt_vocab_size" in said else {}
    return stated_count(file, config, beside | said, "vocab_size")


def stated_architecture(file: Path, config: Mapping[str, Any]) -> str:
    """Return the class that loads a model, or else its family.

    Raises:
        CheckpointError: Neither is named.
    """
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    if isinstance(config.get("model_type"), str):
        return str(config["model_type"])
    raise CheckpointError(
        f"{file}: names neither architectures nor a model_type, so nothing "
        "can load the model. Save it again with transformers."
    )
