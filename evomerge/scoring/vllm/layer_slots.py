"""The layers of a living vLLM model as slots that run in any order.

vLLM runs ``for layer in islice(self.layers, start, end)``. The list of layers keeps its
modules and their names, so that loading and key-value caches know nothing of stacks;
only what it yields when it is iterated is the running stack. Compiled graphs would
freeze the first stack silently: eager mode is asserted. The output
head, which the CPU keeps a packed copy of, is refreshed here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evomerge.errors import WorkerError
from evomerge.merging.views.stored import Where
from evomerge.scoring.stacks.slots import FULL, Place
from evomerge.scoring.vllm.overwriting import MISFITS, Overwriting, misfit
from evomerge.scoring.weight_stream import WeightStream

_STREAM = ("hidden_states", "residual")
"""What decoder layers call the hidden state; the stream is the sum of both."""


class SlotList(nn.ModuleList):
    """A list of layers that yields the running stack; all else is untouched."""

    running: list[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.running)

    def __getitem__(self, index: Any) -> Any:
        # transformers' own models run ``self.layers[:n]``.
        return self.running if isinstance(index, slice) else super().__getitem__(index)


class Step:
    """A layer in its place: with another's cache, or with its input scaled."""

    def __init__(
        self, layer: Any, swaps: Sequence[tuple[Any, str, Any]], scale: float
    ) -> None:
        """Prepare a call.

        Args:
            layer: Whose weights run.
            swaps: Module, name of its attention, and the attention to use instead.
            scale: Factor on the hidden state that enters.
        """
        self._layer = layer
        self._swaps = swaps
        self._scale = scale
        names = list(inspect.signature(layer.forward).parameters)
        self._positions = {names.index(n): n for n in _STREAM if n in names}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        for parent, name, attention in self._swaps:
            parent._modules[name] = attention
        if self._scale != 1.0:
            args = tuple(
                self._scaled(value) if i in self._positions else value
                for i, value in enumerate(args)
            )
            kwargs = {
                name: self._scaled(value) if name in _STREAM else value
                for name, value in kwargs.items()
            }
        return self._layer(*args, **kwargs)

    def _scaled(self, value: Any) -> Any:
        return None if value is None else value * self._scale


class VllmLayerSlots:
    """The slots of a model that vLLM has loaded; ``LayerSlots`` has the promises."""

    def __init__(self, model: Any, vllm_config: Any, *, in_place: bool) -> None:
        """Take the layers over; until they are arranged, none runs.

        Args:
            model: As vLLM loaded it.
            vllm_config: As it was started.
            in_place: Unpack weights that the device would have packed.
        """
        from vllm.config import CompilationMode

        mode = vllm_config.compilation_config.mode
        assert mode == CompilationMode.NONE, f"stacks need eager mode, not {mode}"
        self._model = model
        self._config = vllm_config
        self._inner, self._layers = find_layers(model)
        self._slots: list[Any] = list(self._layers)
        self._attentions = [_attentions(layer) for layer in self._slots]
        text = vllm_config.model_config.hf_text_config
        self.kinds = _kinds(text, len(self._slots))
        within = set(self._layers.modules())
        self._ends = [
            module
            for module in model.modules()
            if module not in within and not list(module.children())
        ]
        if in_place:
            unpack(self._layers)
        self._overwriting = Overwriting.of(model)
        self.keeps = self._overwriting is None
        self._layers.__class__ = SlotList
        self.arrange([])

    def write(self, incoming: WeightStream, targets: Sequence[Where]) -> None:
        """Overwrite slots, the embedding or the head, in place."""
        from vllm.config import set_current_vllm_config

        self._give_back_attentions()
        modules = [self._slots[where] for where in targets if isinstance(where, int)]
        has_ends = len(modules) < len(targets)
        modules += self._ends if has_ends else []
        with set_current_vllm_config(self._config), torch.no_grad():
            if self._overwriting is None:
                self._reload(modules, incoming)
            else:
                self._overwriting.load(incoming)
            if has_ends:
                config = self._config.model_config
                refresh_tied_head(self._model, config, in_place=not self.keeps)

    def arrange(self, places: Sequence[Place]) -> None:
        """Run these slots in this order from now on."""
        # A layer that borrowed a cache would go on writing to it.
        self._give_back_attentions()
        borrowing = {place.slot for place in places if place.cache != place.slot}
        self._layers.running = [
            self._step(place, binds=place.slot in borrowing) for place in places
        ]
        if hasattr(self._inner, "start_layer"):
            self._inner.start_layer, self._inner.end_layer = 0, len(places)

    def _step(self, place: Place, *, binds: bool) -> Any:
        layer = self._slots[place.slot]
        if not binds and place.scale == 1.0:
            return layer
        own, other = self._attentions[place.slot], self._attentions[place.cache]
        swaps = [(a.parent, a.name, b.module) for a, b in zip(own, other, strict=True)]
        return Step(layer, swaps if binds else [], place.scale)

    def _give_back_attentions(self) -> None:
        """Put every attention back where vLLM made it, as loading needs it too."""
        for found in self._attentions:
            for one in found:
                setattr(one.parent, one.name, one.module)

    def _reload(self, modules: Sequence[Any], incoming: WeightStream) -> None:
        """Load these modules anew, one after another, into their present storage."""
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        for module in modules:
            initialize_layerwise_reload(module)
        try:
            self._model.load_weights(incoming)
        except MISFITS as error:
            raise misfit(error) from error
        finally:
            # Also after a failure: modules must leave the loading state.
            for module in modules:
                finalize_layerwise_reload(module, self._config.model_config)


