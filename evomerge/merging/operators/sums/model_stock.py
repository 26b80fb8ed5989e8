"""Model Stock (Jang et al. 2024, 2403.19522): the mean, pulled towards the base.

The wider the angle between the inputs' differences, the more of them is noise and the
closer to the base the centre of all such models lies.
"""

from itertools import combinations

import torch

from evomerge.core.operators.derived import MEAN_COSINE
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas, row_totals, stacks, total
from evomerge.merging.operators.loops.order_statistics import row_length
from evomerge.merging.operators.sums.linear import weighted

_NO_RATIO = 1e-6
"""Below this the denominator of the ratio says nothing."""


def model_stock(inputs: Inputs) -> torch.Tensor | LazyMerge:
    """Return ``t * mean + (1 - t) * base``, t from the angles between differences.

    With more than two inputs the mean of their pairwise cosines stands for the one
    angle of the paper, as in mergekit.
    """
    settings = inputs.settings
    n, base = len(inputs.tensors), inputs.base
    assert base is not None
    by_row = settings.flag("filter_wise") and base.dim() > 1 and base.numel() > 0
    row = row_length(base.shape) if by_row else 0
    deltas = Deltas.of(inputs, multiple_of=row)
    everyone = range(n)
    cosines = deltas.recall(
        MEAN_COSINE.at(row), everyone, lambda: mean_cosine(deltas, row)
    )
    under = 1.0 + (n - 1) * cosines
    defined = under > _NO_RATIO if settings.flag("clamp") else under != 0.0
    ratios = n * cosines / torch.where(defined, under, 1.0)
    ratios = torch.where(defined, ratios, 0.0)
    if settings.flag("clamp"):
        ratios = ratios.clamp(0.0, 1.0)
    ratios = ratios * settings.number("t_scale")
    if not by_row:
        return weighted(inputs, (float(ratios) / n,) * n)
    mean = weighted(inputs, (1.0 / n,) * n).fresh()
    start = base.to(torch.float32)
    share = ratios.to(torch.float32).view(*base.shape[:-1], 1)
    return mean.sub_(start).mul_(share).add_(start)


def mean_cosine(deltas: Deltas, row: int) -> torch.Tensor:
    """Return the mean cosine between pairs of differences, fp64.

    A difference without length counts as orthogonal to all.

    Args:
        deltas: At least two.
        row: Length of the vectors that are compared; 0 for the whole tensor.

    Returns:
        Shape ``(rows,)``, or a single number for the whole tensor.
    """
    pairs = list(combinations(range(len(deltas)), 2))
    products = _products(deltas, row)
    cosines = []
    for i, j in pairs:
        lengths = (products[i, i] * products[j, j]).sqrt()
        known = lengths > 0.0
        cosine = products[i, j] / torch.where(known, lengths, 1.0)
        cosines.append(torch.where(known, cosine.clamp(-1.0, 1.0), 0.0))
    return torch.stack(cosines).mean(dim=0)


def _products(deltas: Deltas, row: int) -> dict[tuple[int, int], torch.Tensor]:
    """Return the dot products of all pairs, with themselves too, fp64."""
    pairs = [(i, j) for i in range(len(deltas)) for j in range(i, len(deltas))]
    start = torch.zeros((0,) if row else (), dtype=torch.float64, device=deltas.device)
    found = {pair: [start] for pair in pairs}
    for _, _, read in stacks(deltas):
        for i, j in pairs:
            product = read[i] * read[j]
            sums = row_totals(product.view(-1, row)) if row else total(product)
            found[i, j].append(sums)
    if row:
        return {pair: torch.cat(parts) for pair, parts in found.items()}
    return {pair: torch.stack(parts).sum() for pair, parts in found.items()}
