"""What was measured of an input, read tensor by tensor as the input itself is.

Statistics are artefacts of their own: they took data, and perhaps hours. A recipe names
them by content, beside the input that they were measured of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evomerge.checkpoints import Piece
from evomerge.checkpoints.statistics import StatisticsFile, misfits
from evomerge.core.operators.derived import STATISTIC_NORM
from evomerge.core.recipes.recipe import Adapted, Checkpoint, Input
from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.operators.loops.blocks import total
from evomerge.merging.sources import Sources
from evomerge.merging.views.fused import cut
from evomerge.merging.views.stored import Stored, View, Where


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one input of a merge.

    Attributes:
        sources: Where the file lies.
        file: The statistics.
        view: The model that they were measured of.
    """

    sources: Sources
    file: StatisticsFile
    view: Stored

    @classmethod
    def of(
        cls, kind: str, name: str, source: Input, view: View, sources: Sources
    ) -> Measured:
        """Open what a recipe names.

        Raises:
            RecipeError: It names none for this input, or the input is no plain model.
            CheckpointError: The file cannot be opened, or has changed.
        """
        found, why = None, "is made or changed while merging"
        if isinstance(source, Checkpoint | Adapted):
            found, why = dict(source.statistics).get(kind), "comes with none"
        if found is None or not isinstance(view, Stored):
            raise RecipeError(
                f"Expected {kind!r} statistics of input {name!r}, but it {why}. Name a "
                f"model and its file: statistics: {{{kind}: {{{name}: FILE}}}}."
            )
        file = sources.statistics(found, kind)
        sources.check_unchanged(found)
        return cls(sources, file, view)

    def check(self, names: Mapping[tuple[Where, str], tuple[int, ...]]) -> None:
        """Make sure that there is a number for every entry that is merged.

        Raises:
            RecipeError: A tensor is missing, or has another shape.
        """
        wanted = ((self.view.stored_name(*at), shape) for at, shape in names.items())
        if said := misfits(self.file, wanted):
            raise RecipeError(said)

    def at(self, where: Where, name: str, piece: Piece | None) -> MeasuredTensor:
        """Return what was measured of a tensor of the model, or of its piece."""
        return MeasuredTensor(self, self.view.stored_name(where, name), piece)

    def norm(self) -> float:
        """Return the L2 norm over all tensors, worked out once for each file."""

        def compute() -> float:
            read = (self.sources.measured(self.file, n) for n in self.file.tensors)
            squares = (total(one.double().square().view(-1)) for one in read)
            found = math.sqrt(math.fsum(map(float, squares)))
            if not math.isfinite(found):
                raise CheckpointError(
                    f"{self.file.path}: holds NaN or infinity. Measure it again."
                )
            return found

        what = (self.file.fingerprint, None)
        return self.sources.derived.recall(STATISTIC_NORM, what, compute)


@dataclass(frozen=True, slots=True)
class MeasuredTensor:
    """What was measured of one tensor; see :class:`Statistic`."""

    whole: Measured
    name: str
    piece: Piece | None

    @property
    def tensor(self) -> torch.Tensor:
        """One number per entry, none negative.

        Raises:
            CheckpointError: One is negative, or not finite.
        """
        found = self.whole.sources.measured(self.whole.file, self.name)
        if found.numel() and not (
            float(found.min()) >= 0.0 and math.isfinite(float(found.max()))
        ):
            raise CheckpointError(
                f"{self.whole.file.path}: {self.name!r} holds negative numbers, NaN or "
                "infinity. Measure it again."
            )
        return cut(found, self.piece)

    @property
    def norm(self) -> float:
        """The L2 norm over all tensors of the model."""
        return self.whole.norm()