@dataclass(frozen=True, slots=True)
class Held:
    """An attention, with its key-value cache, and where vLLM put it."""

    parent: Any
    name: str
    module: Any


def find_layers(model: Any) -> tuple[Any, Any]:
    """Return the module that runs the decoder layers, and their list.

    Raises:
        WorkerError: There is no such list.
    """
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and all(map(_attentions, child)):
                return module, child
    raise WorkerError(
        f"{type(model).__name__} has no list of layers that could run as a stack."
    )


def _attentions(layer: Any) -> list[Held]:
    from vllm.model_executor.layers.attention import Attention

    return [
        Held(parent, name, child)
        for parent in layer.modules()
        for name, child in parent.named_children()
        if isinstance(child, Attention)
    ]


def _kinds(config: Any, n_slots: int) -> tuple[str, ...]:
    listed = getattr(config, "layer_types", None)
    return tuple(listed) if listed else (FULL,) * n_slots


def unpack(layers: Any) -> None:
    """Give the linear maps of layers back the layout that a checkpoint has.

    On CPU vLLM packs them for oneDNN and drops what was loaded; the flag set here is
    its own, for maps that are not worth packing. The values are lost.
    """
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import (
        materialize_layer,
        restore_layer_on_meta,
    )

    for module in layers.modules():
        method = getattr(module, "quant_method", None)
        if not isinstance(method, UnquantizedLinearMethod):
            continue
        info = get_layerwise_info(module)
        restore_layer_on_meta(module, info)
        materialize_layer(module, info)
        if getattr(module, "bias", None) is not None:
            # Some packed kernels want it in float32.
            module.bias.data = module.bias.data.to(module.weight.dtype)
        module._cpu_skip_gemm_dispatch = True
        method.process_weights_after_loading(module)


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
    stale = in_place or getattr(text, "tie_word_embeddings", False)
    if stale and device_type() == "cpu":
        for head in _heads(model):
            head.quant_method.process_weights_after_loading(head)


def _heads(model: Any) -> list[Any]:
    """Return what the model speaks with, whatever it is called.

    Some classes have no head (Gemma 2, Cohere): they speak with their embedding.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    tables = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    return [table for table in tables if isinstance(table, ParallelLMHead)] or tables


def device_type() -> str:
    """Return what vLLM computes on, as torch names it."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)
