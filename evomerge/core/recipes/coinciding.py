"""Operators that are one another with certain knobs, or with a single input."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.core.digest import Scalar
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.rewriting import (
    Knobs,
    Rewritten,
    Rule,
    base_alone,
    becomes,
    copy_of,
    same_but,
)
from evomerge.core.recipes.settings import Settings

_PLAIN_SUM: Knobs = {"lambda": 1.0, "normalize": False}
_PLAIN_ELECTION: Knobs = {
    "consensus": "sum",
    "zero_rule": "plus",
    "rescale": "none",
    "rounding": "safe",
    "scope": "tensor",
}


def _n(settings: Settings) -> int:
    return len(settings.operation.inputs)


def _keeps_all(settings: Settings) -> bool:
    return all(density >= 1.0 for density in settings.numbers("density"))


def _keeps_nothing(settings: Settings) -> bool:
    return not any(settings.numbers("density"))


def _one_difference(
    settings: Settings, scale: float, *, exact: bool = False
) -> Rewritten:
    """Write the base plus a part of the differences, all alike."""
    knobs: Knobs = {
        "weight": (1.0,) * _n(settings),
        "lambda": scale,
        "normalize": False,
    }
    return becomes(settings, "task_arithmetic", knobs, exact=exact)


def _bcwi(settings: Settings) -> Rewritten:
    share = (1.0 - settings.number("alpha")) / _n(settings)
    return becomes(
        settings, "task_arithmetic", {**_PLAIN_SUM, "weight": (share,) * _n(settings)}
    )


def _thinned_sum(settings: Settings) -> Rewritten | None:
    """Drop nothing at density one: a plain sum is left."""
    if _keeps_nothing(settings):
        return base_alone(settings)
    if _keeps_all(settings):
        return becomes(settings, "task_arithmetic", {})
    return _without_spread(settings)


def _thinned_election(settings: Settings) -> Rewritten | None:
    """Drop nothing at density one: TIES that trims nothing is left."""
    if _keeps_all(settings):
        return becomes(settings, "ties", _PLAIN_ELECTION)
    if settings.operator.name == "breadcrumbs_ties":
        if _keeps_nothing(settings):
            return base_alone(settings)
        return _alone(settings, {})
    return _without_spread(settings)


def _without_spread(settings: Settings) -> Rewritten | None:
    """Without a spread of probabilities no rank counts."""
    if "rank_by" not in settings.shared:
        return None
    name = "epsilon" if "epsilon" in settings.given else "eps_frac"
    if any(settings.numbers(name)):
        return None
    return same_but(settings, {"rank_by": "row_rank"}, exact=False)


def _alone(settings: Settings, knobs: Knobs) -> Rewritten | None:
    """Elect nothing where there is one input: what it keeps is added."""
    if _n(settings) > 1:
        return None
    scale, (weight,) = settings.number("lambda"), settings.numbers("weight")
    whole = scale if settings.flag("normalize") else scale * weight
    made: Knobs = {"weight": (1.0,), "lambda": whole, "normalize": False}
    return becomes(settings, "breadcrumbs", {**knobs, **made}, exact=False)


def _ties(settings: Settings) -> Rewritten | None:
    if _keeps_nothing(settings):
        return base_alone(settings)
    if _n(settings) == 1 and (
        _keeps_all(settings)
        or (settings.choice("scope"), settings.choice("rounding")) == ("tensor", "safe")
    ):
        return _alone(settings, {"gamma": (0.0,), "axis": "tensor"})
    if _n(settings) == 1:
        elected = {"consensus": "sum", "zero_rule": "plus"}
        return same_but(settings, elected, exact=False)
    if _keeps_all(settings):
        neutral = {"rescale": "none", "rounding": "safe", "scope": "tensor"}
        return same_but(settings, neutral)
    return None


def _sce(settings: Settings) -> Rewritten | None:
    if _n(settings) == 1 and settings.choice("mask_scope") == "weights_only":
        return _one_difference(settings, settings.number("lambda"))
    if settings.number("select_topk") >= 1.0:
        return same_but(settings, {"mask_scope": "weights_only", "rounding": "safe"})
    return None


def _largest(settings: Settings) -> Rewritten | None:
    if _n(settings) > 1:
        return None
    return _one_difference(settings, settings.number("lambda"))


def _ramplus(settings: Settings) -> Rewritten | None:
    if settings.number("r") and settings.number("alpha"):
        return None
    return becomes(settings, "ram", {})


def _consensus(settings: Settings) -> Rewritten | None:
    of_ties = settings.choice("source") == "ties"
    if settings.number("k") > _n(settings) or (of_ties and _keeps_nothing(settings)):
        return base_alone(settings)
    if settings.number("k") > 0:
        return None
    if not of_ties:
        return _one_difference(settings, settings.number("lambda"), exact=True)
    weights = (1.0,) * _n(settings)
    knobs: Knobs = {**_PLAIN_ELECTION, "weight": weights, "normalize": True}
    return becomes(settings, "ties", knobs)


def _mixout(settings: Settings) -> Rewritten | None:
    return None if settings.number("p") else _one_difference(settings, 1.0, exact=True)


def _zero(knob: str) -> Rule:
    """Return the rule of an operator that leaves the base where a knob is zero."""

    def rule(settings: Settings) -> Rewritten | None:
        return None if settings.number(knob) else base_alone(settings)

    return rule


def _arc(settings: Settings) -> Rewritten | None:
    """At its ends an arc is one of its inputs."""
    t = settings.number("t")
    if t not in (0.0, 1.0):
        return None
    return _whole(settings, int(t))


def _whole(settings: Settings, index: int) -> Rewritten:
    """Write the copy of an input, or the base with its whole difference."""
    operation = settings.operation
    name = operation.inputs[index]
    if operation.base is None:
        return copy_of(name)
    whole = Operation("task_arithmetic", (name,), operation.base)
    return Rewritten(whole, exact=False)


def _sphere(settings: Settings) -> Rewritten | None:
    """The mean direction of one input is its own."""
    is_mean = (
        settings.shared.get("normalize", True) or settings.numbers("weight")[0] == 1
    )
    return _whole(settings, 0) if _n(settings) == 1 and is_mean else None


def _iso_cts(settings: Settings) -> Rewritten | None:
    if settings.number("common_frac") < 1.0:
        return None
    return becomes(settings, "iso_c", {}, exact=False)


def _in_bases(settings: Settings) -> Rewritten | None:
    if settings.choice("inner") != "dare_ties" or not _keeps_all(settings):
        return None
    return same_but(settings, {"inner": "ties", "consensus": "sum"})


_NAMED: Mapping[tuple[str, str], str] = {
    ("none", "none"): "task_arithmetic",
    ("bernoulli", "none"): "dare_linear",
    ("rank_bernoulli", "none"): "della_linear",
    ("two_sided", "none"): "breadcrumbs",
    ("none", "sum_sign"): "ties",
    ("none", "count_sign"): "ties",
    ("magnitude", "sum_sign"): "ties",
    ("magnitude", "count_sign"): "ties",
    ("bernoulli", "sum_sign"): "dare_ties",
    ("rank_bernoulli", "sum_sign"): "della",
    ("two_sided", "sum_sign"): "breadcrumbs_ties",
}
"""What drops entries, and who elects signs, to the method that is."""


def _staged(settings: Settings) -> Rewritten | None:
    """Write stages that are a named method as that method."""
    choice = settings.choice
    if (choice("basis"), choice("post")) != ("none", "none"):
        return None
    how = tuple(choice(stage) for stage in ("sparsify", "consensus", "reduce"))
    if how[2] in ("sum", "mean"):
        return _added(settings, how[0], how[1]) or _used(settings, how)
    zero = choice("zero_rule") if how[1] != "none" else ""
    alike = how[2] == "energy" or set(settings.numbers("weight")) == {1.0}
    if how == ("none", "none", "max") and alike:
        return becomes(settings, "magmax", {"draw": "first"})
    if (*how, zero) == ("none", "mean_sign", "max", "minus") and alike:
        return becomes(settings, "emr", {})
    if how[1:] == ("mean_sign", "energy") and zero == "plus":
        if how[0] == "variance":
            return becomes(settings, "sce", {"floor": 0.0})
        if how[0] == "none":
            whole: Knobs = {
                "floor": 0.0,
                "select_topk": 1.0,
                "mask_scope": "weights_only",
            }
            return becomes(settings, "sce", whole)
    return None


def _added(settings: Settings, sparsify: str, consensus: str) -> Rewritten | None:
    name = _NAMED.get((sparsify, consensus))
    trims = name == "ties" or (name is not None and name.startswith("breadcrumbs"))
    zero = settings.choice("zero_rule") if consensus != "none" else "plus"
    zeros = ("plus", "majority") if name == "ties" else ("plus",)
    rescales = trims and sparsify != "none" and settings.choice("rescale") == "inverse"
    if name is None or rescales or zero not in zeros:
        return None
    knobs: dict[str, Scalar | tuple[Scalar, ...]] = {}
    knobs["normalize"] = settings.choice("reduce") == "mean"
    if name == "ties":
        knobs |= {"consensus": consensus.removesuffix("_sign"), "scope": "tensor"}
        if sparsify == "none":
            knobs |= {"density": (1.0,) * _n(settings), "rescale": "none"}
    return becomes(settings, name, knobs)


def _used(settings: Settings, how: tuple[str, ...]) -> Rewritten | None:
    is_plain = set(settings.numbers("weight")) == {1.0}
    if how != ("tall", "none", "sum") or not is_plain:
        return _without_spread(settings) if how[0] == "rank_bernoulli" else None
    return becomes(settings, "consensus", {"source": "sum"})


COINCIDING: Mapping[str, Rule] = {
    "bcwi": _bcwi,
    "ties": _ties,
    **dict.fromkeys(("dare_linear", "della_linear", "breadcrumbs"), _thinned_sum),
    **dict.fromkeys(("dare_ties", "della", "breadcrumbs_ties"), _thinned_election),
    "sce": _sce,
    "magmax": _largest,
    "emr": _largest,
    "ramplus_tl": _ramplus,
    "consensus": _consensus,
    "mixout": _mixout,
    "model_stock": _zero("t_scale"),
    "nearswap": _zero("t"),
    "slerp": _arc,
    "nuslerp": _arc,
    "multislerp": _sphere,
    "karcher": _sphere,
    "iso_cts": _iso_cts,
    "knots": _in_bases,
    "core_space": _in_bases,
    "staged": _staged,
}
"""Operator to the rule that may write it as another one."""
