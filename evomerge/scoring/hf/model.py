"""A transformers model brought to life from a folder, and its layers as slots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from evomerge.checkpoints.layers.pieces import called, together
from evomerge.checkpoints.weights import left_over_keys
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    EvomergeError,
    Problem,
    SpecError,
    WorkerError,
)
from evomerge.merging.views.stored import Where
from evomerge.scoring.stacks.slots import FULL, Place, slot_kinds
from evomerge.scoring.weight_stream import WeightStream

DEFAULT_LENGTH = 2048
"""Used where neither the study nor the model's config gives a limit."""


def load_model(setup: WorkerSetup) -> Any:
    """Load the frame; with slots beyond its own layers, if stacks are to be run.

    Raises:
        SpecError: transformers does not know an option, or stacks are not proved on
            the frame's architecture.
        CheckpointError: The frame cannot be loaded.
        WorkerError: The machine failed.
    """
    from transformers import AutoModelForCausalLM

    settings = setup.engine
    folder = setup.sources[setup.frame]
    options = dict(settings.options)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    device = str(options.pop("device", default))
    try:
        if settings.stacks:
            options["config"] = _roomy(setup)
        elif left_over_keys(folder):
            options["config"] = _plain(folder)
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, settings.dtype),
                local_files_only=True,
                use_safetensors=True,
                **options,
            )
    except TypeError as error:  # unknown keywords reach the model's constructor
        unknown = [key for key in options if f"'{key}'" in str(error)]
        if not unknown:
            raise _unloadable(folder, error) from error
        raise SpecError(
            [
                Problem(
                    f"engine.options.{key}", "transformers does not know this option."
                )
                for key in unknown
            ]
        ) from error
    except _UNLOADABLE as error:
        raise _unloadable(folder, error) from error
    with machine_faults("load the frame"):
        return model.to(device).eval().requires_grad_(False)


_UNLOADABLE = (OSError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What transformers raises at a configuration that it cannot make a model of."""


def _unloadable(folder: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: transformers cannot load the model: {type(error).__name__}: "
        f"{error}. Compare its config.json with that of the model it was made from."
    )


def _plain(folder: str) -> Any:
    """Return a folder's configuration without what it says of packed weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for key in left_over_keys(folder):
        delattr(config, key)
    return config


def _roomy(setup: WorkerSetup) -> Any:
    """Return the frame's configuration with a layer for every slot."""
    kinds = slot_kinds(setup)
    config = _plain(setup.sources[setup.frame])
    config.num_hidden_layers = len(kinds)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = list(kinds)
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar, and no word of layers that a slot has and the frame has not."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_tokenizer(folder: str) -> Any:
    """Load a folder's tokenizer.

    Raises:
        CheckpointError: There is none, or it is broken.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"Cannot load a tokenizer from {folder}: {error}"
        ) from error


def distinct(model: Any) -> dict[str, torch.Tensor]:
    """Name every stored tensor once; a tied head goes by the embedding's name."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    state: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in tied}


def by_stored_name(
    tensors: Mapping[str, torch.Tensor], stored: Collection[str], family: str
) -> dict[str, torch.Tensor]:
    """Name a model's tensors as its folder does: experts apart where they lie apart.

    Args:
        tensors: As the loaded model has them; parts are handed out as views of these.
        stored: Names in the folder.
        family: The ``model_type`` of the configuration.
    """
    out = dict(tensors)
    for whole, members in together(stored, family).items():
        if (held := out.get(whole)) is None or len(members) % len(held):
            continue
        del out[whole]
        parts = len(members) // len(held)
        for i, name in enumerate(members):
            expert, part = divmod(i, parts)
            out[name] = held[expert].chunk(parts)[part]
    for name in stored:
        other = called(name, family)
        if name not in out and other in out:
            out[name] = out.pop(other)
    return out


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer."""
    found = {tokenizer.eos_token_id}
    declared = getattr(model.generation_config, "eos_token_id", None)
    found |= set(declared) if isinstance(declared, list) else {declared}
    return frozenset(token for token in found if token is not None)


def max_length(config: Any, settings: EngineSettings) -> int:
    """Return how many tokens a sequence may have, answer included."""
    text = config.get_text_config()
    # Without a limit (ALiBi) nothing is cut that the study asks for.
    own = getattr(text, "max_position_embeddings", None)
    own = own or max(DEFAULT_LENGTH, settings.max_model_len or 0)
    return min(own, settings.max_model_len or own)


@contextmanager
def machine_faults(doing: str) -> Iterator[None]:
    """Turn what torch raises when a machine fails into our own error."""
    try:
        yield
    except EvomergeError:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        raise WorkerError(f"The hf engine failed to {doing}: {error}") from error


class HfLayerSlots:
    """The slots of a transformers model; see ``LayerSlots`` for the promises."""

    keeps = False

    def __init__(self, model: Any, put: Callable[[str, torch.Tensor], None]) -> None:
        """Take the layers over; until they are arranged, none runs.

        Args:
            model: With a layer for every slot.
            put: Overwrites a tensor of the model by name.
        """
        self._put = put
        self._config = model.config
        self._decoder = model.get_decoder()
        self._slots: list[Any] = list(self._decoder.layers)
        listed = getattr(model.config, "layer_types", None)
        self.kinds = tuple(listed or [FULL] * len(self._slots))
        self._names_kinds = listed is not None

    def write(self, incoming: WeightStream, targets: Sequence[Where]) -> None:
        """Overwrite slots, the embedding or the head, in place."""
        for name, tensor in incoming:
            try:
                self._put(name, tensor)
            except RuntimeError as error:
                raise CandidateError(
                    f"The merged {name!r} does not fit the frame: {error}"
                ) from error

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
        if self._names_kinds:
            # transformers asks by place for the mask, the positions and the cache.
            self._config.layer_types = [self.kinds[place.slot] for place in places]


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

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on the hidden state."""
        layer: Any = self._layer
        layer.self_attn.layer_idx = self._index
        if self._scale != 1.0:
            hidden_states = hidden_states * self._scale
        return layer(hidden_states, *args, **kwargs)
