"""A model with a low-rank adapter laid over it: which part changes which tensor."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from evomerge.checkpoints.adapters.adapter import Adapter, Factors, Folding
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.model import Model
from evomerge.checkpoints.tokenizers.tokens import read_vocabulary
from evomerge.errors import CheckpointError


def fold(adapter: Adapter, base: Model) -> Folding:
    """Find the tensor of a base that each part of an adapter changes.

    Raises:
        CheckpointError: A part finds no tensor, or one of another shape: the adapter
            is for another base.
    """
    known = dict(base.tensors)
    layout = base.layout
    if base.tied:
        known[layout.head] = known[layout.embed]
    factors: dict[str, Factors] = {}
    for target, pair in adapter.factors.items():
        name = _find(adapter, base, target, pair.a.name, known)
        found = pair.shape_for(known[name].shape)
        _check_shape(adapter, base, pair.a.name, found, known[name])
        factors[name] = pair
    whole: dict[str, TensorInfo] = {}
    for target, info in adapter.whole.items():
        name = _find(adapter, base, target, info.name, known)
        _check_shape(adapter, base, info.name, info.shape, known[name])
        whole[name] = info
    ends = {layout.embed, layout.head} & {*factors, *whole}
    return Folding(factors, whole, unties=base.tied and bool(ends))


def _find(
    adapter: Adapter, base: Model, target: str, part: str, known: Iterable[str]
) -> str:
    """Return the base's name of a tensor; a bare decoder's names lack the prefix."""
    for name in (target, f"model.{target}"):
        if name in known:
            return name
    raise CheckpointError(
        f"{adapter.path}: the adapter is for another base: its {part!r} belongs to "
        f"{target!r}, which {base.path} does not have. Give the base it was trained on"
        f"{_said(adapter)}."
    )


def _check_shape(
    adapter: Adapter, base: Model, part: str, shape: tuple[int, ...], of: TensorInfo
) -> None:
    if shape != of.shape:
        raise CheckpointError(
            f"{adapter.path}: the adapter is for another base: its {part!r} changes a "
            f"tensor of shape {list(shape)}, but {of.name!r} of {base.path} has shape "
            f"{list(of.shape)}. Give the base it was trained on{_said(adapter)}; if "
            f"tokens were added in training{_added(adapter, of.shape[0])}, merge the "
            "adapter with PEFT and give the merged model."
        )


def _added(adapter: Adapter, rows: int) -> str:
    """Name the tokens of an adapter's own tokenizer that lie behind a base's rows."""
    with suppress(CheckpointError):
        ids = read_vocabulary(adapter.path).ids
        odd = [f"{t!r} ({i})" for t, i in ids.items() if i >= rows]
        return (
            f" ({', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''})" if odd else ""
        )
    return ""


def _said(adapter: Adapter) -> str:
    return f" (it names {adapter.base!r})" if adapter.base else ""
