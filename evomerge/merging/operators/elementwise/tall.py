"""Consensus merging with TALL masks (Wang et al. 2024, 2405.07813).

A task uses an entry of the merged difference if its own difference is not much smaller
than all the rest; what too few tasks use is dropped.
"""

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import Form, Total, Used, Votes
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.ties import ballot
from evomerge.merging.operators.thresholds.sparsify import trim


def consensus(inputs: Inputs) -> LazyMerge:
    """Add the entries of the merged difference that at least ``k`` tasks use."""
    settings, deltas = inputs.settings, Deltas.of(inputs)
    alike = (1.0,) * len(deltas)
    form = Form(
        Total(alike), use=used(settings), scale=settings.number("lambda"), checked=True
    )
    if settings.choice("source") == "ties":
        thin = trim(deltas, settings.numbers("density"))
        form = form._replace(reduce=ballot(alike, Votes(), mean=True), thin=thin)
    return LazyMerge(deltas, form, inputs.key)


def used(settings: Settings) -> Used:
    """Return which entries stay, by the knobs of such methods."""
    return Used(settings.number("lambda_t"), float(settings.number("k")))
