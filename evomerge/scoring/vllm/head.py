"""The output head on CPU, where it keeps a packed copy of its matrix."""

from __future__ import annotations

from typing import Any


def refresh_tied_head(model: Any, config: Any, *, in_place: bool = False) -> None:
    """Repack the head on CPU after its matrix was overwritten.

    Without this the engine answers with the last candidate's head, silently. On GPU
    the matrix itself is used, and nothing is to be done.

    Args:
        model: As vLLM loaded it.
        config: vLLM's model config.
        in_place: The head's own matrix was overwritten without vLLM's knowledge;
            otherwise only a tied one needs this.
    """
    text = config.hf_config.get_text_config()
    head = getattr(model, "lm_head", None)
    stale = in_place or getattr(text, "tie_word_embeddings", False)
    if stale and head is not None and device_type() == "cpu":
        head.quant_method.process_weights_after_loading(head)


def device_type() -> str:
    """Return what vLLM computes on, as torch names it."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)
