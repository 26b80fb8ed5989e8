"""What generations answer if that is a share of the items, and what is told then.

Both follow from what is recorded, so a resume finds the same: the sample of a
generation from seed, its number and the tasks; what is told from its trials' scores,
which are over that sample whatever else is known; the finals from what was told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import ItemRole, TaskDescription, scores_of
from evomerge.core.study import Sampling
from evomerge.core.trial import Record
from evomerge.errors import ReplayError
from evomerge.search.plan import Plan
from evomerge.store.base import Generation, Store
from evomerge.strategies.base import Told
from evomerge.strategies.ranks import told, violation

LAST_GENERATIONS = 8
"""The finals are drawn from so many."""

Baselines = Mapping[str, Mapping[str, float]]


class Teller:
    """Turns trials into what a strategy is told, whatever items they answered."""

    def __init__(self, plan: Plan, store: Store, study_id: int) -> None:
        self._plan = plan
        self._store = store
        self._study_id = study_id

    def told(
        self, records: Sequence[Record], sample: Sample | None, baselines: Baselines
    ) -> list[Told]:
        """Return what is told of a generation.

        Args:
            records: Its trials, all final, by index.
            sample: What they answered; None for all items.
            baselines: Label to scores on all items.
        """
        if sample is not None:
            baselines = self._on(sample, baselines)
        return [
            told(
                record.point or {},
                self._plan.objectives,
                self._plan.constraints,
                record.scores,
                baselines,
                record.precision,
            )
            for record in records
        ]

    def _on(self, sample: Sample, baselines: Baselines) -> Baselines:
        """Return the scores on a sample of the baselines that bounds compare with."""
        wanted = {one.relative_to for one in self._plan.constraints} & baselines.keys()
        if not wanted:
            return baselines
        tasks = sample.of(self._store.tasks(self._study_id) or ())
        ways = {t.manifest.task: t.protocol.digest for t in tasks}
        on_sample: dict[str, Mapping[str, float]] = {}
        for one in self._store.history(self._study_id, 0):
            if one.label is not None and one.label in wanted:
                found = self._store.outcomes_under(one.recipe, ways.values())
                known = {task: found[way] for task, way in ways.items()}
                # What it costs is the same on any items.
                on_sample[one.label] = {**(one.scores or {}), **scores_of(tasks, known)}
        return on_sample

    def finalists(
        self,
        history: Mapping[int, Sequence[Record]],
        samples: Samples,
        board: Baselines,
    ) -> tuple[Record, ...]:
        """Return the candidates that are scored on all items, the most promising first.

        Of the last generations those told the least loss, feasible ones first, each
        merge once. Different generations answered different items, of one number.

        Args:
            history: Trials by generation; all that are over by then.
            samples: What each generation answered.
            board: Label of each baseline to its scores on all items.
        """
        found: list[tuple[tuple[float, float], Record]] = []
        for number in sorted(samples)[-LAST_GENERATIONS:]:
            records = history[number]
            for record, one in zip(
                records, self.told(records, samples[number], board), strict=True
            ):
                if one.losses is not None:
                    found.append(((violation(one), one.losses[0]), record))
        found.sort(key=lambda pair: (pair[0], pair[1].number))
        once: dict[str, Record] = {}
        for _, record in found:
            once.setdefault(record.recipe, record)
        n = 0 if self._plan.sampling is None else self._plan.sampling.finalists
        return tuple(once.values())[:n]


Samples = Mapping[int, Sample | None]
"""Number of a generation that a strategy proposed to what it answered."""


def is_finals(records: Sequence[Record]) -> bool:
    """Tell whether a generation is one of finals."""
    return any(record.final_of is not None for record in records)


def samples_of(
    generations: Sequence[Generation], history: Mapping[int, Sequence[Record]]
) -> dict[int, Sample | None]:
    """Return what was answered by each generation that a strategy proposed."""
    return {
        one.number: one.sample
        for one in generations
        if one.number > 0 and not is_finals(history[one.number])
    }


def check_finals(
    study: str, number: int, recorded: Sequence[Record], again: Sequence[Record]
) -> None:
    """Compare recorded finals with those that history gives.

    Raises:
        ReplayError: They differ.
    """
    old = [(one.final_of, one.recipe) for one in recorded]
    new = [(one.number, one.recipe) for one in again]
    for place, (mine, theirs) in enumerate(zip(old, new, strict=False)):
        if mine != theirs:
            raise ReplayError(
                f"Study {study!r}, generation {number}: final {place} is recorded as "
                f"that of trial {mine[0]}, but by the recorded scores it is trial "
                f"{theirs[0]}. {NEXT}"
            )
    if len(old) != len(new):
        raise ReplayError(
            f"Study {study!r}, generation {number}: {len(old)} finals are recorded, "
            f"but by the recorded scores there are {len(new)}. {NEXT}"
        )


def check_sample(
    study: str, number: int, recorded: Sample | None, again: Sample | None
) -> None:
    """Compare a recorded sample with the one that seed and tasks give.

    Raises:
        ReplayError: They differ.
    """
    if recorded == again:
        return
    old = {} if recorded is None else recorded.to_json()
    new = {} if again is None else again.to_json()
    task = next((n for n in sorted({*old, *new}) if old.get(n) != new.get(n)), "")
    raise ReplayError(
        f"Study {study!r}, generation {number}: of task {task!r} the blocks "
        f"{old.get(task, 'all')} are recorded as asked, but the study's seed now draws "
        f"{new.get(task, 'all')}. {NEXT}"
    )


NEXT = (
    "The recorded rows were changed, or another version of evomerge or of the "
    "optimiser's library is installed: restore the database from a copy, or install "
    "the versions recorded with the study, and resume again."
)


class Prices:
    """What a sampled search costs in items, at most."""

    def __init__(self, sampling: Sampling, tasks: Sequence[TaskDescription]) -> None:
        """Count the items of a study's tasks."""
        trial = least = every = 0
        for task in tasks:
            blocks = task.manifest.blocks(ItemRole.SEARCH)
            sizes = sorted(len(task.manifest.ids(block)) for block in blocks)
            n = math.ceil(round(sampling.share * len(sizes), 9))
            trial += sum(sizes[-n:])
            least += sum(sizes[:n])
            every += sum(sizes)
        self.trial = trial
        """Of a candidate that answers a sample."""
        self.finals = sampling.finalists * (every - least)
        """Of all finals: what they have not answered yet."""
