"""The layers of a transformers model as slots that run in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from evomerge.core.work import WorkerSetup
from evomerge.errors import Problem, SpecError
from evomerge.merging.sources import Sources
from evomerge.merging.views.stored import Stored, Where
from evomerge.scoring.hf.in_place import InPlaceLoader
from evomerge.scoring.stacks.slots import FULL, Place, slot_kinds
from evomerge.scoring.weight_stream import WeightStream


def slot_shapes(setup: WorkerSetup, sources: Sources) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the frame's tensors, by stored names.

    Where stacks are run every slot has tensors, those of a layer of its kind.

    Raises:
        SpecError: Stacks are not proved on the frame's architecture.
        CheckpointError: The frame cannot be read.
    """
    model = sources.model(setup.frame)
    if not setup.engine.stacks:
        return {name: info.shape for name, info in model.tensors.items()}
    view = Stored(sources, setup.frame)
    own = [kind.attention or FULL for kind in model.layer_types]
    sections: list[tuple[Where, Where]] = [(at, at) for at in _AROUND]
    sections += [(i, own.index(kind)) for i, kind in enumerate(slot_kinds(setup))]
    return {
        model.layout.full_name(target, name): part.shape
        for target, where in sections
        for name, part in view.section(where).items()
    }


_AROUND: tuple[Where, ...] = ("embed", "head", "beside")


class HfLayerSlots:
    """The slots of a transformers model; see ``LayerSlots`` for the promises."""

    keeps = False

    def __init__(self, model: Any, loader: InPlaceLoader, kinds: Sequence[str]) -> None:
        """Take the layers over; until they are arranged, none runs.

        Args:
            model: With a layer for every slot.
            loader: Overwrites its tensors by name.
            kinds: The kind of attention in each slot.

        Raises:
            SpecError: Its layers are no list of its decoder.
        """
        self._loader = loader
        self._decoder = model.get_decoder()
        if not hasattr(self._decoder, "layers"):  # Llama 4 names itself
            self._decoder = getattr(self._decoder, "model", self._decoder)
        listed = getattr(self._decoder, "layers", None)
        if not isinstance(listed, nn.ModuleList) or len(listed) != len(kinds):
            raise SpecError([_no_list(model)])
        self._config = self._decoder.config
        self._slots: list[Any] = list(self._decoder.layers)
        self.kinds = tuple(kinds)
        # What the configuration says layer by layer, by the numbers of slots.
        self._listed = {
            key: list(value)
            for key, value in vars(self._config).items()
            if isinstance(value, list) and len(value) == len(self._slots)
        }

    def write(self, incoming: WeightStream, targets: Sequence[Where]) -> None:
        """Overwrite slots, the embedding or the head, in place."""
        self._loader.begin()
        for name, tensor in incoming:
            self._loader.put(name, tensor)
        self._loader.finish()

    def arrange(self, places: Sequence[Place]) -> None:
        """Run these slots in this order from now on.

        A key-value cache belongs to a place here, not to a slot, so a layer that
        repeats needs no other's.
        """
        steps = [
            Step(self._slots[place.slot], index, place.scale)
            for index, place in enumerate(places)
        ]
        self._decoder.layers = nn.ModuleList(steps)
        self._config.num_hidden_layers = len(steps)
        # transformers asks by place for the mask, the positions and the cache.
        for key, value in self._listed.items():
            setattr(self._config, key, [value[place.slot] for place in places])


def _no_list(model: Any) -> Problem:
    return Problem(
        "engine.profile",
        f"transformers' {type(model).__name__} does not run its layers as one list, "
        "which could be put in another order. Use profile: weights.",
    )


class Step(nn.Module):
    """A layer in its place: with the place's cache, and its input scaled."""

    def __init__(self, layer: Any, index: int, scale: float) -> None:
        """Prepare a call.

        Args:
            layer: Whose weights run; it may have several places.
            index: The place, by which the layer finds its cache.
            scale: Factor on the hidden state that enters.
        """
        super().__init__()
        # Not registered: the slots own their weights.
        object.__setattr__(self, "_layer", layer)
        self._index = index
        self._scale = scale

    def __getattr__(self, name: str) -> Any:
        """Say of the place what the layer says of itself, for example its type."""
        return getattr(self.__dict__["_layer"], name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on the hidden state."""
        layer: Any = self._layer
        # Attention and recurrent blocks alike find their cache by this number.
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = self._index
        if self._scale != 1.0:
            hidden_states = hidden_states * self._scale
        return layer(hidden_states, *args, **kwargs)
