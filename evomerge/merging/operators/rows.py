"""The order of entries within each row of a tensor, largest first.

Of equals, those that come first count as larger, as everywhere.
"""

from collections.abc import Sequence

import torch


def row_length(shape: Sequence[int]) -> int:
    """Return how many entries a row has; a vector is one row, so is a number."""
    return shape[-1] if len(shape) else 1


def ranks(sizes: torch.Tensor) -> torch.Tensor:
    """Return each entry's rank in its row: 0 for the smallest.

    Args:
        sizes: Shape ``(rows, length)``.

    Returns:
        Same shape, int64.
    """
    length = sizes.shape[1]
    order = torch.argsort(sizes, dim=1, descending=True, stable=True)
    places = torch.arange(length - 1, -1, -1, device=sizes.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
