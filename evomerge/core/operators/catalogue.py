"""Operators and their knobs, as data.

Arithmetic registers against this table by name (``merging.operators``); search
spaces, the command line's help and the docs are generated from it. Knobs and role
policies that several families of operators share stand here too.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evomerge.core.digest import Scalar
from evomerge.core.operators.derived import Derived

_LARGEST = sys.float_info.max

Policy = Literal["self", "linear", "base"]
"""What an operator does with tensors of a role: itself, a plain weighted sum with its
own weights, or the base's value."""

USUAL_ROLES = ("embed", "head", "norm", "bias", "attn", "mlp", "router", "expert")
"""Tensor roles that most models have: matrices of blocks that mix tokens and of those
that do not, and all the rest."""
RARE_ROLES = ("state", "scalar")
"""Decay, step and convolution of recurrent blocks; and scalars of a layer, such as
those of its activation. Where a slot names neither, they are merged as its biases."""
ROLES = (*USUAL_ROLES, *RARE_ROLES)
UNKNOWN = "unknown"
"""In place of a role: no rule covers the tensor. It is merged only by an operation that
is named so, or for it alone."""
EMBED_ROLES = ("embed",)
LAYER_ROLES = ("attn", *(r for r in USUAL_ROLES if r not in ("attn", "embed", "head")))
HEAD_ROLES = ("head", "norm")
"""Those of a place of a model, the one whose operation is the usual first."""

Choices = tuple[tuple[str, tuple[Scalar, ...]], ...]
"""Knobs that are choices, each with the values that will do."""

