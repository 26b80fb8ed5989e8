"""TSV-M (Gargiulo et al. 2024): leading singular vectors of all tasks, made orthogonal.

``D_i = U_i S_i V_i^T`` is cut to its leading triplets, these are set side by side, and
``U``, ``V`` are replaced by the nearest orthogonal matrices: ``polar(U) S polar(V)^T``.
"""

from collections.abc import Sequence

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    by_matrix,
    is_matrix,
    mean_delta,
    polar,
)
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo
from evomerge.merging.operators.thresholds.sparsify import keep_count


def tsv(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Merge the leading singular triplets of each input's difference.

    Vectors get the mean difference.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    assert base is not None
    weights = settings.numbers("weight")
    if not is_matrix(base):
        return mean_delta(settings, tensors, base, weights)
    part = settings.number("rank_frac")

    def merge(matrices: Matrices) -> torch.Tensor:
        keep = keep_count(part, matrices.smaller_side)
        tasks = [matrices.svd(i).top(keep) for i in range(len(tensors))]
        values = [task.values * w for task, w in zip(tasks, weights, strict=True)]
        left = polar(torch.cat([task.left for task in tasks], dim=1), matrices.key)
        right = polar(torch.cat([task.right for task in tasks]), matrices.key)
        return (left * torch.cat(values)) @ right

    return by_matrix(settings, tensors, base, key, merge, memo)
