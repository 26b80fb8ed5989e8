"""What tells a study the costs that its objectives and constraints speak of."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.checkpoints.costs import lookup_among
from evomerge.core.cost import COST, Meter, parse, wanted_costs
from evomerge.errors import Problem, SpecError
from evomerge.specs.resolved import ResolvedStudy


def meter_of(study: ResolvedStudy) -> Meter | None:
    """Return what tells a study's costs; None if it asks for none.

    Raises:
        SpecError: They cannot be told of a source.
    """
    metrics = wanted_costs(study.objectives, study.constraints)
    if not metrics:
        return None
    meter = Meter(metrics, lookup_among(study.sources.values()))
    if problems := list(_problems(study, meter)):
        raise SpecError(problems)
    return meter


def _problems(study: ResolvedStudy, meter: Meter) -> Iterator[Problem]:
    if "flops" not in {parse(metric)[0] for metric in meter.metrics}:
        return
    for name, source in study.inputs.items():
        for place, layer in enumerate(meter.lookup(source).layers):
            if layer.flops(1) is None:
                yield Problem(
                    f"sources.{name} ({study.sources[name].path})",
                    "expected a config.json that tells how many heads there are and "
                    f"how many experts a token is sent to, for {COST}/flops; layer "
                    f"{place} leaves it open. Ask for {COST}/layers or "
                    f"{COST}/parameters instead.",
                )
                break
