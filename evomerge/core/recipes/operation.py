"""An operator of the catalogue with every knob decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator of the catalogue with every knob decided.

    Attributes:
        operator: Its name in the catalogue.
        inputs: Names of the merged inputs, in order; the order is part of the result.
        base: Name of the base input, if the operator uses one.
        shared: Knobs with one value.
        each: Knobs with one value per entry of ``inputs``.
    """

    operator: str
    inputs: tuple[str, ...]
    base: str | None = None
    shared: tuple[tuple[str, Scalar], ...] = ()
    each: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", tuple(sorted(self.shared)))
        object.__setattr__(self, "each", tuple(sorted(self.each)))
        for name, values in self.each:
            if len(values) != len(self.inputs):
                raise RecipeError(
                    f"Knob {name!r} of {self.operator!r} needs one value per input "
                    f"({len(self.inputs)}), but has {len(values)}."
                )

    @classmethod
    def copy_of(cls, name: str, factor: float | None = None) -> Operation:
        """Return the operation that copies one input, or multiplies it by a factor."""
        # A mean of one input: the weight cancels, the values pass untouched.
        return cls(
            "linear",
            (name,),
            shared=(("normalize", factor is None),),
            each=(("weight", (1.0 if factor is None else factor,)),),
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """Every input this operation reads, the base last and only once."""
        extra = () if self.base is None or self.base in self.inputs else (self.base,)
        return self.inputs + extra

    def knob(self, name: str, default: Scalar | None = None) -> Scalar:
        """Return a shared knob."""
        for key, value in self.shared:
            if key == name:
                return value
        if default is None:
            raise RecipeError(f"Operator {self.operator!r} has no knob {name!r} here.")
        return default

    def knobs(self, name: str) -> tuple[Scalar, ...] | None:
        """Return a per-input knob, or None where it is not set."""
        return next((values for key, values in self.each if key == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        out: dict[str, Any] = {"operator": self.operator, "inputs": list(self.inputs)}
        if self.base is not None:
            out["base"] = self.base
        if self.shared:
            out["shared"] = dict(self.shared)
        if self.each:
            out["each"] = {name: list(values) for name, values in self.each}
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Operation:
        """Read the plain form.

        Raises:
            RecipeError: A knob's value is no number, word, or true or false.
        """
        shared = tuple(data.get("shared", {}).items())
        each = tuple((k, tuple(v)) for k, v in data.get("each", {}).items())
        for name, values in (*((k, (v,)) for k, v in shared), *each):
            if any(isinstance(value, dict | list) for value in values):
                raise RecipeError(
                    f"Knob {name!r}: expected numbers, words, or true or false, got "
                    f"{str(values)[:80]}."
                )
        return cls(
            operator=data["operator"],
            inputs=tuple(data["inputs"]),
            base=data.get("base"),
            shared=shared,
            each=each,
        )
