"""One form for all operations that are one merge.

Two operations may be one merge written twice: factors that multiply each other, weights
of which only the ratio counts, a density at which nothing is dropped, inputs of weight
zero, methods that are another one with certain knobs. Rules lead from each to the same
form, one step after another, until none applies.

A rule either keeps every bit, or it is the same merge rounded elsewhere: then the form
it leads to is what is computed. Numbers that are used in fp32 are written with as many
digits as fp32 holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from evomerge.core.digest import Scalar
from evomerge.core.operators.catalogue import Knob
from evomerge.core.recipes.coinciding import COINCIDING
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.rewriting import Rewritten, Rule, base_alone, only
from evomerge.core.recipes.settings import Settings, resolve, slerp_t, spreads
from evomerge.core.recipes.weighing import WEIGHING, weighty
from evomerge.errors import RecipeError


@lru_cache(maxsize=4096)
def canonical(operation: Operation) -> Rewritten:
    """Return the one form of a merge, and whether it has the bits of this one.

    An operation that breaks the catalogue's rules is returned as it is: whoever merges
    it says what is wrong.
    """
    try:
        written = resolve(operation)
        settings = resolve(stated(written))
    except RecipeError:
        return Rewritten(operation)
    # Arithmetic may read a knob that ought to mean nothing where it is.
    either = frozenset(settings.operator.either or ())
    exact = written.given - either <= settings.given
    while (step := _next(settings)) is not None:
        exact = exact and step.exact
        settings = resolve(stated(resolve(step.operation)))
    return Rewritten(settings.operation, exact)


def _next(settings: Settings) -> Rewritten | None:
    """Return what the first rule makes of an operation; None if none applies."""
    for rule in _RULES:
        step = rule(settings)
        if step is not None and step.operation != settings.operation:
            return step
    return None


def stated(settings: Settings) -> Operation:
    """Return the operation with every knob stated that means anything, and no other."""
    operation, operator = settings.operation, settings.operator
    said = dict(_said(settings))
    shared: dict[str, Scalar] = {}
    each: dict[str, tuple[Scalar, ...]] = {}
    for knob in operator.knobs:
        if knob.name in said and knob.matters(shared):
            values = tuple(_typed(knob, value) for value in said[knob.name])
            if knob.per_input:
                each[knob.name] = values
            else:
                shared[knob.name] = values[0]
    return Operation(
        operation.operator,
        operation.inputs,
        operation.base,
        tuple(shared.items()),
        tuple(each.items()),
    )


def _said(settings: Settings) -> Iterator[tuple[str, tuple[Scalar, ...]]]:
    """Yield every knob's values; of two knobs that say the same, one."""
    either = settings.operator.either
    for name, value in settings.shared.items():
        yield name, (value,)
    for name, values in settings.each.items():
        if either is None or name not in either:
            yield name, values
    if either == ("t", "weight"):
        yield "t", (slerp_t(settings),)
    elif either == ("eps_frac", "epsilon"):
        density = settings.numbers("density")
        found = zip(density, spreads(settings), strict=True)
        yield "epsilon", tuple(0.0 if d >= 1.0 else spread for d, spread in found)


def _typed(knob: Knob, value: Scalar) -> Scalar:
    """Return a value as its kind of knob has it, so that 1 and 1.0 are one."""
    if knob.kind == "choice":
        return knob.choices[knob.choices.index(value)]
    return float(value) + 0.0 if knob.kind == "float" else value


def _nothing_added(settings: Settings) -> Rewritten | None:
    """Leave the base, where what is added to it has the factor zero."""
    if settings.operation.base is None:
        return None
    knob = settings.operator.knob("weight")
    unweighted = (
        knob is not None
        and knob.default is not None
        and not any(settings.numbers("weight"))
    )
    if settings.shared.get("lambda") == 0 or unweighted or not weighty(settings):
        return base_alone(settings)
    return None


def _without_idle(settings: Settings) -> Rewritten | None:
    """Leave out inputs that the merge does not feel."""
    kept = weighty(settings)
    if not kept or len(kept) == len(settings.operation.inputs):
        return None
    return only(settings, kept)


def _weighed(settings: Settings) -> Rewritten | None:
    weigh = WEIGHING.get(settings.operator.name)
    return None if weigh is None else weigh(settings)


def _coinciding(settings: Settings) -> Rewritten | None:
    rule = COINCIDING.get(settings.operator.name)
    return None if rule is None else rule(settings)


_RULES: tuple[Rule, ...] = (_nothing_added, _without_idle, _coinciding, _weighed)
