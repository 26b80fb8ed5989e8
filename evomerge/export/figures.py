"""Numbers of a model card as text."""

from __future__ import annotations

import math

from evomerge.export.stats import Estimate


def interval(estimate: Estimate, *, sign: bool = False) -> str:
    """Write an estimate with as many decimals as its interval makes meaningful."""
    width = estimate.high - estimate.low
    decimals = 3 if width <= 0 else min(8, max(0, 1 - math.floor(math.log10(width))))
    form = f"{'+' if sign else ''}.{decimals}f"
    middle, low, high = (
        _minus(format(value, form))
        for value in (estimate.value, estimate.low, estimate.high)
    )
    return f"{middle} [{low}, {high}]"


def number(value: float) -> str:
    """Write a number with four digits."""
    return _minus(f"{value:.4g}")


def _minus(text: str) -> str:
    """Write a true minus sign, and no sign of nothing."""
    is_zero = not text.strip("+-0.")
    return text.lstrip("+-") if is_zero else text.replace("-", "−")


def p_value(value: float) -> str:
    """Write a p-value; a very small one as a bound."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
