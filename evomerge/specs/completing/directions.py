"""Which way is better: what objectives say, and what their metrics say themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.meter import source_of
from evomerge.core.nearest import did_you_mean
from evomerge.core.study import Direction, Measure
from evomerge.core.survey import ALWAYS, TaskFacts
from evomerge.specs.reading.mistakes import Mistakes


@dataclass(frozen=True, slots=True)
class Senses:
    """What is known of metrics, as far as tasks were looked at.

    Attributes:
        facts: Task to what can be measured of it.
        mistakes: Where to note what is wrong.
    """

    facts: Mapping[str, TaskFacts]
    mistakes: Mistakes

    def check(self, measure: Measure, key: str) -> bool:
        """Tell whether a measure can be had, and note at a key if it cannot."""
        facts = self.facts.get(measure.task)
        metric = measure.metric
        if facts is None:
            group, dot, _ = measure.task.partition(".")
            if dot and group in self.facts:
                known = [name for name in self.facts if name.startswith(f"{group}.")]
                hint = did_you_mean(measure.task, known)
                self.mistakes.add(key, f"unknown task {measure.task!r}{hint}")
            return True
        if metric in ALWAYS and not facts.generates:
            self.mistakes.warn(
                key,
                f"{measure} is always 0: {measure.task!r} generates no text.",
            )
        if metric in (*facts.senses, *ALWAYS):
            return True
        if metric in facts.refused:
            self.mistakes.add(key, facts.refused[metric])
        else:
            known = [f"{measure.task}/{name}" for name in facts.senses]
            hint = did_you_mean(str(measure), known)
            self.mistakes.add(key, f"unknown metric {str(measure)!r}{hint}")
        return False

    def direction(
        self,
        name: str,
        measures: Sequence[Measure],
        said: Direction | None,
        key: str,
    ) -> Direction:
        """Return which way an objective is better; note if that cannot be told.

        Args:
            name: Of the objective.
            measures: What it is made of.
            said: What the study says.
            key: Where the direction stands, or would.
        """
        own = {str(m): self._own(m) for m in measures if self._is_known(m)}
        if said is not None:
            against = [m for m, way in own.items() if way not in (None, said)]
            if against:
                which = "less" if said is Direction.MAXIMIZE else "more"
                self.mistakes.warn(
                    key,
                    f"{name!r} is to {said}, as written, but {which} is better of "
                    f"{', '.join(against)}.",
                )
            return said
        unknown = [measure for measure, way in own.items() if way is None]
        if unknown:
            self.mistakes.add(
                key,
                f"expected `maximize` or `minimize` for {name!r}, got nothing: neither "
                f"the task nor lm-eval says which way {', '.join(unknown)} is better.",
            )
        elif len(set(own.values())) > 1:
            more = [m for m, way in own.items() if way is Direction.MAXIMIZE]
            less = [m for m, way in own.items() if way is Direction.MINIMIZE]
            self.mistakes.add(
                key,
                f"expected `maximize` or `minimize` for {name!r}, got nothing: more is "
                f"better of {', '.join(more)}, less of {', '.join(less)}. Better give "
                "each an objective of its own.",
            )
        return next(iter(own.values()), None) or Direction.MAXIMIZE

    def _is_known(self, measure: Measure) -> bool:
        """Tell whether a measure is not one whose metric was noted as a mistake."""
        facts = self.facts.get(measure.task)
        return facts is None or measure.metric in (*facts.senses, *ALWAYS)

    def _own(self, measure: Measure) -> Direction | None:
        source = None if measure.by_item else source_of(measure.task)
        facts = self.facts.get(measure.task)
        if source is not None:
            is_more = source.sense(measure.metric)
        elif measure.metric in ALWAYS:
            is_more = False
        else:
            is_more = True if facts is None else facts.senses.get(measure.metric)
        if is_more is None:
            return None
        return Direction.MAXIMIZE if is_more else Direction.MINIMIZE
