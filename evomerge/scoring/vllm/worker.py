"""What runs inside vLLM's worker: merge there, and write over the living weights.

Only the recipe's JSON crosses the process border. Each worker (tensor-parallel rank)
merges full tensors one at a time; vLLM's own loader shards, fuses and repacks them,
and copies into the storage the engine already computes with, so that compiled graphs
stay valid. The driver's side is ``engine``.

Method names carry a prefix because vLLM mixes this class into its worker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

import torch

from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    RecipeError,
    WorkerError,
)
from evomerge.merging.sources import Sources
from evomerge.scoring.engine import SwapReport
from evomerge.scoring.stacks.swap import StackSwap
from evomerge.scoring.vllm.classes import serve_without_torchvision
from evomerge.scoring.vllm.layer_slots import (
    VllmLayerSlots,
    find_layers,
    refresh_tied_head,
    unpack,
)
from evomerge.scoring.vllm.overwriting import MISFITS, Overwriting, misfit
from evomerge.scoring.vllm.requests import score_in_one_batch
from evomerge.scoring.weight_stream import WeightStream

# vLLM imports this module in every worker before it loads the model.
serve_without_torchvision()


class SwapExtension:
    """Mixed into vLLM's worker by ``worker_extension_cls``."""

    model_runner: Any
    model_config: Any
    vllm_config: Any

    def evomerge_prepare(
        self,
        sources: Mapping[str, str],
        frame: str,
        cache_dir: str,
        *,
        stacks: bool = False,
        in_place: bool = False,
    ) -> None:
        """Ready the worker for swaps; called once, after the cold load.

        Args:
            sources: Fingerprint to folder.
            frame: Fingerprint of the parent that was loaded.
            cache_dir: Where fingerprints are remembered.
            stacks: Candidates are stacks of layers; the model holds nothing yet.
            in_place: Keep weights unpacked; they are lost until the next swap.
        """
        self._evomerge_sources = Sources(sources, cache_dir=cache_dir)
        self._evomerge_frame = frame
        self._evomerge_stack: StackSwap | None = None
        model = self.model_runner.get_model()
        _refuse_lost_biases(model)
        if stacks:
            self._evomerge_stack = StackSwap(
                VllmLayerSlots(model, self.vllm_config, in_place=in_place),
                self._evomerge_sources,
                frame,
                self.model_config.dtype,
            )
        else:
            if in_place:
                unpack(find_layers(model)[1])
            self._evomerge_overwriting = Overwriting.of(model)
        _hush_reload_warnings()
        score_in_one_batch(self.model_runner)

    def evomerge_swap(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a recipe straight into the living model.

        Args:
            recipe: Its plain form.

        Returns:
            ``materialise_s``, ``swap_s``, ``size_bytes``; or ``candidate_error`` or
            ``machine_error`` with a message, because exceptions lose their type
            between processes.
        """
        try:
            return asdict(self._evomerge_swap(Recipe.from_json(recipe)))
        except (CandidateError, RecipeError) as error:
            return {"candidate_error": str(error)}
        except CheckpointError as error:
            return {"machine_error": f"A parent cannot be read here: {error}"}

    def _evomerge_swap(self, recipe: Recipe) -> SwapReport:
        from vllm.config import set_current_vllm_config

        if self._evomerge_stack is not None:
            return self._evomerge_stack.swap(recipe)
        started = perf_counter()
        model = self.model_runner.get_model()
        overwriting = self._evomerge_overwriting
        incoming = WeightStream.of(
            recipe,
            self._evomerge_sources,
            self._evomerge_frame,
            self.model_config.dtype,
            reuse=overwriting is not None,
        )
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            if overwriting is None:
                _reload(model, self.model_config, incoming)
            elif (written := overwriting.load(incoming)) is None:
                # It does not say what it loads; vLLM's reload finds gaps itself.
                self._evomerge_overwriting = None
                return self._evomerge_swap(recipe)
            else:
                _require_all(model, written)
            in_place = overwriting is not None
            refresh_tied_head(model, self.model_config, in_place=in_place)
        total = perf_counter() - started
        waited = incoming.materialise_s
        return SwapReport(waited, total - waited, incoming.size_bytes)


_NOTHING_FOR = (
    "The merge gives nothing for {} ({} in all): its layers do not match the frame's."
)


def _refuse_lost_biases(model: Any) -> None:
    """Refuse a mixture that vLLM would score as another one.

    Its router for CPUs adds the bias that corrects how often experts are chosen only
    where it chooses among groups, or by another function than the softmax; elsewhere it
    leaves the bias out without a word (0.32). The self-test cannot see that: a cold
    load is as wrong as a swap.

    Raises:
        WorkerError: There is such a router.
    """
    for name, module in model.named_modules():
        router = getattr(module, "router", None)
        if (
            router is not None
            and type(router).__name__ == "CPURouter"
            and router.e_score_correction_bias is not None
            and not router.use_grouped_topk
            and router.scoring_func == "softmax"
            and router.custom_routing_function is None
        ):
            raise WorkerError(
                f"vLLM's CPU build leaves the correction bias of {name}'s router out, "
                "so it would score another model than this. Use engine.kind: hf, or a "
                "GPU."
            )


def _reload(model: Any, config: Any, incoming: WeightStream) -> None:
    """Load the whole model anew, layer by layer, into its present storage."""
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    _pack_anew(model)
    initialize_layerwise_reload(model)
    try:
        try:
            model.load_weights(incoming)
        except MISFITS as error:
            raise misfit(error) from error
        missing = _untouched(model)
    finally:
        # Also after a failure: modules must leave the loading state. What is half
        # written then is overwritten by the next swap, which rewrites everything.
        finalize_layerwise_reload(model, config)
    if missing:
        raise CandidateError(_NOTHING_FOR.format(missing[0], len(missing)))


def _require_all(model: Any, written: set[str]) -> None:
    missing = sorted({name for name, _ in model.named_parameters()} - written)
    if missing:
        raise CandidateError(_NOTHING_FOR.format(missing[0], len(missing)))


def _pack_anew(model: Any) -> None:
    """Let what vLLM packs once be packed again when it is loaded, on a CPU.

    It packs the experts of a mixture only where it makes their kernel; a reload would
    write them unpacked into the packed ones' storage. It drops the matrix that latent
    attention was packed from, so that a reload would have nowhere to write it.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    if next(model.parameters()).device.type != "cpu":
        return
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None
        if getattr(module, "is_amx_bmm_enabled", False):
            source = module.kv_b_proj
            stored = get_layerwise_info(source).restore_metadata[0]["weight"]
            room = torch.empty(stored.shape, dtype=stored.dtype)
            source.weight = torch.nn.Parameter(room, requires_grad=False)


def _untouched(model: Any) -> list[str]:
    """Name the modules with weights that the reload has not reached."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    tied = _tied_head(model)
    untouched = []
    for name, module in model.named_modules():
        info = get_layerwise_info(module)
        has_weights = any(True for _ in module.parameters(recurse=False))
        waiting = info.can_load() and info.load_numel <= 0
        if has_weights and waiting and module is not tied:
            untouched.append(name)
    return untouched


def _tied_head(model: Any) -> Any:
    """Return the head whose matrix is the embedding's, if there is one."""
    config = getattr(model, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return None
    return getattr(model, "lm_head", None)


def _hush_reload_warnings() -> None:
    """Drop "Failed to load weights", logged per swap for rotary tables.

    They have no checkpoint entry; ``_untouched`` watches the modules that do.
    """
    name = "vllm.model_executor.model_loader.reload.layerwise"
    logging.getLogger(name).addFilter(
        lambda record: "Failed to load weights" not in str(record.msg)
    )
