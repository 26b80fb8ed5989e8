"""Make-believe tasks: a landscape of scores over a recipe's knobs, and its pitfalls.

For the coordinator's tests, kill tests and a first try on a laptop. A score is a
function of the recipe and the question, so a run repeats exactly, and recipes share
their luck: an item answered by a worse recipe is answered by a better one. Loads
neither torch nor lm-eval, and needs no particular engine.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from evomerge.core.nearest import nearest
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import (
    BlockKey,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.survey import TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.errors import CandidateError, Problem, SpecError, WorkerError
from evomerge.scoring.items import item_id, split_items

TASK = "simulated"
"""What ``TaskSettings.task`` says for a task of this module."""

_HANG_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Landscape:
    """How a simulated task scores, and what goes wrong on it.

    The chance that an item is answered is
    ``floor + (ceiling - floor) * exp(-mean((knob - optimum)^2) / (2 * width^2))`` over
    the recipe's numeric knobs; a recipe without any gets ``floor``.

    Attributes:
        items: Questions in the task.
        metric: Name of the one metric, 0 or 1 for each item.
        higher_is_better: What the task says of it.
        optimum: Best value of every knob, or of each by name; knobs not named have
            their own between 0 and 1, drawn from the task's name.
        width: Distance over which the chance falls, in units of the knobs.
        floor: Chance far from the optimum.
        ceiling: Chance at the optimum.
        tokens: Tokens each answer pretends to have.
        sleep_s: Seconds a block takes.
        fail_if: Share of recipes, drawn by digest, whose weights are "not finite".
        break_if: Share of recipes on which the machine fails.
        memory_if: Share of recipes for which memory runs out.
        full_if: Share of recipes for which the worker's disk is full.
        error_if: Share of recipes whose answers the task's own code chokes on.
        hang_if: Share of recipes that never answer.
        crash_if: Share of recipes that kill the worker's process.
        fault_block: Block at which a fault strikes.
        fault_times: How often they strike for one recipe, over all workers that
            share a cache folder; None means always.
    """

    items: int = 40
    metric: str = "acc"
    higher_is_better: bool = True
    optimum: float | Mapping[str, float] | None = None
    width: float = 0.5
    floor: float = 0.05
    ceiling: float = 0.95
    tokens: int = 0
    sleep_s: float = 0.0
    fail_if: float = 0.0
    break_if: float = 0.0
    memory_if: float = 0.0
    full_if: float = 0.0
    error_if: float = 0.0
    hang_if: float = 0.0
    crash_if: float = 0.0
    fault_block: int = 0
    fault_times: int | None = None

    @classmethod
    def read(cls, settings: TaskSettings) -> Landscape:
        """Read a task's options.

        Raises:
            SpecError: An option is not known.
        """
        known = [field.name for field in fields(cls)]
        problems = []
        for name in settings.options:
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean {near[0]!r}? " if near else ""
                problems.append(
                    Problem(
                        f"task {settings.name}: options.{name}",
                        f"no such option; {hint}Known: {', '.join(known)}.",
                    )
                )
        problems += [
            Problem(f"task {settings.name}: options.{name}", said)
            for name, value in settings.options.items()
            if (said := _problem(name, value)) is not None
        ]
        if problems:
            raise SpecError(problems)
        return cls(**settings.options)

    @property
    def facts(self) -> TaskFacts:
        """What can be measured."""
        senses = {self.metric: self.higher_is_better}
        return TaskFacts(senses, generates=self.tokens > 0)

    def ids(self, name: str) -> list[str]:
        """Return the names of the questions of a task of this name."""
        return [
            item_id({"simulated": name, "item": number}) for number in range(self.items)
        ]


_MOST_ITEMS = 1_000_000


def _problem(name: str, value: Any) -> str | None:
    """Say what is wrong with an option; None if nothing is."""
    if value is None and name in ("optimum", "fault_times"):
        return None
    if name == "metric":
        fits, wanted = isinstance(value, str), "a name"
    elif name == "higher_is_better":
        fits, wanted = value in (True, False, None), "true or false"
    elif name in ("items", "tokens", "fault_block", "fault_times"):
        least = int(name == "items")
        fits = type(value) is int and least <= value <= _MOST_ITEMS
        wanted = f"a whole number from {least} to {_MOST_ITEMS}"
    else:
        is_map = name == "optimum" and isinstance(value, Mapping)
        numbers = value.values() if is_map else (value,)
        fits, wanted = all(type(n) in (int, float) for n in numbers), "a number"
    return None if fits else f"expected {wanted}, got {value!r}."


_NOT_SCORES = (
    "higher_is_better",
    *("sleep_s", "fail_if", "break_if", "memory_if", "full_if", "error_if", "hang_if"),
    *("crash_if", "fault_block", "fault_times"),
)


class SimulatedTask:
    """One made-up task; see ``Landscape`` for what it can do."""

    def __init__(
        self, settings: TaskSettings, facts: Mapping[str, Any], cache_dir: str
    ) -> None:
        self._name = settings.name
        self._landscape = Landscape.read(settings)
        self._cache = Path(cache_dir)
        ids = self._landscape.ids(settings.name)
        scored_by = {
            field.name: getattr(self._landscape, field.name)
            for field in fields(Landscape)
            if field.name not in (*_NOT_SCORES, "items")
        }
        protocol = {
            "task": TASK,
            "name": settings.name,
            "landscape": scored_by,
            "engine": dict(facts),
        }
        self._description = TaskDescription(
            manifest=Manifest(
                settings.name, split_items(settings, ids), settings.shares
            ),
            protocol=ScoringProtocol(settings.name, protocol),
            metrics=(self._landscape.metric,),
        )

    def describe(self) -> TaskDescription:
        """Return items, protocol and metrics."""
        return self._description

    def score(self, recipe: Recipe, block: BlockKey) -> tuple[Outcome, ...]:
        """Answer a block of items as this recipe would.

        Raises:
            CandidateError: The recipe is one of those that ``fail_if`` picks.
            WorkerError: The recipe is one of those that ``break_if`` picks.
            MemoryError: ``memory_if`` picks it.
            OSError: ``full_if`` picks it.
            KeyError: ``error_if`` picks it.
        """
        look = self._landscape
        if look.sleep_s:
            time.sleep(look.sleep_s)
        if uniform("fail", drawn_by(recipe)) < look.fail_if:
            raise CandidateError(
                f"The weights of recipe {recipe.digest} are not finite (simulated)."
            )
        if block.index == look.fault_block:
            self._strike(recipe)
        return self._answers(recipe, self._description.manifest.ids(block))

    def score_first(self, recipe: Recipe, n: int) -> tuple[Outcome, ...]:
        """Answer the first n search items; nothing goes wrong here."""
        ids = self._description.manifest.ids_of(ItemRole.SEARCH)
        return self._answers(recipe, ids[:n])

    def _answers(self, recipe: Recipe, items: Sequence[str]) -> tuple[Outcome, ...]:
        look, chance = self._landscape, self.chance(recipe)
        return tuple(
            Outcome(
                item=item,
                metrics={look.metric: float(uniform("item", item) < chance)},
                tokens=look.tokens,
            )
            for item in items
        )

    def chance(self, recipe: Recipe) -> float:
        """Return the probability that an item is answered, in [floor, ceiling]."""
        look = self._landscape
        squares = [
            (value - self._optimum(knob, source)) ** 2
            for knob, source, value in _numeric_knobs(recipe)
        ]
        if not squares:
            return look.floor
        fall = math.exp(-sum(squares) / len(squares) / (2 * look.width**2))
        return look.floor + (look.ceiling - look.floor) * fall

    def _optimum(self, knob: str, source: str) -> float:
        optimum = self._landscape.optimum
        if isinstance(optimum, Mapping):
            if knob in optimum:
                return optimum[knob]
        elif optimum is not None:
            return optimum
        return uniform("optimum", self._name, knob, source)

    def _strike(self, recipe: Recipe) -> None:
        look = self._landscape
        for kind in ("break", "memory", "full", "error", "hang", "crash"):
            share = getattr(look, f"{kind}_if")
            if uniform(kind, drawn_by(recipe)) < share and self._has_strike_left(
                f"{kind}-{drawn_by(recipe)}"
            ):
                _fault(kind)

    def _has_strike_left(self, name: str) -> bool:
        """Count a fault in the cache folder, so that a new process knows of it."""
        if self._landscape.fault_times is None:
            return True
        folder = self._cache / "simulated-faults"
        folder.mkdir(parents=True, exist_ok=True)
        for time_ in range(self._landscape.fault_times):
            try:
                (folder / f"{self._name}-{name}-{time_}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def _numeric_knobs(recipe: Recipe) -> Iterator[tuple[str, str, float]]:
    """Yield knob, input name ("" if shared) and value, in the recipe's order."""
    for _, slot in recipe.places():
        for _, operation in slot.roles:
            for name, value in operation.shared:
                if _is_number(name, value):
                    yield name, "", float(value)
            for name, values in operation.each:
                for source, value in zip(operation.inputs, values, strict=True):
                    if _is_number(name, value):
                        yield name, source, float(value)


def _is_number(name: str, value: object) -> bool:
    """Whether a knob has a place on the landscape; a random seed has none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and name != "seed"


def drawn_by(recipe: Recipe) -> str:
    """Return what draws of a merge go by: its first name, so that they stay."""
    return recipe.computed.in_version(1).digest


def uniform(*parts: str) -> float:
    """Return a number in [0, 1) that depends on the words alone."""
    bits = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(bits, "big") / 2**64


def _fault(kind: str) -> NoReturn:
    if kind == "crash":
        os._exit(17)
    if kind == "hang":
        time.sleep(_HANG_S)
    if kind == "memory":
        raise MemoryError("Out of memory (simulated).")
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device (simulated)")
    if kind == "error":
        raise KeyError("answer")
    raise WorkerError(f"The machine failed (simulated: {kind}).")
