"""A low-rank adapter laid over a model: what it changes, and which can be averaged.

``(sum w_i B_i)(sum w_i A_i)`` exists where all adapters have one model under them,
every A has one shape and every B another; an adapter that leaves a tensor alone counts
as a pair of zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from evomerge.checkpoints.adapters.adapter import Adapter, Factors, Folding
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.model import Model
from evomerge.checkpoints.tokenizers.tokenizer import read_vocabulary
from evomerge.core.recipes.recipe import Adapted, Input
from evomerge.errors import CheckpointError

_WRITTEN = "model+adapter"


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


def explain_unlike(
    inputs: Mapping[str, Input], folding: Callable[[str], Folding]
) -> list[str]:
    """Say why the factors of these inputs' adapters cannot be averaged.

    Args:
        inputs: What a recipe calls them, by name.
        folding: Gives, by an input's name, its adapter laid over its model.

    Returns:
        One sentence for each reason; empty where they can.
    """
    bare = [name for name, source in inputs.items() if not isinstance(source, Adapted)]
    if bare:
        return [
            f"{', '.join(map(repr, bare))}: no {_WRITTEN}, or not as it is stored; "
            "factors belong to adapters."
        ]
    models = {
        name: source.fingerprint
        for name, source in inputs.items()
        if isinstance(source, Adapted)
    }
    (first, model), *_ = models.items()
    other = [name for name, one in models.items() if one != model]
    if other:
        return [
            f"{', '.join(map(repr, other))}: another model than that of {first!r} "
            "under the adapter."
        ]
    return _compare({name: folding(name) for name in inputs})


def _compare(foldings: Mapping[str, Folding]) -> list[str]:
    """Compare what adapters of one model change; of each the first that is unlike."""
    wanted: dict[str, tuple[str, Factors]] = {}
    for name, one in foldings.items():
        for target, pair in one.factors.items():
            wanted.setdefault(target, (name, pair))
    out: list[str] = []
    for name, one in foldings.items():
        unlike = [
            said
            for target, (first, pair) in wanted.items()
            if (said := _unlike(one, target, first, pair))
        ]
        if unlike:
            more = f" ({len(unlike) - 1} more)" if unlike[1:] else ""
            out.append(f"{name!r}: {unlike[0]}{more}.")
    return out


def _unlike(one: Folding, target: str, first: str, wanted: Factors) -> str | None:
    if target in one.whole:
        return f"replaces {target!r}, for which {first!r} has factors"
    found = one.factors.get(target)
    if found is None or _shapes(found) == _shapes(wanted):
        return None
    return f"{_shapes(found)} for {target!r}, for which {first!r} has {_shapes(wanted)}"


def _shapes(pair: Factors) -> str:
    return f"A {list(pair.a.shape)} and B {list(pair.b.shape)}"
