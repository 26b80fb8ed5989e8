"""A transformers model brought to life from a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from evomerge.checkpoints import read_model, restacked
from evomerge.checkpoints.configs.families import gives_reward
from evomerge.checkpoints.configs.nested import with_decoder
from evomerge.checkpoints.documents import read_json
from evomerge.checkpoints.weights import left_over_keys
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import (
    CheckpointError,
    EvomergeError,
    Problem,
    SpecError,
    WorkerError,
)
from evomerge.scoring.stacks.slots import FULL, misfit, slot_kinds

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
            model = _class_of(folder).from_pretrained(
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
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise _unloadable(folder, error) from error
    with machine_faults("load the frame"):
        return model.to(device).eval().requires_grad_(False)


def _class_of(folder: str) -> Any:
    """Return what loads a folder: the class it names, if that generates text.

    What a configuration's own class for text would leave out, such as a vision tower,
    is so part of the model, and text goes the way it goes in the published model.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    config = read_json(Path(folder) / "config.json")
    named = config.get("architectures") or []
    known = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    }
    if gives_reward(config):
        return transformers.AutoModelForSequenceClassification
    if "auto_map" not in config and len(named) == 1 and named[0] in known:
        return getattr(transformers, named[0])
    return transformers.AutoModelForCausalLM


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
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    own = [kind.attention or FULL for kind in model.layer_types]
    # Whatever is said layer by layer is said of each slot as of the first of its kind.
    layers = [own.index(kind) for kind in kinds]
    text = model.decoder
    try:
        said = restacked(text, [(text, i, model.layer_types[i]) for i in layers])
    except CheckpointError as error:
        why = str(error).split(". ")[0]
        raise misfit(f"holds layers of each kind in any order, but: {why}") from error
    with TemporaryDirectory() as folder:
        whole = json.dumps(with_decoder(model.config, said))
        (Path(folder) / "config.json").write_text(whole, encoding="utf-8")
        return _plain(folder)


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
