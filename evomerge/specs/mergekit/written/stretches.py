"""Runs of layers that one slice of a mergekit file can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.specs.mergekit.methods import Parameter
from evomerge.specs.mergekit.written.parameters import (
    Column,
    NoFilterError,
    Told,
    write_setting,
)

LAYER = "#"
"""Stands for a layer's number in a name."""


_NOTHING = ("weight", "density")
"""Parameters that, at zero, leave an input out where others of its slice count."""


@dataclass(slots=True)
class Stretch:
    """Layers of the result that come from consecutive layers.

    Attributes:
        told: For every layer, tensor name to what mergekit is told.
        first: Input to its first layer.
    """

    told: list[dict[str, Told]]
    first: dict[str, int]
    outside: dict[str, Told] = field(default_factory=dict)

    @property
    def usual(self) -> Told:
        """What is told of the tensor that reads most inputs."""
        return max(self.told[0].values(), key=lambda told: len(told.inputs))

    def continues(self, layers: Mapping[str, int], told: Mapping[str, Told]) -> bool:
        """Tell whether a layer goes on where this one ends, by the same switches."""
        n = len(self.told)
        if layers != {name: layer + n for name, layer in self.first.items()}:
            return False
        return _switches(self.told[-1]) == _switches(told)


def _switches(told: Mapping[str, Told]) -> dict[str, Any]:
    """Return what cannot run along a gradient."""
    return {
        name: (
            one.inputs,
            one.base,
            {k: v for k, v in one.shared.items() if not isinstance(v, float)},
        )
        for name, one in told.items()
    }


def columns_of(
    cut: Stretch, value: Callable[[Told], Scalar | None]
) -> dict[str, Column]:
    """Return a parameter's values by tensor, where it has any."""
    out: dict[str, Column] = {}
    for name in cut.told[0]:
        found = [value(told[name]) for told in cut.told if name in told]
        column = tuple(entry for entry in found if entry is not None)
        if column and len(column) == len(found):
            out[name] = column if len(set(column)) > 1 else column[:1]
    for name, told in cut.outside.items():
        only = value(told)
        if only is not None:
            out[name] = (only,)
    return out


def of_input(parameter: str, name: str, told: Told) -> Scalar | None:
    """Return the value of a parameter for one input."""
    values = told.each.get(parameter)
    if values is not None and name not in told.inputs and parameter in _NOTHING:
        return 0.0
    return None if values is None else values.get(name)


def of_all(parameter: Parameter, told: Told) -> Scalar | None:
    """Return the value of a parameter that is one for all inputs."""
    return told.shared.get(parameter.name, parameter.default)


def setting_of(columns: Mapping[str, Column]) -> Any:
    """Write the values of all tensors as one setting, as near as it comes."""
    try:
        return write_setting(columns, [n for n in columns if LAYER in n.split(".")])
    except NoFilterError:
        return write_setting({"": next(iter(columns.values()))}, [""])
