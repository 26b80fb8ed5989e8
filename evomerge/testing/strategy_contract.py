"""What every strategy promises, as a test class to inherit.

``main`` lives through one history and prints the digests of what was proposed, in a
process whose strings hash otherwise: a strategy that leans on that shows only there.
"""

# ruff: noqa: D102 - the names of tests are sentences

from __future__ import annotations

import atexit
import importlib.util
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.core.digest import canonical_json, digest
from evomerge.core.space import Axis, ChoiceAxis, SearchSpace
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.testing.forks import ForkServer
from evomerge.testing.strategy_spaces import MIXED, distance, results

SEED = 7


class StrategyContract:
    """Inherit, say how the strategy is made, and every promise is tested.

    The class is made anew in another process, so it stands at the top of its file.

    Attributes:
        space: What is searched: one of ``strategy_spaces``, or another with number axes
            ``x`` and ``coarse``.
        n_objectives: 1 to 3.
        n_generations: Length of the histories.
    """

    space: SearchSpace = MIXED
    n_objectives: int = 1
    n_generations: int = 4

    def make(self, seed: int) -> Strategy:
        """Build the strategy under test, before its first ask; override this.

        It searches ``self.space`` and is told ``self.n_objectives`` losses and one
        violation per candidate.
        """
        raise NotImplementedError

    def test_equal_seeds_and_histories_give_equal_proposals(self) -> None:
        first = live(self.make(SEED), self.n_generations, self.n_objectives)
        second = live(self.make(SEED), self.n_generations, self.n_objectives)
        assert first == second

    def test_another_seed_proposes_something_else(self) -> None:
        assert live(self.make(1), 2, self.n_objectives) != live(
            self.make(2), 2, self.n_objectives
        )

    def test_resuming_at_any_generation_equals_the_undisturbed_run(self) -> None:
        history = live(self.make(SEED), self.n_generations, self.n_objectives)
        for done in range(self.n_generations):
            strategy = self.make(SEED)
            resume(strategy, history[:done], self.n_objectives)
            for generation in range(done + 1, self.n_generations + 1)[:2]:
                proposal = strategy.ask(generation)
                assert recorded(proposal) == history[generation - 1]
                told = results(proposal.points, self.n_objectives, 4)
                strategy.tell(generation, proposal, told)

    @pytest.mark.timeout(300)  # the first one waits for the server's imports
    def test_a_process_with_other_string_hashes_proposes_the_same(
        self, tmp_path: Path
    ) -> None:
        here = live(self.make(SEED), self.n_generations, self.n_objectives)
        brief = {
            "file": inspect.getfile(type(self)),
            "module": type(self).__module__,
            "name": type(self).__qualname__,
            "path": sys.path,
            "history": [[list(p.points), dict(p.memory)] for p in here],
        }
        log = tmp_path / "log"
        assert _other_salt().run(json.dumps(brief), log) == 0, log.read_text()
        fresh, resumed = log.with_suffix(".out").read_text().split()
        assert fresh == digest_of(here)
        assert resumed == digest_of(here[-1:])

    def test_draws_of_other_libraries_change_nothing(self) -> None:
        undisturbed = live(self.make(SEED), 3, self.n_objectives)
        strategy = self.make(SEED)
        for generation in range(1, 4):
            np.random.seed(generation)  # noqa: NPY002 - what careless libraries do
            proposal = strategy.ask(generation)
            assert recorded(proposal) == undisturbed[generation - 1]
            np.random.random(generation)  # noqa: NPY002
            told = results(proposal.points, self.n_objectives, 4)
            strategy.tell(generation, proposal, told)

    def test_the_global_random_state_is_left_as_it_was(self) -> None:
        np.random.seed(5)  # noqa: NPY002
        expected = np.random.random(3)  # noqa: NPY002
        np.random.seed(5)  # noqa: NPY002
        live(self.make(SEED), 2, self.n_objectives)
        assert (np.random.random(3) == expected).all()  # noqa: NPY002

    def test_points_lie_on_the_grid_of_the_space(self) -> None:
        for proposal in live(self.make(SEED), self.n_generations, self.n_objectives):
            for point in proposal.points:
                self.space.check(point)
                for axis in self.space.axes:
                    assert axis.name not in point or on_grid(axis, point[axis.name])

    def test_memory_is_plain_json(self) -> None:
        strategy = self.make(SEED)
        for generation in (1, 2, 3):
            proposal = strategy.ask(generation)
            assert recorded(proposal).memory == dict(proposal.memory)
            told = results(proposal.points, self.n_objectives, 0)
            strategy.tell(generation, proposal, told)

    def test_generations_of_failed_candidates_only_are_survived(self) -> None:
        strategy = self.make(SEED)
        for generation in range(1, 6):
            proposal = strategy.ask(generation)
            assert len(proposal.points) >= 1
            dead = [Told(point, None) for point in proposal.points]
            strategy.tell(generation, proposal, dead)
        live_again = strategy.ask(6)
        told = results(live_again.points, self.n_objectives, 0)
        strategy.tell(6, live_again, told)
        assert strategy.ask(7).points

    def test_generations_of_infeasible_candidates_only_are_survived(self) -> None:
        strategy = self.make(SEED)
        for generation in range(1, 5):
            proposal = strategy.ask(generation)
            told = [
                Told(r.point, r.losses, (1.0 + float(r.point["x"]) ** 2,))
                for r in results(proposal.points, self.n_objectives, 0)
            ]
            strategy.tell(generation, proposal, told)
        assert strategy.ask(5).points

    def test_standard_errors_of_losses_are_taken_and_gone_on_from(self) -> None:
        strategy = self.make(SEED)
        for generation in range(1, self.n_generations + 1):
            proposal = strategy.ask(generation)
            told = [
                replace(r, errors=(0.05,) * self.n_objectives) if r.losses else r
                for r in results(proposal.points, self.n_objectives, 4)
            ]
            strategy.tell(generation, proposal, told)
        assert strategy.ask(self.n_generations + 1).points

    def test_a_generation_cut_short_is_told_and_can_be_gone_on_from(self) -> None:
        usual = len(self.make(SEED).ask(1).points)
        for n in (0, 1, usual // 2 + 1, usual - 1):
            after = [self._after_a_cut(n, trimmed=trimmed) for trimmed in (False, True)]
            assert after[0] == after[1]

    def _after_a_cut(self, n: int, *, trimmed: bool) -> Proposal:
        """Cut generation 2 to ``n``; go on live, or from what was recorded of it."""
        strategy = self.make(SEED)
        history = live(strategy, 1, self.n_objectives)
        proposal = strategy.ask(2)
        told = results(proposal.points, self.n_objectives, 0)[:n]
        if trimmed:
            strategy = self.make(SEED)
            resume(strategy, history, self.n_objectives)
            if strategy.is_fold:
                strategy.ask(2)
            memory = recorded(proposal).memory
            proposal = Proposal(proposal.points[:n], memory=memory)
        strategy.tell(2, proposal, told)
        return recorded(strategy.ask(3))

    def test_asking_twice_is_refused(self) -> None:
        strategy = self.make(SEED)
        strategy.ask(1)
        with pytest.raises(ValueError, match="out of order"):
            strategy.ask(1)

    def test_asking_ahead_is_refused(self) -> None:
        with pytest.raises(ValueError, match="out of order"):
            self.make(SEED).ask(2)

    def test_telling_twice_is_refused(self) -> None:
        strategy = self.make(SEED)
        proposal = strategy.ask(1)
        told = results(proposal.points, self.n_objectives, 0)
        strategy.tell(1, proposal, told)
        with pytest.raises(ValueError, match="out of order"):
            strategy.tell(1, proposal, told)

    def test_results_of_other_points_are_refused(self) -> None:
        strategy = self.make(SEED)
        proposal = strategy.ask(1)
        told = results(proposal.points, self.n_objectives, 0)
        with pytest.raises(ValueError, match="index order"):
            strategy.tell(1, proposal, told[::-1])

    def test_a_loss_that_is_not_finite_is_refused(self) -> None:
        strategy = self.make(SEED)
        proposal = strategy.ask(1)
        told = results(proposal.points, self.n_objectives, 0)
        nan = (float("nan"),) * self.n_objectives
        told[0] = Told(told[0].point, nan, told[0].violations)
        with pytest.raises(ValueError, match="not finite"):
            strategy.tell(1, proposal, told)


class LearningContract(StrategyContract):
    """The same, for a strategy that must beat chance."""

    n_learning: int = 12

    def test_later_generations_are_better_than_the_first(self) -> None:
        history = live(self.make(SEED), self.n_learning, self.n_objectives)
        first = np.median([distance(p) for p in history[0].points])
        last = np.median([distance(p) for p in history[-1].points])
        assert last < 0.7 * first


def recorded(proposal: Proposal) -> Proposal:
    """Return a proposal as a database gives it back."""
    memory = json.loads(canonical_json(dict(proposal.memory)))
    points = json.loads(json.dumps([dict(point) for point in proposal.points]))
    return Proposal(tuple(points), memory=memory, note=proposal.note)


def live(
    strategy: Strategy, n_generations: int, n_objectives: int, n_fail: int = 4
) -> list[Proposal]:
    """Ask and tell a strategy; every generation as recorded."""
    history = []
    for generation in range(1, n_generations + 1):
        proposal = strategy.ask(generation)
        history.append(recorded(proposal))
        told = results(proposal.points, n_objectives, n_fail)
        strategy.tell(generation, proposal, told)
    return history


def resume(
    strategy: Strategy, history: Sequence[Proposal], n_objectives: int, n_fail: int = 4
) -> None:
    """Bring a new strategy to the end of a recorded history."""
    for generation, proposal in enumerate(history, start=1):
        if strategy.is_fold:
            asked = recorded(strategy.ask(generation))
            assert asked == proposal, f"generation {generation} diverged"
        told = results(proposal.points, n_objectives, n_fail)
        strategy.tell(generation, proposal, told)


def digest_of(history: Sequence[Proposal]) -> str:
    """Name all that was proposed, bit for bit."""
    return digest([[list(p.points), dict(p.memory), p.note] for p in history])


def main(argument: str) -> None:
    """Live through the history that a brief in JSON describes."""
    brief = json.loads(argument)
    sys.path[:] = brief["path"]
    contract = _loaded(brief["file"], brief["module"], brief["name"])
    history = [Proposal(tuple(points), m) for points, m in brief["history"]]
    fresh = live(contract.make(SEED), len(history), contract.n_objectives)
    strategy = contract.make(SEED)
    past = fresh[:-1] if strategy.is_fold else history[:-1]
    resume(strategy, past, contract.n_objectives)
    last = recorded(strategy.ask(len(history)))
    sys.stdout.write(f"{digest_of(fresh)} {digest_of([last])}\n")


def _loaded(file: str, module: str, name: str) -> StrategyContract:
    """Return an instance of the class of this name in a file of tests."""
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[module] = found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    contract: StrategyContract = getattr(found, name)()
    return contract


@cache
def _other_salt() -> ForkServer:
    """Return the process, one for all strategies, whose strings hash otherwise."""
    server = ForkServer(Path(__file__), salt=1)  # 0 would be no salt
    atexit.register(server.close)
    return server


def on_grid(axis: Axis, value: Any) -> bool:
    """Tell whether rounding a value changes nothing."""
    if isinstance(axis, ChoiceAxis):
        return value in axis.choices
    return bool(axis.value(axis.unit(value)) == value)
