"""Merged tensors written over a living vLLM model, without a second copy of it.

vLLM's own reload makes every module anew beside the old one: the incoming tensors are
kept until a module is complete, then comes fresh memory, then the packed form, then a
copy. Here a tensor is copied once, to where it is computed with. On CPU vLLM packs most
matrices and drops what was loaded; those pass through a buffer as large as one layer.

Only what is known to compute with nothing but what was loaded is written so: linear
maps and embeddings without quantisation, norms, plain attention. For other models
(mixtures, latent attention, quantised ones) vLLM's reload stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch

from evomerge.errors import CandidateError, WorkerError

Named = tuple[str, torch.Tensor]


MISFITS = (KeyError, ValueError, AssertionError, RuntimeError)
"""What vLLM's loaders raise at a tensor that does not fit."""


def misfit(error: Exception) -> CandidateError:
    """Say in our words that a tensor does not fit."""
    return CandidateError(f"The merged tensors do not fit the frame: {error!r}")


class Overwriting:
    """Loads tensors into a model's own storage, a layer at a time."""

    def __init__(self, model: Any, packed: Iterable[Any]) -> None:
        """Take a model whose modules have been looked at; see ``of``.

        Args:
            model: As vLLM loaded it.
            packed: Its linear maps that hold a packed copy of what was loaded.
        """
        self._model = model
        self._packed = list(packed)
        self._buffers: dict[Any, list[torch.Tensor]] = {}
        self._open: dict[Any, torch.Tensor] = {}
        self._written: set[Any] = set()

    @classmethod
    def of(cls, model: Any) -> Overwriting | None:
        """Return a way into a model; None where vLLM's own reload is needed."""
        kinds = {module: _kind(module) for module in model.modules()}
        if OTHER in kinds.values():
            return None
        return cls(model, (module for module, kind in kinds.items() if kind == PACKED))

    def load(self, incoming: Iterable[Named]) -> set[str] | None:
        """Copy tensors in.

        Args:
            incoming: Checkpoint names and tensors, layer by layer; a tensor is done
                with when the next one is asked for.

        Returns:
            The parameters that were written, by the model's names for them; None
            where it does not say.

        Raises:
            CandidateError: A tensor does not fit.
        """
        self._written.clear()
        for module in self._packed:
            module.weight = self._placeholder(module)
        try:
            written = self._model.load_weights(self._packing(incoming))
            self._pack()
        except MISFITS as error:
            raise misfit(error) from error
        finally:
            self._close()
        return None if written is None else set(written)

    def _packing(self, incoming: Iterable[Named]) -> Iterator[Named]:
        for _, tensors in groupby(incoming, lambda named: _layer_of(named[0])):
            yield from tensors
            self._pack()

    def _placeholder(self, module: Any) -> Any:
        """Return a parameter of no size that loads into the module's buffer."""
        found = _as_stored(module)
        load = found.weight_loader

        def into_buffer(_: Any, *args: Any, **kwargs: Any) -> Any:
            if module not in self._open:
                self._open[module] = self._buffer(module, found)
            return load(self._open[module], *args, **kwargs)

        found.weight_loader = into_buffer
        return found

    def _buffer(self, module: Any, like: Any) -> Any:
        if module in self._written:
            raise WorkerError("The tensors of one layer came in two parts.")
        self._written.add(module)
        free = self._buffers.setdefault((like.shape, like.dtype), [])
        data = free.pop() if free else torch.empty(like.shape, dtype=like.dtype)
        data.__class__ = like.__class__
        data.__dict__ = like.__dict__.copy()
        return data

    def _pack(self) -> None:
        """Let vLLM pack what is complete, and take the buffers back."""
        for module, loaded in self._open.items():
            module.weight = loaded
            # The old copy's memory can be used for the new one.
            module.cpu_linear = None
            module.quant_method.process_weights_after_loading(module)
            self._buffers[loaded.shape, loaded.dtype].append(loaded.data)
        self._open.clear()

    def _close(self) -> None:
        """Leave no placeholder behind, whatever happened."""
        self._open.clear()
        for module in self._packed:
            if module.weight.is_meta:
                empty = torch.empty(0, dtype=module.weight.dtype)
                module.weight = torch.nn.Parameter(empty, requires_grad=False)


AS_STORED, PACKED, OTHER = "as stored", "packed", "other"


def _kind(module: Any) -> str:
    """Tell how a module keeps what was loaded into it."""
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        UnquantizedEmbeddingMethod,
    )

    plain = UnquantizedLinearMethod | UnquantizedEmbeddingMethod | None
    derives = hasattr(module, "process_weights_after_loading")
    if isinstance(module, Attention):
        return AS_STORED
    if derives or not isinstance(getattr(module, "quant_method", None), plain):
        return OTHER
    wanted = _stored_shapes(module)
    held = {
        name: (parameter.shape, parameter.dtype)
        for name, parameter in module.named_parameters(recurse=False)
        if name in wanted
    }
    if held == wanted:
        return AS_STORED if _is_flat(wanted) else OTHER
    others = {name for name in wanted if held.get(name) != wanted[name]}
    is_packed = others == {"weight"} and not module.weight.numel()
    return PACKED if is_packed and len(wanted["weight"][0]) == 2 else OTHER


def _layer_of(name: str) -> str:
    """Return what comes before a tensor's own name in its layer; else nothing."""
    found = re.match(r".*?\.\d+\.", name)
    return found.group() if found else ""


def _is_flat(shapes: dict[str, Any]) -> bool:
    # Kernels of convolutions are packed in place, and keep their shape.
    return all(len(shape) <= 2 for shape, _ in shapes.values())


def _stored_shapes(module: Any) -> dict[str, tuple[Any, Any]]:
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    parameters, _ = get_layerwise_info(module).restore_metadata
    return {name: (found.shape, found.dtype) for name, found in parameters.items()}


def _as_stored(module: Any) -> Any:
    """Return a module's weight as a checkpoint has it, without memory."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs

    kept = get_layerwise_info(module).restore_metadata[0]["weight"]
    found = kept.data
    found.__class__ = kept.__class__
    found.__dict__ = kept.__dict__.copy()
    return restore_layer_refs(found, module)
