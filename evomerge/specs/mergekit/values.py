"""The values of a method's parameters for one tensor, and whether they make sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.core.digest import Scalar
from evomerge.specs.mergekit.methods import Method, Parameter
from evomerge.specs.mergekit.operations import Decided, Profile, knob_of
from evomerge.specs.mergekit.settings import Found, Position, look_up
from evomerge.specs.mergekit.slices import OutSlice, Source
from evomerge.specs.reading.mistakes import Mistakes

_NO_SUM = 1e-8
_LARGEST_EPS = 1e-6
"""Beside norms of weights this much changes nothing."""
_AVERAGES = ("linear", "multislerp")
"""Methods that divide by the sum of the weights, come what may."""


@dataclass(frozen=True, slots=True)
class Values:
    """Decides the parameters of one layer.

    Attributes:
        method: Whose parameters.
        profile: Whose defaults count.
        mistakes: Where to note what is wrong.
        cut: The slice.
        at: Where in it the layer lies.
    """

    method: Method
    profile: Profile
    mistakes: Mistakes
    cut: OutSlice
    at: Position

    def decide(self, inputs: list[tuple[Source, str]], name: str) -> Decided | None:
        """Return every parameter's value; None, and mistakes noted, if one is wrong.

        Args:
            inputs: Every source and the name its tensor has.
            name: What the merged tensor is called.
        """
        shared: list[tuple[str, Scalar]] = []
        each: list[tuple[str, tuple[Scalar, ...]]] = []
        found: dict[str, list[Found]] = {}
        whole = True
        for parameter in self.method.parameters:
            if parameter.scope == "shared":
                values = [self._value(parameter, None, name)]
            else:
                values = [
                    self._value(parameter, source, tensor)
                    for source, tensor in inputs
                    if parameter.scope == "input" or source.name != self.cut.base
                ]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                whole = whole and not parameter.required
                continue
            found[parameter.name] = known
            if parameter.scope == "shared":
                shared.append((parameter.name, known[0].value))
            else:
                each.append((parameter.name, tuple(v.value for v in known)))
        if not whole or not self._sums_are_sound(found, name):
            return None
        base = None if self.method.base == "ignored" else self.cut.base
        names = tuple(source.name for source, _ in inputs)
        return Decided(self.method.name, names, base, tuple(shared), tuple(each))

    def _value(
        self,
        parameter: Parameter,
        source: Source | None,
        tensor: str,
    ) -> Found | None:
        own = () if source is None else (source.settings,)
        found = look_up((*own, *self.cut.settings), parameter.name, tensor, self.at)
        if found is not None:
            return found if self._allowed(parameter, found) else None
        if parameter.required:
            self._miss(parameter, source, tensor)
            return None
        if self.profile == "identical" and parameter.default is not None:
            return Found(parameter.default, "")
        return self._own_default(parameter, source)

    def _miss(self, parameter: Parameter, source: Source | None, tensor: str) -> None:
        name, method = parameter.name, self.method.name
        if source is None:
            key, whose = f"{self.cut.key}.parameters.{name}", f"{tensor}."
        elif source.key == "base_model":
            key = source.key
            whose = (
                f"{tensor} of {source.name!r}: the base joins the inputs of {method} "
                "if it is not among them."
            )
        else:
            key = f"{source.key}.parameters.{name}"
            whose = f"{tensor} of {source.name!r}."
        every = "" if source is None else " of every input"
        self.mistakes.add(
            key,
            f"expected a value: {method} needs {name}{every}, and nothing here or "
            f"above says it for {whose}",
        )

    def _own_default(self, parameter: Parameter, source: Source | None) -> Found | None:
        """Return our own default, or None where leaving it out says it."""
        if parameter.optional:
            return Found(1.0, "")
        knob = knob_of(self.method.name, parameter.name)
        if source is None or knob is None or knob.default is None:
            return None
        return Found(knob.default, "")

    def _allowed(self, parameter: Parameter, found: Found) -> bool:
        if parameter.name == "eps":
            wanted = f"a number of at least 0 and at most {_LARGEST_EPS:g}"
            fits = 0.0 <= float(found.value) <= _LARGEST_EPS
        else:
            knob = knob_of(self.method.name, parameter.name)
            wanted = "" if knob is None else knob.allowed
            fits = knob is None or knob.allows(found.value)
            fits = fits or (parameter.name == "density" and found.value == 0.0)
        if not fits:
            self.mistakes.add(found.key, f"expected {wanted}, got {found.value!r}.")
        return fits

    def _sums_are_sound(self, found: Mapping[str, list[Found]], name: str) -> bool:
        """Refuse weights that cannot be divided by their sum."""
        weights = found.get("weight", [])
        switch = "normalize_weights" if "normalize_weights" in found else "normalize"
        flag = found.get(switch)
        if self.method.name in _AVERAGES:
            divides = flag[0].value if flag else True
        else:  # others leave a sum of nothing as it is: all zero gives the base
            divides = (
                flag is not None
                and flag[0].value
                and any(entry.value for entry in weights)
            )
        values = [float(entry.value) for entry in weights]
        if not divides or not values or abs(sum(values)) >= _NO_SUM:
            return True
        key = next((entry.key for entry in weights if entry.key), "parameters.weight")
        said = ", ".join(f"{value:g}" for value in values)
        self.mistakes.add(
            key,
            f"expected weights with a sum that can be divided by, got {said} for "
            f"{name}. Change one, or set {switch} to false.",
        )
        return False
