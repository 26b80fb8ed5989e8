"""Operators and their knobs, as data.

Arithmetic registers against this table by name (``merging.operators``); search
spaces, the command line's help and the docs are generated from it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.core.digest import Scalar

_LARGEST = sys.float_info.max

Policy = Literal["self", "linear", "base"]
"""What an operator does with tensors of a role: itself, a plain weighted sum with its
own weights, or the base's value."""

ROLES = ("embed", "head", "norm", "bias", "attn", "mlp", "router", "expert")
"""Tensor roles: matrices of attention and feed-forward blocks, and all the rest."""
EMBED_ROLES = ("embed",)
LAYER_ROLES = ("attn", *(r for r in ROLES if r not in ("attn", "embed", "head")))
HEAD_ROLES = ("head", "norm")
"""Those of a place of a model, the one whose operation is the usual first."""

Choices = tuple[tuple[str, tuple[Scalar, ...]], ...]
"""Knobs that are choices, each with the values that will do."""


def holds(wanted: Choices, chosen: Mapping[str, Scalar]) -> bool:
    """Tell whether every one of some knobs has a value that will do.

    Args:
        wanted: The knobs and the values.
        chosen: Knob name to value; what is not in it has none.
    """
    return all(chosen.get(name) in values for name, values in wanted)


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of an operator.

    Attributes:
        kind: ``float``, ``int`` or ``choice``.
        low: Smallest sensible value when searched (numbers only).
        high: Largest sensible value when searched (numbers only).
        default: Used where neither fixed nor searched; None where it depends on the
            number of inputs (1/N for means).
        per_input: One value per merged input instead of one in all.
        log: Searched on a logarithmic scale.
        grid: Searched values are multiples of this; None means 1/1000 of the range.
        choices: The values of a ``choice``.
        searchable: False for settings that must not be optimised (random seeds).
        lowest: Numbers below are refused everywhere, searched or not; None if any goes.
        highest: Numbers above are refused everywhere; None if any goes.
        only_with: Choices of other knobs that this one needs to mean anything, each a
            knob that stands before it and the values that will do; all must hold. A
            search opens the knob only there, and a recipe states it only there.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    default: Scalar | None
    help: str
    low: float | None = None
    high: float | None = None
    per_input: bool = False
    log: bool = False
    grid: float | None = None
    choices: tuple[Scalar, ...] = ()
    searchable: bool = True
    lowest: float | None = None
    highest: float | None = None
    only_with: Choices = ()

    def allows(self, value: Scalar) -> bool:
        """Tell whether one value of this knob makes sense at all."""
        if self.kind == "choice":
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.kind == "int" and not isinstance(value, int):
            return False
        above = self.lowest is None or value >= self.lowest
        below = self.highest is None or value <= self.highest
        return above and below and -_LARGEST <= value <= _LARGEST

    def matters(self, chosen: Mapping[str, Scalar]) -> bool:
        """Tell whether this knob means anything beside what was chosen before it.

        Args:
            chosen: Knob name to value, of shared knobs that matter themselves.
        """
        return holds(self.only_with, chosen)

    @property
    def allowed(self) -> str:
        """What :meth:`allows` lets through, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        number = "a whole number" if self.kind == "int" else "a finite number"
        low = "" if self.lowest is None else f" of at least {self.lowest:g}"
        high = "" if self.highest is None else f" of at most {self.highest:g}"
        return number + " and".join(filter(None, (low, high)))


@dataclass(frozen=True, slots=True)
class Operator:
    """One merge operator.

    Attributes:
        needs_base: A base input is required (False: not used unless ``takes_base``).
        takes_base: A base input may be given.
        n_inputs: Exact number of merged inputs; None allows any from ``least_inputs``.
        least_inputs: Fewest merged inputs, where the number is not exact.
        policies: Role to policy where it is not ``self``; an operator without any is
            a weighted sum itself.
        spectral_with: Choices of knobs with which embedding and head are left to the
            plain weighted sum too: rows of tokens have no common singular vectors.
        factors_with: Choices of knobs with which it works on adapters' factors, so that
            every input must be the same model with an adapter; empty for always, None
            for never.
        share: Factor on the weights (1 each, if it has none) where a role is left to
            the plain weighted sum: ``whole``, 1/N each (``mean``) or ``half``; or
            ``stages``: the whole sum where its stages add up differences, else the
            mean.
        either: Two knobs that say the same: the usual one, and what may be written
            instead of it.
        random: The result depends on the ``seed`` knob.
        source: Paper or program the definition follows.
    """

    name: str
    summary: str
    source: str
    knobs: tuple[Knob, ...]
    needs_base: bool = False
    takes_base: bool = False
    n_inputs: int | None = None
    least_inputs: int = 1
    policies: Mapping[str, Policy] | None = None
    spectral_with: Choices = ()
    factors_with: Choices | None = None
    share: Literal["whole", "mean", "half", "stages"] = "whole"
    either: tuple[str, str] | None = None
    random: bool = False

    def knob(self, name: str) -> Knob | None:
        """Return the knob of this name, if there is one."""
        return next((knob for knob in self.knobs if knob.name == name), None)

    def takes(self, n: int) -> bool:
        """Tell whether it merges this many inputs."""
        return n >= self.least_inputs if self.n_inputs is None else n == self.n_inputs

    @property
    def wanted_inputs(self) -> str:
        """How many inputs :meth:`takes` lets through, in words."""
        if self.n_inputs is not None:
            return str(self.n_inputs)
        return "at least " + {1: "one", 2: "two"}[self.least_inputs]

    def policy(self, role: str) -> Policy:
        """Return what this operator does with tensors of a role."""
        return (self.policies or {}).get(role, "self")
