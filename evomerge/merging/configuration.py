"""The configuration of a merged model: its frame's, and what the merge changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.checkpoints import LayerType, restacked
from evomerge.errors import CheckpointError, RecipeError


def rewritten(
    frame: Mapping[str, Any],
    layers: Sequence[tuple[dict[str, Any], int, LayerType]],
    *,
    tied: bool,
    dtype: str,
) -> dict[str, Any]:
    """Return the frame's configuration as the merged model needs it.

    Args:
        frame: The frame's.
        layers: Whose configuration, index and type each layer of the merge has.
        tied: The head is the embedding.
        dtype: Element type of the weights.

    Raises:
        RecipeError: The layers make no model that the frame's family can express.
    """
    try:
        config = restacked(frame, layers)
    except CheckpointError as error:
        raise RecipeError(str(error)) from error
    config["tie_word_embeddings"] = tied
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    # Code of its own does not travel with the weights.
    config.pop("auto_map", None)
    return config
