"""Fisher merging (Matena and Raffel 2021, 2111.09832), with a diagonal Fisher matrix.

Where two posteriors are normal, their most likely common weights are
``sum(w_i F_i x_i) / sum(w_i F_i)``, entry by entry: an input has its way where its own
predictions depend on the entry.
"""

from __future__ import annotations

from evomerge.core.operators.derived import FISHER
from evomerge.errors import CandidateError
from evomerge.merging.form import Form, Informed, PerEntry
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.linear import shares


def fisher(inputs: Inputs) -> LazyMerge:
    """Average the inputs, entry by entry, by their shares and what was measured.

    Raises:
        CandidateError: The weights sum to zero, or one is negative.
    """
    settings = inputs.settings
    weights = shares(settings, inputs.key)
    if min(weights) < 0.0:
        raise CandidateError(
            f"{inputs.key}: fisher weighs by {list(settings.numbers('weight'))}, but a "
            "mean by information needs weights of at least zero."
        )
    measured = [inputs.statistic(FISHER, i) for i in range(len(weights))]
    by_norm = settings.choice("norm") == "model"
    norms = [one.norm if by_norm else 1.0 for one in measured]
    how = Informed(
        weights,
        tuple(PerEntry(one.tensor.reshape(-1)) for one in measured),
        tuple(norm or 1.0 for norm in norms),
        settings.number("floor"),
        settings.number("power"),
    )
    return LazyMerge(Deltas.of(inputs), Form(how), inputs.key)
