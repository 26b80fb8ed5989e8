"""What an exported model costs to keep and to run, beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.cost import CONTEXT, SPEED, Costs
from evomerge.errors import RecipeError
from evomerge.export.markup import markdown, table


@dataclass(frozen=True, slots=True)
class CostRow:
    """The costs of one candidate.

    Attributes:
        layers: Layers that run.
        parameters: Entries that must be kept, equal layers once.
        flops: Operations for one token with 1024 to look at; None if unknown.
        tokens_per_second: As measured in the search; None if it was not.
    """

    label: str
    layers: int
    parameters: int
    flops: int | None
    tokens_per_second: float | None = None

    @classmethod
    def of(cls, label: str, costs: Costs, measured: Mapping[str, float]) -> CostRow:
        """Collect the costs of a candidate.

        Args:
            label: What readers know it by.
            costs: Those that follow from its recipe.
            measured: Costs recorded with its trial, without ``cost/``.
        """
        try:
            flops = costs.flops()
        except RecipeError:
            flops = None
        speed = measured.get(SPEED)
        return cls(label, costs.layers, costs.parameters, flops, speed)


def cost_table(rows: Sequence[CostRow]) -> str:
    """Return the costs as a Markdown table; the first row is the exported model."""
    timed = any(row.tokens_per_second is not None for row in rows)
    head = ["model", "layers", "parameters (equal layers once)"]
    head += [f"FLOPs per token (of {CONTEXT})"]
    head += ["tokens per second"] if timed else []
    lines = [
        (
            f"**{markdown(row.label)}** (this model)"
            if i == 0
            else markdown(row.label),
            str(row.layers),
            f"{row.parameters:,}",
            "unknown" if row.flops is None else f"{row.flops:,}",
            *([_speed(row.tokens_per_second)] if timed else []),
        )
        for i, row in enumerate(rows)
    ]
    return table(head, lines, is_numeric=True)


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
