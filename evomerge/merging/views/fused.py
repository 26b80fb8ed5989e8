"""Cut a fused tensor into the pieces it is merged by, and put them together again."""

from __future__ import annotations

import torch

from evomerge.checkpoints import Piece


def cut(tensor: torch.Tensor, piece: Piece | None) -> torch.Tensor:
    """Return a piece as the split model would store it; a copy only where it must be.

    Args:
        tensor: As stored: [rows, columns], [rows], or with the experts in front.
        piece: What to take; None for the tensor as it is.

    Returns:
        [out, in] or [out], contiguous.
    """
    if piece is None:
        return tensor
    window = _window(tensor, piece)
    return window.flatten(0, 1).contiguous()


def paste(whole: torch.Tensor, piece: Piece | None, merged: torch.Tensor) -> None:
    """Write a merged piece to its place, cast to the element type there.

    Args:
        whole: As stored, contiguous; written into.
        piece: Where to write; None for the whole tensor.
        merged: [out, in] or [out], or shaped like the whole tensor.
    """
    window = whole if piece is None else _window(whole, piece)
    window.copy_(merged.reshape(window.shape))


def _window(tensor: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Return the piece as a view: [groups, rows in each, ...]."""
    if piece.expert is not None:
        tensor = tensor[piece.expert]
    if piece.transposed:
        tensor = tensor.T
    rows = tensor.unflatten(0, (piece.groups, -1))
    return rows[:, piece.start : piece.stop]
