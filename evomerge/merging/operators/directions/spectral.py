"""Methods on the spectra of differences: TSV-M, ISO-C and ISO-CTS.

TSV-M (Gargiulo et al. 2024) cuts ``D_i = U_i S_i V_i^T`` to its leading triplets, sets
these side by side, and replaces ``U``, ``V`` by the nearest orthogonal matrices:
``polar(U) S polar(V)^T``. ISO-C (Marczak et al. 2025) keeps the singular vectors of the
summed differences and gives all of them the mean singular value. ISO-CTS keeps the
leading ones of the sum, fills the rest with what each input adds outside them, and
flattens that.
"""

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.directions.singular_vectors import (
    FLOOR,
    Matrices,
    Svd,
    by_matrix,
    is_matrix,
    mean_delta,
    polar,
    svd,
)
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.thresholds.sparsify import keep_count


def tsv(inputs: Inputs) -> torch.Tensor:
    """Merge the leading singular triplets of each input's difference.

    Vectors get the mean difference.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    weights = inputs.settings.numbers("weight")
    if not is_matrix(inputs.tensors[0]):
        return mean_delta(inputs, weights)
    part = inputs.settings.number("rank_frac")

    def merge(matrices: Matrices) -> torch.Tensor:
        keep = keep_count(part, matrices.smaller_side)
        tasks = [matrices.svd(i).top(keep) for i in matrices.everyone]
        values = [task.values * w for task, w in zip(tasks, weights, strict=True)]
        left = polar(torch.cat([task.left for task in tasks], dim=1), matrices.key)
        right = polar(torch.cat([task.right for task in tasks]), matrices.key)
        return (left * torch.cat(values)) @ right

    return by_matrix(inputs, merge)


def iso_c(inputs: Inputs) -> torch.Tensor:
    """Flatten the spectrum of the summed differences: ``mean(S) U V^T``.

    Vectors get the mean difference.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    weights = inputs.settings.numbers("weight")
    if not is_matrix(inputs.tensors[0]):
        return mean_delta(inputs, weights)

    def merge(matrices: Matrices) -> torch.Tensor:
        return flat(inputs.settings, matrices.total_svd(weights), matrices.smaller_side)

    return by_matrix(inputs, merge)


def iso_cts(inputs: Inputs) -> torch.Tensor:
    """Flatten the common directions of the sum together with each input's own.

    Vectors get the mean difference.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    settings = inputs.settings
    weights = settings.numbers("weight")
    if not is_matrix(inputs.tensors[0]):
        return mean_delta(inputs, weights)
    part = settings.number("common_frac")

    def merge(matrices: Matrices) -> torch.Tensor:
        common, own = sizes(matrices.smaller_side, len(weights), part)
        shared = matrices.total_svd(weights).top(common)
        blocks = [shared]
        if own:
            blocks += [
                _own(matrices, i, shared, weight, own)
                for i, weight in enumerate(weights)
            ]
        left = polar(torch.cat([block.left for block in blocks], dim=1), matrices.key)
        right = polar(torch.cat([block.right for block in blocks]), matrices.key)
        values = torch.cat([block.values for block in blocks])
        return left @ right * _level(settings, values, matrices.smaller_side)

    return by_matrix(inputs, merge)


def sizes(rank: int, n_inputs: int, part: float) -> tuple[int, int]:
    """Return how many directions are common and how many each input adds.

    What does not divide evenly goes to the common ones; never less than none of them.
    """
    own = round((rank - keep_count(part, rank)) / n_inputs)
    own = min(own, rank // n_inputs)
    return rank - own * n_inputs, own


def flat(settings: Settings, found: Svd, rank: int) -> torch.Tensor:
    """Return the matrix with its singular values set to their mean.

    Args:
        settings: Read for ``mean_over``.
        found: The matrix, decomposed.
        rank: The largest rank there can be.
    """
    return found.left @ found.right * _level(settings, found.values, rank)


def _own(matrices: Matrices, index: int, shared: Svd, weight: float, n: int) -> Svd:
    """Return the leading directions of an input outside the common ones."""
    delta = matrices.deltas[index] * weight
    outside = delta - shared.left @ (shared.left.T @ delta)
    # What is left of a difference that lies inside is rounding, of one kind or another.
    noise = max(matrices.noise[index] * abs(weight), FLOOR * float(delta.norm()))
    return svd(outside, matrices.key, noise=noise).top(n)


def _level(settings: Settings, values: torch.Tensor, rank: int) -> float:
    """Return the mean singular value, over all there could be or over those there."""
    n = len(values) if settings.choice("mean_over") == "nonzero" else rank
    return float(values.sum()) / n if n else 0.0
