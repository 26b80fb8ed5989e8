"""Mixtures assembled from dense models, as mergekit-moe's files describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.api.means import Means, Progress
from evomerge.checkpoints import Model
from evomerge.core.mixture import DRAWN, Mixture
from evomerge.errors import CheckpointError
from evomerge.logs import say
from evomerge.specs.mergekit.mixture import OpenedMixture
from evomerge.steps import BYTES, step

if TYPE_CHECKING:
    import torch

    from evomerge.merging.output.writer import Written
    from evomerge.merging.sources import Sources


def assemble(
    opened: OpenedMixture,
    out: Path,
    *,
    means: Means,
    progress: Progress | None = None,
) -> Written:
    """Assemble a mixture and write it as a model folder, with a card.

    Args:
        opened: What is assembled, with its models.
        out: Folder to make.
        means: How it is computed and written.
        progress: Told written bytes and all bytes.

    Raises:
        CheckpointError: A model cannot be opened, or the base cannot be run.
        CandidateError: The weights are not finite.
        ExportError: The folder exists, or cannot be written.
        SetupError: There is no such device, or not enough memory.
    """
    from evomerge.api.models.provenance import described, versions
    from evomerge.export.mixture_card import mixture_card
    from evomerge.export.model import CARD_NAME
    from evomerge.merging.devices import check_device, on_threads
    from evomerge.merging.memory import check_memory, saying_memory_ran_out
    from evomerge.merging.output.mixture_writer import Assembly, write_mixture
    from evomerge.merging.routers import hard_to_tell
    from evomerge.merging.sources import Sources

    say(opened.warnings)
    mixture = opened.mixture
    if means.dtype is not None:
        mixture = replace(mixture, dtype=means.dtype)
    check_device(means.device)
    with (
        on_threads(means.threads),
        Sources(opened.folders, device=means.device) as sources,
        saying_memory_ran_out(),
    ):
        with step("working out the router"):
            rows = _rows(mixture, opened.models, sources, means.device)
        alike = hard_to_tell(rows)
        say(_degenerate(alike, rows.shape[0]))
        assembly = Assembly(mixture, sources, rows)
        for recipe in assembly.recipes:
            check_memory(recipe, sources, means.memory_bytes)
        parents = described(mixture.parents, opened.models)
        text = mixture_card(out.name, mixture, parents, versions(), alike)
        with step("assembling and writing", unit=BYTES) as now:
            return write_mixture(
                assembly,
                out,
                shard_bytes=means.shard_bytes,
                texts={CARD_NAME: text},
                progress=progress or now.to,
            )


def _rows(
    mixture: Mixture, models: Mapping[str, Model], sources: Sources, device: str
) -> torch.Tensor:
    from evomerge.merging.routers import drawn_rows, rows_of_states

    base = models[mixture.base]
    if mixture.gate in DRAWN:
        width = base.tensors[base.layout.embed].shape[1]
        shape = (base.n_layers, len(mixture.routed), width)
        return drawn_rows(mixture.gate, shape, mixture.seed)
    groups = [prompts for e in mixture.routed for prompts in (e.positive, e.negative)]
    states = _states(mixture, base, groups, sources, device)
    positive = [one for one in states[::2] if one is not None]
    return rows_of_states(positive, states[1::2])


def _states(
    mixture: Mixture,
    base: Model,
    groups: Sequence[Sequence[str]],
    sources: Sources,
    device: str,
) -> list[torch.Tensor | None]:
    """Return what each group of prompts leads to; None for an empty one."""
    from evomerge.merging.routers import cheap_states
    from evomerge.scoring.hf.hidden_states import LayerInputs, tokens_of
    from evomerge.specs.sources import dtype_of

    folder = str(base.path)
    if base.adapter is not None:
        raise CheckpointError(
            f"{folder}: the router is made with the base, which has an adapter here. "
            "Merge it first, and name the merged model as base_model."
        )
    tokens = tokens_of(folder, groups)
    for prompts, cut in zip(groups, tokens, strict=True):
        _refuse_unknown(prompts, cut, base)
    if mixture.gate == "cheap_embed":
        embedding = sources.tensor(base.fingerprint, base.layout.embed)
        return [
            cheap_states(embedding, one, base.n_layers) if one else None
            for one in tokens
        ]
    model = LayerInputs(folder, dtype_of(base), device)
    average = mixture.gate == "hidden_avg"
    return [model.mean(one, average=average) if one else None for one in tokens]


def _refuse_unknown(
    prompts: Sequence[str], tokens: Sequence[Sequence[int]], base: Model
) -> None:
    for prompt, cut in zip(prompts, tokens, strict=True):
        if not cut or max(cut) >= base.vocab_size:
            raise CheckpointError(
                f"{base.path}: its tokenizer makes of the prompt {prompt!r} "
                f"{'no token' if not cut else 'a token that the model lacks'}."
            )


def _degenerate(alike: Sequence[int], n_layers: int) -> list[str]:
    if not alike:
        return []
    if len(alike) == n_layers:
        where = "in every layer"
    else:
        where = "in layers " + ", ".join(map(str, alike))
    return [
        f"The router hardly tells experts apart {where}: the condition number of its "
        "rows is above 5. Take prompts that differ more, or train the result."
    ]
