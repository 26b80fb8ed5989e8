"""The merges that are measured, as both sides are asked for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "base"
_WEIGHTS = (0.6, 0.4, 0.3, 0.5, 0.2, 0.7, 0.1, 0.8)
_DENSITIES = (0.5, 0.7, 0.6, 0.4, 0.55, 0.65, 0.45, 0.35)
MOST_EXPERTS = len(_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Method:
    """A method that evomerge has, and mergekit perhaps.

    Attributes:
        has_rival: mergekit has it too.
        base: ``checkpoint`` if experts are seen as differences from one, ``expert`` if
            the first expert is called the base.
        has_weight: There is a weight for each expert.
        has_density: There is a density for each expert.
        shared: Parameters with one value.
        most: Most experts.
    """

    name: str
    base: str | None = "checkpoint"
    has_weight: bool = True
    has_density: bool = False
    shared: Mapping[str, float] = field(default_factory=dict)
    most: int = MOST_EXPERTS
    has_rival: bool = True

    def merge(self, n_experts: int) -> Merge:
        """Return this method's merge of so many experts."""
        return Merge(self, tuple(f"expert{k}" for k in range(1, n_experts + 1)))


@dataclass(frozen=True, slots=True)
class Merge:
    """A method and what it merges.

    Attributes:
        experts: Names of their folders.
    """

    method: Method
    experts: tuple[str, ...]

    @property
    def base(self) -> str | None:
        """Name of the base."""
        return {"checkpoint": BASE, "expert": self.experts[0]}.get(
            self.method.base or ""
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """Every checkpoint that is read, each once."""
        base = () if self.base is None else (self.base,)
        return tuple(dict.fromkeys((*base, *self.experts)))

    def each(self) -> dict[str, dict[str, float]]:
        """Return the parameters that every expert has: name to expert to value."""
        out: dict[str, dict[str, float]] = {}
        if self.method.has_weight:
            out["weight"] = dict(zip(self.experts, _WEIGHTS, strict=False))
        if self.method.has_density:
            out["density"] = dict(zip(self.experts, _DENSITIES, strict=False))
        return out

    def config(self, folder: Path) -> str:
        """Return the configuration; JSON is YAML.

        It is mergekit's, which evomerge reads too, or else a recipe.
        """
        if not self.method.has_rival:
            return self._recipe(folder)
        each = self.each()
        models = [
            {
                "model": str(folder / name),
                "parameters": {key: values[name] for key, values in each.items()},
            }
            for name in self.experts
        ]
        whole: dict[str, Any] = {"merge_method": self.method.name, "models": models}
        if self.base is not None:
            whole["base_model"] = str(folder / self.base)
        if self.method.shared:
            whole["parameters"] = dict(self.method.shared)
        return json.dumps({**whole, "dtype": "bfloat16"}, indent=1)

    def _recipe(self, folder: Path) -> str:
        base = {} if self.base is None else {"base": self.base}
        return json.dumps(
            {
                "sources": {name: str(folder / name) for name in self.reads},
                "operator": self.method.name,
                "experts": [name for name in self.experts if name != self.base],
                "knobs": {**self.each(), **self.method.shared},
                "dtype": "bfloat16",
                **base,
            },
            indent=1,
        )


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("linear", base=None),
        Method("task_arithmetic"),
        Method("ties", has_density=True),
        Method("dare_ties", has_density=True),
        Method("della", has_density=True),
        Method("slerp", base="expert", has_weight=False, shared={"t": 0.4}, most=2),
        Method("model_stock", has_weight=False),
        Method("breadcrumbs", has_density=True),
        Method("sce", has_weight=False, shared={"select_topk": 0.5}),
        Method("karcher", base=None, has_weight=False),
        Method("breadcrumbs_ties", has_density=True),
        Method("dare_linear", has_density=True),
        Method("della_linear", has_density=True),
        Method("arcee_fusion", base="expert", has_weight=False, most=2),
        Method("nearswap", base="expert", has_weight=False, shared={"t": 1e-3}, most=2),
        Method("magmax", has_weight=False, has_rival=False),
        Method("ram", has_weight=False, has_rival=False),
        Method("ramplus_tl", has_weight=False, has_rival=False),
        Method("consensus", has_weight=False, has_rival=False),
        Method("emr", has_weight=False, has_rival=False),
        Method("pcb", has_rival=False),
        Method("mixout", base="expert", has_weight=False, most=2, has_rival=False),
    )
}
"""By name, in the order they are measured."""
USUAL = tuple(METHODS)[:10]
"""Those that are measured unless others are asked for."""


def merges(names: Sequence[str], n_experts: int) -> list[Merge]:
    """Return the merges of so many experts that there are."""
    chosen = [METHODS[name] for name in names]
    return [method.merge(n_experts) for method in chosen if n_experts <= method.most]
