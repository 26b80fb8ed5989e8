"""Adapters whose factors can be averaged: one model under all, and shapes that agree.

``(sum w_i B_i)(sum w_i A_i)`` exists where every A has one shape and every B another;
an adapter that leaves a tensor alone counts as a pair of zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evomerge.checkpoints.adapters.adapter import Factors, Folding
from evomerge.core.recipes.recipe import Adapted, Input

_WRITTEN = "model+adapter"


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
