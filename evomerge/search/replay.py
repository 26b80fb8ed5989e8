"""Bring a strategy to where its recorded history puts it, checking on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.digest import canonical_json
from evomerge.core.sample import Sample
from evomerge.core.trial import Point, Record
from evomerge.errors import ReplayError
from evomerge.search.sampling import NEXT, check_sample, samples_of
from evomerge.store.base import Generation
from evomerge.strategies.base import Proposal, Strategy, Told


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where a strategy stands after its history.

    Attributes:
        last: Number of the last generation the strategy has been asked; 0 for none.
        open: That generation's full proposal, while it has not been told.
        turn: Its number as the strategy counts, to whom finals are none.
    """

    last: int
    open: Proposal | None
    turn: int


def replay(
    study: str,
    strategy: Strategy,
    generations: Sequence[Generation],
    history: Mapping[int, Sequence[Record]],
    told_of: Callable[[Sequence[Record], Sample | None], Sequence[Told]],
    drawn: Callable[[int], Sample | None],
) -> Replayed:
    """Ask and tell a fresh strategy everything that was recorded.

    A fold is asked every generation and each must come out as recorded, bit for bit;
    other strategies are asked only the last one. A generation is told when all its
    trials are final, and no budget had cut it short or finals came after it.

    Args:
        study: Its name, for errors.
        strategy: Fresh, seeded.
        generations: The recorded ones, in order; generation 0 is skipped.
        history: The trials of each generation, by index.
        told_of: Turns trials, and what they answered, into what a strategy is told.
        drawn: What a generation is to answer, by its number as the strategy counts.

    Raises:
        ReplayError: Names study, generation and the first difference.
    """
    samples = samples_of(generations, history)
    asked = [g for g in generations if g.number in samples]
    opened: Proposal | None = None
    for turn, generation in enumerate(asked, 1):
        check_sample(study, generation.number, generation.sample, drawn(turn))
        trials = history[generation.number]
        points = tuple(trial.point or {} for trial in trials)
        proposal = Proposal(points, generation.memory, generation.note)
        is_last = generation is asked[-1]
        if strategy.is_fold or is_last:
            again = strategy.ask(turn)
            _compare(study, generation.number, proposal, again)
            proposal = again
        is_whole = len(trials) == len(proposal.points)
        is_over = is_whole or generation.number < generations[-1].number
        if is_over and all(trial.state.is_final for trial in trials):
            told = told_of(trials, generation.sample)
            strategy.tell(turn, proposal, told)
            opened = None
        else:
            opened = proposal
    return Replayed(asked[-1].number if asked else 0, opened, len(asked))


def _compare(study: str, number: int, recorded: Proposal, again: Proposal) -> None:
    where = f"Study {study!r}, generation {number}"
    if len(recorded.points) > len(again.points):
        raise ReplayError(
            f"{where}: {len(recorded.points)} candidates are recorded, but the "
            f"strategy now proposes {len(again.points)}. {NEXT}"
        )
    for index, (old, new) in enumerate(
        zip(recorded.points, again.points, strict=False)
    ):
        if canonical_json(dict(old)) != canonical_json(dict(new)):
            raise ReplayError(
                f"{where}, candidate {index}: {_first_difference(old, new)}. {NEXT}"
            )
    if canonical_json(dict(recorded.memory)) != canonical_json(dict(again.memory)):
        raise ReplayError(f"{where}: the strategy's recorded memory differs. {NEXT}")


def _first_difference(old: Point, new: Mapping[str, object]) -> str:
    for axis in sorted({*old, *new}):
        if old.get(axis) != new.get(axis):
            return (
                f"axis {axis!r} is recorded as {old.get(axis)!r}, but the strategy now "
                f"proposes {new.get(axis)!r}"
            )
    return "the points differ"
