"""Kinds of data that operators work out of their inputs, and how long each holds.

A search merges the same inputs again and again: lengths, angles, thresholds and
singular vectors stay the same. An operator's row in the catalogue names what it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evomerge.core.digest import Scalar


@dataclass(frozen=True, slots=True)
class Derived:
    """A kind of derived data.

    Attributes:
        lasts: It holds for every candidate that merges these inputs, so it is worth
            keeping on disk; False if it holds for one value of a knob.
        of: What else it was worked out with, beside the inputs.
    """

    name: str
    lasts: bool = True
    of: tuple[Scalar, ...] = ()

    def at(self, *of: Scalar) -> Derived:
        """Return this kind, worked out with something beside the inputs."""
        return replace(self, of=of)


MAGNITUDES = Derived("magnitudes")
"""Thresholds that keep the largest differences, for every density on the grid."""
ONE_MAGNITUDE = Derived("one magnitude", lasts=False)
MODEL_MAGNITUDES = Derived("model magnitudes")
"""The same over the tensors of all layers."""
MODEL_MAGNITUDES_OFF_GRID = Derived("model magnitudes off the grid", lasts=False)
ROW_RANKS = Derived("row ranks")
ROW_ENDS = Derived("row ends")
"""The smallest and the largest size of each row."""
RANKS = Derived("ranks")
VARIANCES = Derived("variances")
ONE_VARIANCE = Derived("one variance", lasts=False)
SHARED_TO_UNIQUE = Derived("shared to unique", lasts=False)
MAGNITUDE_ENDS = Derived("magnitude ends")
"""Where the clipping of PCB begins; a knob with few values."""
SCORES = Derived("scores")
ONE_SCORE = Derived("one score", lasts=False)
IMPORTANCE = Derived("importance")
DOT_PRODUCTS = Derived("dot products")
MEAN_COSINE = Derived("mean cosine")
SVD = Derived("svd")
SHARED_BASIS = Derived("shared basis")
CORE = Derived("core")
INTERFERENCE = Derived("interference")
STATISTIC_NORM = Derived("statistic norm")

FISHER = "fisher"
STATISTICS = {
    FISHER: "Diagonal Fisher information: mean square of the gradient of the "
    "log-probability, for every weight.",
}
"""Kinds of statistics, which need data: files that other tools write."""
