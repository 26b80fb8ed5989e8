"""Bring a strategy to where its recorded history puts it, checking on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.digest import canonical_json
from evomerge.core.trial import Point, Record
from evomerge.errors import ReplayError
from evomerge.store.base import Generation
from evomerge.strategies.base import Proposal, Strategy, Told


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where a strategy stands after its history.

    Attributes:
        last: Number of the last generation the strategy has been asked; 0 for none.
        open: That generation's full proposal, while it has not been told.
    """

    last: int
    open: Proposal | None


def replay(
    study: str,
    strategy: Strategy,
    generations: Sequence[Generation],
    history: Mapping[int, Sequence[Record]],
    told_of: Callable[[Sequence[Record]], Sequence[Told]],
) -> Replayed:
    """Ask and tell a fresh strategy everything that was recorded.

    A fold is asked every generation and each must come out as recorded, bit for bit;
    other strategies are asked only the last one. A generation is told when all its
    trials are final and no budget had cut it short.

    Args:
        study: Its name, for errors.
        strategy: Fresh, seeded.
        generations: The recorded ones, in order; generation 0 is skipped.
        history: The trials of each generation, by index.
        told_of: Turns trials into what a strategy is told.

    Raises:
        ReplayError: Names study, generation and the first difference.
    """
    asked = [g for g in generations if g.number > 0]
    opened: Proposal | None = None
    for generation in asked:
        trials = history[generation.number]
        points = tuple(trial.point or {} for trial in trials)
        proposal = Proposal(points, generation.memory, generation.note)
        is_last = generation is asked[-1]
        if strategy.is_fold or is_last:
            again = strategy.ask(generation.number)
            _compare(study, generation.number, proposal, again)
            proposal = again
        is_whole = len(trials) == len(proposal.points)
        if is_whole and all(trial.state.is_final for trial in trials):
            strategy.tell(generation.number, proposal, told_of(trials))
            opened = None
        else:
            opened = proposal
    return Replayed(asked[-1].number if asked else 0, opened)


def _compare(study: str, number: int, recorded: Proposal, again: Proposal) -> None:
    where = f"Study {study!r}, generation {number}"
    if len(recorded.points) > len(again.points):
        raise ReplayError(
            f"{where}: {len(recorded.points)} candidates are recorded, but the "
            f"strategy now proposes {len(again.points)}. {_NEXT}"
        )
    for index, (old, new) in enumerate(
        zip(recorded.points, again.points, strict=False)
    ):
        if canonical_json(dict(old)) != canonical_json(dict(new)):
            raise ReplayError(
                f"{where}, candidate {index}: {_first_difference(old, new)}. {_NEXT}"
            )
    if canonical_json(dict(recorded.memory)) != canonical_json(dict(again.memory)):
        raise ReplayError(f"{where}: the strategy's recorded memory differs. {_NEXT}")


_NEXT = (
    "The recorded rows were changed, or another version of the optimiser's library is "
    "installed: restore the database from a copy, or install the versions recorded "
    "with the study, and resume again."
)


def _first_difference(old: Point, new: Mapping[str, object]) -> str:
    for axis in sorted({*old, *new}):
        if old.get(axis) != new.get(axis):
            return (
                f"axis {axis!r} is recorded as {old.get(axis)!r}, but the strategy now "
                f"proposes {new.get(axis)!r}"
            )
    return "the points differ"
