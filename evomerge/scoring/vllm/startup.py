"""How vLLM is started: its environment and its arguments.

vLLM reads its environment while it is imported, so it is imported in functions here,
after ``prepare_environment``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from evomerge.checkpoints import read_model
from evomerge.checkpoints.configs.families import position_limit
from evomerge.checkpoints.weights import left_over_keys
from evomerge.core.nearest import suggestion
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import Problem, SpecError
from evomerge.extras import installing
from evomerge.scoring.stacks.slots import slot_kinds
from evomerge.specs.completing.engine_options import OURS, STACK_OPTIONS

CPU_CACHE_BYTES = 64 << 20
"""Least memory for the key-value cache on CPU, where vLLM would take most of it."""

MEMORY_SHARE = 0.9
"""Of a GPU's memory that vLLM takes where it has one for itself."""

EXTENSION = "evomerge.scoring.vllm.worker.SwapExtension"

_ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Several engines on one machine must not fight over the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Eager engines gain nothing from compiling one helper for three seconds.
    "TORCHDYNAMO_DISABLE": "1",
}


def is_cpu() -> bool:
    """Tell whether vLLM will compute on the CPU."""
    return not torch.cuda.is_available()


def prepare_environment() -> None:
    """Set what vLLM reads while it is imported, unless the user has.

    Raises:
        SpecError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SpecError(
            [
                Problem(
                    "engine.kind",
                    f"vLLM is not installed: {installing('vllm')}; or choose "
                    "engine.kind: hf.",
                )
            ]
        )
    wanted = _ENVIRONMENT | (_CPU_ENVIRONMENT if is_cpu() else {})
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # Remarks of the libraries about each other, which nobody here can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def facts(settings: EngineSettings) -> dict[str, str]:
    """Return kind, versions, element type and device; vLLM need not run."""
    import vllm

    device = "cpu" if is_cpu() else torch.cuda.get_device_name(0)
    return {
        "kind": "vllm",
        "version": str(vllm.__version__),
        "torch": torch.__version__.partition("+")[0],
        "dtype": settings.dtype,
        "device": device,
    }


def arguments(setup: WorkerSetup) -> dict[str, Any]:
    """Return what ``vllm.LLM`` is started with; options win over our defaults.

    Raises:
        SpecError: vLLM has no argument of an option's name.
    """
    settings = setup.engine
    _check_options(settings)
    folder = setup.sources[setup.frame]
    own, per_token = _sizes(setup)
    length = min(own, (settings.max_model_len or own) + 1)
    found: dict[str, Any] = {
        "model": folder,
        "dtype": settings.dtype,
        "max_model_len": length,
        "max_num_seqs": settings.max_num_seqs,
        "seed": 0,
        # So that a request may ask for the probabilities of the whole vocabulary.
        "max_logprobs": -1,
        "load_format": "safetensors",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # Nobody shows it an image: towers need no memory.
        "language_model_only": True,
        "worker_extension_cls": EXTENSION,
    }
    cache_bytes = settings.kv_cache_bytes
    if is_cpu():
        found["enforce_eager"] = True
        cache_bytes = cache_bytes or max(CPU_CACHE_BYTES, (length + 256) * per_token)
    if cache_bytes is not None:
        found["kv_cache_memory_bytes"] = cache_bytes
    overrides: dict[str, Any] = dict.fromkeys(left_over_keys(folder))
    if settings.stacks:
        found |= _stack_arguments(setup)
        overrides |= found["hf_overrides"]
    if overrides:
        found["hf_overrides"] = overrides
    found |= _share_arguments(settings)
    asked_parts = {**found, **settings.options}.get("tensor_parallel_size", 1)
    if int(asked_parts) > 1:
        # Inside a Ray actor vLLM would start Ray workers of its own.
        found["distributed_executor_backend"] = "mp"
    options = dict(settings.options)
    if isinstance(asked := options.get("hf_overrides"), Mapping):
        options["hf_overrides"] = {**overrides, **asked}
    return found | options


def _share_arguments(settings: EngineSettings) -> dict[str, Any]:
    """Return what an engine takes of the GPUs that are reserved for it."""
    gpus = settings.gpus
    if gpus is None or is_cpu():
        return {}
    if gpus > 1:
        return {"tensor_parallel_size": int(gpus)}
    if 0 < gpus < 1:
        return {"gpu_memory_utilization": round(MEMORY_SHARE * gpus, 3)}
    return {}


def _stack_arguments(setup: WorkerSetup) -> dict[str, Any]:
    """Return what makes room for the slots; their weights come with the first swap."""
    from transformers import AutoConfig

    kinds = slot_kinds(setup)
    folder = setup.sources[setup.frame]
    text = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    overrides: dict[str, Any] = {"num_hidden_layers": len(kinds)}
    if getattr(text, "layer_types", None) is not None:
        overrides["layer_types"] = list(kinds)
    # A compiled graph would run the first stack for ever.
    return {
        "hf_overrides": overrides,
        "load_format": "dummy",
        "enforce_eager": True,
    }


def _check_options(settings: EngineSettings) -> None:
    from vllm.engine.arg_utils import EngineArgs

    known = set(EngineArgs.__dataclass_fields__)
    problems = []
    for name in settings.options:
        if name in OURS:
            message = OURS[name]
        elif settings.stacks and name in STACK_OPTIONS:
            message = f"Profile {settings.profile} decides this; leave it out."
        elif name not in known:
            hint = suggestion(name, known, "; ") or "."
            message = f"vLLM has no such argument{hint}"
        else:
            continue
        problems.append(Problem(f"engine.options.{name}", message))
    if problems:
        raise SpecError(problems)


def _sizes(setup: WorkerSetup) -> tuple[int, int]:
    """Return the frame's own length limit and the cache bytes of one token."""
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    config = model.config.get("text_config", model.config)
    heads = int(config.get("num_attention_heads", 1))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    width = int(
        config.get("head_dim") or int(config.get("hidden_size", heads)) // heads
    )
    item = torch.empty(0, dtype=getattr(torch, setup.engine.dtype)).element_size()
    n_layers = len(slot_kinds(setup)) if setup.engine.stacks else model.n_layers
    per_token = 2 * n_layers * kv_heads * width * item
    # Without a limit (ALiBi) nothing is cut that the study asks for.
    asked = max(2048, (setup.engine.max_model_len or 0) + 1)
    return position_limit(config) or asked, per_token
