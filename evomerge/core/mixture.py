"""A mixture assembled from dense models: one model's feed-forward blocks per expert.

The base gives attention, norms and embeddings; each expert its feed-forward block in
every layer; a router picks experts for each token. Like a recipe it is fully decided
and named by a digest. It is none: a recipe's tensors are merged name by name, a
mixture's come to stand beside each other under new names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from evomerge.core.digest import canonical_json, digest_of_text
from evomerge.core.recipes.inputs import Adapted, Checkpoint
from evomerge.errors import RecipeError

VERSION = 1
DTYPES = ("float32", "bfloat16", "float16")
Gate = Literal["hidden", "hidden_avg", "cheap_embed", "random", "uniform_random"]
GATES: tuple[str, ...] = get_args(Gate)
DRAWN = ("random", "uniform_random")
"""Routers that are drawn; the others follow from prompts."""

Parent = Checkpoint | Adapted


@dataclass(frozen=True, slots=True)
class Expert:
    """A feed-forward block of a mixture, in every layer.

    Attributes:
        source: Name of the input that gives it.
        positive: Prompts of tokens that are sent to it.
        negative: Prompts of tokens that are not.
        residual_scale: Factor on what it adds to the hidden state.
        noise_scale: Standard deviation of noise added to its weights.
    """

    source: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    residual_scale: float = 1.0
    noise_scale: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "source": self.source,
            "positive": list(self.positive),
            "negative": list(self.negative),
            "residual_scale": self.residual_scale,
            "noise_scale": self.noise_scale,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Expert:
        """Read the plain form."""
        return cls(
            str(data["source"]),
            tuple(map(str, data["positive"])),
            tuple(map(str, data["negative"])),
            float(data["residual_scale"]),
            float(data["noise_scale"]),
        )


@dataclass(frozen=True)
class Mixture:
    """One fully decided mixture.

    Attributes:
        family: ``model_type`` of the result.
        base: Name of the input that gives everything but the experts.
        dtype: Element type of the weights.
        inputs: Name to model, in name order.
        experts: In order.
        shared: The expert that every token is sent to, if there is one.
        per_token: Experts that a token is sent to.
        gate: How the router's rows come about.
        seed: Of what is drawn.
    """

    family: str
    base: str
    dtype: str
    inputs: tuple[tuple[str, Parent], ...]
    experts: tuple[Expert, ...]
    shared: Expert | None
    per_token: int
    gate: Gate
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "inputs", tuple(sorted(self.inputs, key=lambda one: one[0]))
        )
        names = dict(self.inputs)
        for name in (self.base, *(expert.source for expert in self.routed)):
            if name not in names:
                raise RecipeError(f"{name!r} is no input of the mixture.")
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype {self.dtype!r} is not one of {DTYPES}.")
        if self.gate not in GATES:
            raise RecipeError(f"gate {self.gate!r} is not one of {', '.join(GATES)}.")
        if not 1 <= self.per_token <= len(self.experts):
            raise RecipeError(
                f"Expected from 1 to {len(self.experts)} experts a token, got "
                f"{self.per_token}."
            )

    @property
    def routed(self) -> tuple[Expert, ...]:
        """All experts that have a row of a router, the shared one last."""
        return self.experts if self.shared is None else (*self.experts, self.shared)

    @property
    def parents(self) -> tuple[Parent, ...]:
        """Every model whose weights are part of it, each once, the base first."""
        names = dict(self.inputs)
        order = (self.base, *(expert.source for expert in self.routed))
        return tuple(dict.fromkeys(names[name] for name in order))

    @cached_property
    def digest(self) -> str:
        """Its name: equal for equal mixtures, on every machine."""
        return digest_of_text(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "version": VERSION,
            "mixture": {
                "family": self.family,
                "base": self.base,
                "gate": self.gate,
                "experts": [expert.to_json() for expert in self.experts],
                "shared": None if self.shared is None else self.shared.to_json(),
                "per_token": self.per_token,
                "seed": self.seed,
            },
            "dtype": self.dtype,
            "inputs": {name: one.to_json() for name, one in self.inputs},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mixture:
        """Read the plain form.

        Raises:
            RecipeError: A part is missing, of another version, or contradicts another.
        """
        try:
            if data["version"] != VERSION:
                raise RecipeError(
                    f"Version {data['version']!r} of a mixture is not {VERSION}."
                )
            said = data["mixture"]
            shared = said["shared"]
            return cls(
                family=str(said["family"]),
                base=str(said["base"]),
                dtype=str(data["dtype"]),
                inputs=tuple((n, _parent(one)) for n, one in data["inputs"].items()),
                experts=tuple(Expert.from_json(one) for one in said["experts"]),
                shared=None if shared is None else Expert.from_json(shared),
                per_token=int(said["per_token"]),
                gate=said["gate"],
                seed=int(said["seed"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RecipeError(
                f"Not a mixture: {error!r} is missing or malformed."
            ) from error


def _parent(data: Mapping[str, Any]) -> Parent:
    adapter = data.get("adapter")
    fingerprint = str(data["checkpoint"])
    if adapter is None:
        return Checkpoint(fingerprint)
    return Adapted(fingerprint, str(adapter))