LINEAR_VECTORS: Mapping[str, Policy] = {
    "norm": "linear",
    "bias": "linear",
    "router": "linear",
    "state": "linear",
    "scalar": "linear",
}


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
        base: Whether a base input is required, may be given, or has no use.
        n_inputs: Exact number of merged inputs; None allows any from ``least_inputs``.
        least_inputs: Fewest merged inputs, where the number is not exact.
        policies: Role to policy where it is not ``self``; an operator without any is
            a weighted sum itself.
        spectral_with: Choices of knobs, of which one is enough, with which it works on
            singular vectors; empty for always, None for never. Embedding and head are
            then left to the plain weighted sum too: rows of tokens have no common
            singular vectors.
        scratch: Copies in fp64 that the merge of a square matrix by singular vectors
            was seen to hold at its peak: some of its own, and so many for each input.
        whole_model_with: Choices of knobs with which it takes the tensors of all layers
            as one; None for never.
        factors_with: Choices of knobs with which it works on adapters' factors, so that
            every input must be the same model with an adapter; empty for always, None
            for never.
        share: Factor on the weights (1 each, if it has none) where a role is left to
            the plain weighted sum: ``whole``, 1/N each (``mean``) or ``half``; or
            ``stages``: the whole sum where its stages add up differences, else the
            mean; or ``arc``: by where on the arc between two inputs it stands.
        either: Two knobs that say the same: the usual one, and what may be written
            instead of it.
        random: The result depends on the ``seed`` knob.
        ranked: Entries stay with probabilities by rank, from ``density - epsilon`` to
            ``density + epsilon``, which must lie between 0 and 1.
        statistics: Kinds of statistics that every input must come with.
        keeps: Kinds of derived data that it keeps of its inputs.
        source: Paper or program the definition follows.
    """

    name: str
    summary: str
    source: str
    knobs: tuple[Knob, ...]
    base: Literal["none", "optional", "needed"] = "none"
    n_inputs: int | None = None
    least_inputs: int = 1
    policies: Mapping[str, Policy] | None = None
    spectral_with: Choices | None = None
    scratch: tuple[int, int] = (11, 4)
    whole_model_with: Choices | None = None
    factors_with: Choices | None = None
    share: Literal["whole", "mean", "half", "stages", "arc"] = "whole"
    either: tuple[str, str] | None = None
    random: bool = False
    ranked: bool = False
    statistics: tuple[str, ...] = ()
    keeps: tuple[Derived, ...] = ()

    def knob(self, name: str) -> Knob | None:
        """Return the knob of this name, if there is one."""
        return next((knob for knob in self.knobs if knob.name == name), None)

    @property
    def needs_base(self) -> bool:
        """Whether a base input is required."""
        return self.base == "needed"

    @property
    def takes_base(self) -> bool:
        """Whether a base input may be given."""
        return self.base != "none"

    def takes(self, n: int) -> bool:
        """Tell whether it merges this many inputs."""
        return n >= self.least_inputs if self.n_inputs is None else n == self.n_inputs

    @property
    def wanted_inputs(self) -> str:
        """How many inputs :meth:`takes` lets through, in words."""
        if self.n_inputs is not None:
            return str(self.n_inputs)
        return "at least " + {1: "one", 2: "two"}[self.least_inputs]

    def is_spectral(self, chosen: Mapping[str, Scalar]) -> bool:
        """Tell whether it works on singular vectors.

        Args:
            chosen: Shared knobs and their values; those left out have their defaults.
        """
        wanted = self.spectral_with
        if wanted is None:
            return False
        return not wanted or any(chosen.get(knob) in values for knob, values in wanted)

    def wide_copies(self, chosen: Mapping[str, Scalar], n_inputs: int) -> int:
        """Return how many fp64 copies of a matrix a merge of so many inputs holds."""
        own, each = self.scratch
        return own + each * n_inputs if self.is_spectral(chosen) else 0

    def takes_model(self, chosen: Mapping[str, Scalar]) -> bool:
        """Tell whether it takes the tensors of all layers as one, with such knobs."""
        wanted = self.whole_model_with
        return wanted is not None and holds(wanted, chosen)

    def policy(self, role: str) -> Policy:
        """Return what this operator does with tensors of a role."""
        return (self.policies or {}).get(role, "self")


SHARE = Knob(
    "weight",
    "float",
    None,
    "Share of each input in the average; 1/N each if not given.",
    low=0.0,
    high=1.0,
    per_input=True,
)
WEIGHT = Knob(
    "weight",
    "float",
    1.0,
    "Factor on each input's difference from the base; negative to subtract it.",
    low=-0.5,
    high=2.0,
    per_input=True,
)
LAMBDA = Knob(
    "lambda",
    "float",
    1.0,
    "Factor on the merged difference before it is added to the base.",
    low=0.1,
    high=2.5,
)
NORMALIZE = Knob(
    "normalize",
    "choice",
    False,
    "Divide by the sum of the weights.",
    choices=(False, True),
)
NORMALIZE_AGREEING = replace(
    NORMALIZE, help="Divide every entry by the sum of the weights that agree on it."
)
TRIM_DENSITY = Knob(
    "density",
    "float",
    0.2,
    "Part of each input's differences kept, largest first.",
    low=0.05,
    high=1.0,
    per_input=True,
    grid=0.01,
    lowest=0.0,
    highest=1.0,
)
MASK_DENSITY = Knob(
    "density",
    "float",
    0.5,
    "Probability that an entry of an input's difference is kept.",
    low=0.05,
    high=1.0,
    per_input=True,
    log=True,
    lowest=1e-6,
    highest=1.0,
)
CONSENSUS = Knob(
    "consensus",
    "choice",
    "sum",
    "How the sign of an entry is elected: by the weighted sum, or one vote per input.",
    choices=("sum", "count"),
)
ZERO_RULE = Knob(
    "zero_rule",
    "choice",
    "plus",
    "Sign where the election is a draw: plus, or the majority of the tensor's signs.",
    choices=("plus", "majority"),
)
RESCALE = Knob(
    "rescale",
    "choice",
    "inverse",
    "Kept entries are divided by the density, scaled to keep the L1 norm, or left.",
    choices=("inverse", "l1", "none"),
)
UNIT = Knob(
    "unit",
    "choice",
    "element",
    "What is kept or dropped as one: each entry, or each input feature (column).",
    choices=("element", "column"),
)
SEED = Knob(
    "seed",
    "int",
    0,
    "Seed of the random masks.",
    low=0,
    high=2**31 - 1,
    searchable=False,
    lowest=0,
)
KEEP_NORM = Knob(
    "rescale",
    "choice",
    "none",
    "Kept differences are left as they are, or scaled to keep the L1 norm.",
    choices=("none", "l1"),
)
ROUNDING = Knob(
    "rounding",
    "choice",
    "safe",
    "How many entries a density keeps: floor(d * n) safe from rounding, or int(d * n).",
    choices=("safe", "int"),
    searchable=False,  # one entry more or less
)


def only_with(knob: Knob, **choices: tuple[Scalar, ...]) -> Knob:
    """Return the knob as one that only means something with these choices."""
    return replace(knob, only_with=tuple(choices.items()))
