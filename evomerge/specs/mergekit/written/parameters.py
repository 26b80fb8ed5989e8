"""What mergekit is told of an operation of ours: its parameters, as near as they come.

Values of many tensors become gradients over layers and filters over names. Whether
that is the same merge is not decided here: whoever writes a file reads it again and
compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import STORED
from evomerge.core.recipes.settings import Settings, resolve, slerp_t, spreads
from evomerge.specs.mergekit.methods import METHODS, Method, Parameter
from evomerge.specs.mergekit.operations import operator_of

_SAME = ("int8_mask", "eps")
"""Parameters that change no result."""


@dataclass(frozen=True, slots=True)
class Told:
    """What mergekit is told of one tensor.

    Attributes:
        inputs: In order, the base among them.
        shared: Parameter to value, where it is not mergekit's default.
        each: Parameter to input to value.
    """

    inputs: tuple[str, ...]
    base: str | None
    shared: Mapping[str, Scalar]
    each: Mapping[str, Mapping[str, Scalar]]


def method_for(operations: list[Operation]) -> Method | None:
    """Return the method for most of these operations; None if mergekit has none."""
    counts: dict[str, int] = {}
    for operation in operations:
        counts[operation.operator] = counts.get(operation.operator, 0) + 1
    name = max(counts, key=lambda word: counts[word])
    if name == "linear" and all(_is_copy(op) for op in operations):
        name = "passthrough"
    return METHODS.get(name)


def _is_copy(operation: Operation) -> bool:
    if operation.operator != "linear" or len(operation.inputs) != 1:
        return False
    return not resolve(operation).flag("normalize")


def tell(operation: Operation, method: Method) -> Told:
    """Return what mergekit is told of an operation.

    Raises:
        RecipeError: The operation breaks the catalogue's rules.
    """
    settings = resolve(as_mergekit_says(operation))
    inputs, base = operation.reads, operation.base
    if method.name == "slerp":
        base = operation.inputs[0]
    others = tuple(name for name in inputs if name != base)
    shared: dict[str, Scalar] = {}
    each: dict[str, dict[str, Scalar]] = {}
    for parameter in method.parameters:
        if parameter.name in _SAME:
            continue
        if parameter.scope == "shared":
            value = _shared(parameter, settings, method)
            if value is not None and value != parameter.default:
                shared[parameter.name] = value
            continue
        knob = "weight" if parameter.name == "scale" else parameter.name
        values = settings.each.get(knob)
        names = inputs if parameter.scope == "input" else others
        if values is not None and operator_of(method.name).knob(knob) is not None:
            each[parameter.name] = dict(zip(names, values, strict=False))
    return Told(inputs, base, shared, each)


def _shared(parameter: Parameter, settings: Settings, method: Method) -> Scalar | None:
    name = parameter.name
    axis = settings.shared.get("axis")
    if name == "nuslerp_flatten":
        return axis in ("flat", None)
    if name == "nuslerp_row_wise":
        return axis == "out"
    if name == "normalize_weights":
        name = "normalize"
    if name == "rescale":
        found = settings.shared.get(name)
        return parameter.default if found is None else found != "none"
    if operator_of(method.name).knob(name) is None:
        return None
    return settings.shared.get(name)


def as_mergekit_says(operation: Operation) -> Operation:
    """Return the same merge by the knobs that mergekit has a word for."""
    settings = resolve(operation)
    either = settings.operator.either
    if either is None or either[1] in settings.given:
        return operation
    usual, instead = either
    values = (
        (1.0 - slerp_t(settings), slerp_t(settings))
        if usual == "t"
        else spreads(settings)
    )
    shared = tuple((k, v) for k, v in operation.shared if k != usual)
    each = tuple((k, v) for k, v in operation.each if k != usual)
    return Operation(
        operation.operator,
        operation.inputs,
        operation.base,
        shared,
        (*each, (instead, values)),
    )


def types_of(dtype: str) -> dict[str, str]:
    """Return the keys that say in which type is computed, and in which written."""
    if dtype == STORED:
        return {}
    computed = {"dtype": "float32"}
    return computed if dtype == "float32" else computed | {"out_dtype": dtype}


def notes_of(method: Method, dtype: str) -> Iterator[str]:
    """Say how mergekit goes about the same merge."""
    if operator_of(method.name).random:
        yield (
            f"{method.name} draws masks: mergekit draws others, from one "
            "stream for the whole merge, seeded by its --random-seed."
        )
    if dtype == STORED:
        yield (
            "mergekit computes each tensor in the type it is stored in, evomerge "
            "all in float32."
        )
    elif dtype != "float32":
        yield (
            "mergekit computes in dtype, which is float32 here as in evomerge, and "
            "rounds to out_dtype when it writes."
        )


Column = tuple[Scalar, ...]
"""A tensor's values over the layers of a slice; a single one outside the layers."""


class NoFilterError(Exception):
    """No part of a tensor's name tells it from the others."""


def write_setting(columns: Mapping[str, Column], layered: Iterable[str]) -> Any:
    """Write a setting that gives every tensor its values.

    Args:
        columns: Tensor name, of layers without their number, to its values.
        layered: Those that are in layers; the others stand before or after them and
            take the first value of a list.

    Returns:
        A value, a list of values by layer, or a list of values with filters.

    Raises:
        NoFilterError: Two tensors cannot be told apart by a part of their names.
    """
    inside = set(layered)
    groups: dict[Column, list[str]] = {}
    for name in sorted(columns, key=lambda name: (name not in inside, name)):
        column = _short(columns[name])
        home = next((c for c in groups if c[0] == column[0]), None)
        if name not in inside and home is not None:
            column = home
        groups.setdefault(column, []).append(name)
    usual = max(groups, key=lambda c: (len(groups[c]), -list(groups).index(c)))
    cases: list[dict[str, Any]] = []
    for column, names in groups.items():
        if column != usual:
            others = [name for name in columns if name not in names]
            cases += [
                {"filter": word, "value": _written(column)}
                for word in _words(names, others)
            ]
    if not cases:
        return _written(usual)
    return [*cases, {"value": _written(usual)}]


def _short(column: Column) -> Column:
    return column[:1] if len(set(column)) == 1 else column


def _written(column: Column) -> Any:
    return column[0] if len(column) == 1 else list(column)


def _words(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return few parts of names that all of these have one of, and no other has."""
    left, out = list(names), []
    while left:
        served: Counter[str] = Counter(
            part
            for name in left
            for part in _parts(name)
            if not any(part in other for other in others)
        )
        if not served:
            raise NoFilterError(left[0])
        best = min(served, key=lambda part: (-served[part], len(part), part))
        out.append(best)
        left = [name for name in left if best not in name]
    return out


def _parts(name: str) -> set[str]:
    """Return runs of words of a name; numbers alone would match layers."""
    words = name.split(".")
    runs = {
        ".".join(words[i:j])
        for i in range(len(words))
        for j in range(i + 1, len(words) + 1)
    }
    return {run for run in runs if not run.replace(".", "").isdigit()}
