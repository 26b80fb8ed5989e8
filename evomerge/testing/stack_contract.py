# ruff: noqa: D102 - the names of inherited tests are sentences already
"""What every engine of the stack profile must do, as tests to inherit.

A subclass says how the engine is started and what its kind is called; it may override
``family`` and ``profile``. One engine serves all tests of a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from evomerge.core.work import WorkerSetup
from evomerge.errors import CandidateError, WorkerError
from evomerge.scoring.engine import Engine, GenerateRequest
from evomerge.testing.stacked import N_SLOTS, STACKS, Answers, Family, Stack

NOISE = 1e-4
"""What sums in another order may differ by in float32."""


class StackSwapContract:
    """Stacks are exact: inherit, set ``kind``, and give ``open_engine``."""

    kind: ClassVar[str]
    family: ClassVar[str] = "llama"
    profile: ClassVar[str] = "slots"
    in_place: ClassVar[bool] = False
    n_drawn: ClassVar[int] = 8
    attention: ClassVar[str | None] = None
    """Of the judge, where transformers' own choice leaves something out."""

    @staticmethod
    def open_engine(setup: WorkerSetup) -> Engine:
        """Start the engine under test; override this, perhaps by its class."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def parents(cls, tmp_path_factory: pytest.TempPathFactory) -> Family:
        """Write the two parents."""
        return Family(tmp_path_factory.mktemp("parents"), cls.family).write()

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, parents: Family) -> Iterator[Engine]:
        """Start the engine."""
        setup = parents.setup(cls.kind, cls.profile, in_place=cls.in_place)
        engine = cls.open_engine(setup)
        yield engine
        engine.close()

    @pytest.mark.parametrize("name", STACKS)
    def test_stack_equals_a_model_built_from_the_same_layers(
        self, engine: Engine, parents: Family, name: str
    ) -> None:
        difference = self.swapped(engine, parents, STACKS[name])
        about = f"{self.kind} {self.profile} {self.family}, {name}"
        print(f"{about}: {difference:.2g} from transformers")  # noqa: T201 - kept by -rP

    def swapped(self, engine: Engine, parents: Family, stack: Stack) -> float:
        """Swap a stack in, compare with its judge, return the largest difference."""
        engine.swap(parents.recipe(stack))
        found = Answers.of_engine(engine)
        expected = Answers.of_model(
            parents.judge(stack, self.attention), engine.tokenizer
        )
        assert found.texts == expected.texts, stack
        difference = found.difference(expected)
        assert difference <= NOISE, stack
        return difference


class StackContract(StackSwapContract):
    """All that is asked of it; inherit as from ``StackSwapContract``."""

    def test_stacks_answer_differently(self, engine: Engine, parents: Family) -> None:
        seen = set()
        for stack in STACKS.values():
            engine.swap(parents.recipe(stack))
            seen.add(Answers.of_engine(engine).logprobs)
        assert len(seen) == len(STACKS)

    def test_self_test_passes(self, engine: Engine) -> None:
        found = engine.self_test()
        assert (found.probe_difference, found.return_difference) == (0.0, 0.0)

    def test_stack_after_others_answers_as_it_did_at_first(
        self, engine: Engine, parents: Family
    ) -> None:
        recipe = parents.recipe(STACKS["deeper than any parent"])
        engine.swap(recipe)
        first = Answers.of_engine(engine)
        rng = np.random.default_rng(5)
        for _ in range(3):
            engine.swap(parents.recipe(Stack.drawn(rng)))
        engine.swap(recipe)
        assert Answers.of_engine(engine) == first

    def test_neighbour_writes_only_what_is_new_and_the_same_writes_nothing(
        self, engine: Engine, parents: Family
    ) -> None:
        engine.swap(parents.recipe(Stack.plain("a0 a1 a2 a3")))
        skip = engine.swap(parents.recipe(Stack.plain("a0 a2 a3")))
        assert skip.size_bytes == 0
        engine.swap(parents.recipe(Stack.plain("b0 b1 b2 b3")))
        merged = parents.with_blend(parents.recipe(Stack.plain("b0 b1 b3")), 1, 0.3)
        report = engine.swap(merged)
        assert report.size_bytes == parents.layer_bytes
        assert report.materialise_s > 0
        moved = replace(merged, slots=merged.slots[::-1])
        assert engine.swap(moved).size_bytes == 0

    def test_layers_merged_for_this_candidate_stack_like_any_others(
        self, engine: Engine, parents: Family
    ) -> None:
        stack = Stack((("a", 0, 1.0), ("b", 2, 0.8), ("b", 2, 1.2), ("a", 3, 1.0)))
        model = parents.judge(stack, self.attention)
        layers = model.model.layers
        with torch.no_grad():
            mine, theirs = (
                {
                    name.removeprefix("model.layers.2."): tensor
                    for name, tensor in parents.states[parent].items()
                    if name.startswith("model.layers.2.")
                }
                for parent in "ab"
            )
            blend = {name: 0.3 * mine[name] + 0.7 * theirs[name] for name in mine}
            layers[1].load_state_dict(blend)
        engine.swap(parents.with_blend(parents.recipe(stack), 1, 0.3))
        found = Answers.of_engine(engine)
        expected = Answers.of_model(model, engine.tokenizer)
        assert found.texts == expected.texts
        assert found.difference(expected) <= NOISE

    def test_layer_that_borrowed_a_cache_gives_it_back(
        self, engine: Engine, parents: Family
    ) -> None:
        self.swapped(engine, parents, Stack.plain("a0 a0 a0 a0"))
        self.swapped(engine, parents, Stack.plain("a0 a1 b0 b1 b2 a3 b3"))

    def test_random_candidates_in_a_row_are_exact(
        self, engine: Engine, parents: Family
    ) -> None:
        rng = np.random.default_rng(len(self.family))
        worst = max(
            self.swapped(engine, parents, Stack.drawn(rng)) for _ in range(self.n_drawn)
        )
        about = f"{self.kind} {self.profile} {self.family}"
        print(f"{about}: {self.n_drawn} drawn stacks, up to {worst:.2g} off")  # noqa: T201

    def test_stack_that_does_not_fit_is_refused_and_the_next_one_runs(
        self, engine: Engine, parents: Family
    ) -> None:
        deep = Stack.plain(" ".join(["a0"] * (N_SLOTS + 1)))
        for stack in (deep, Stack.plain("a0 a7")):
            with pytest.raises(CandidateError, match=r"slots|layer 7"):
                engine.swap(parents.recipe(stack))
            with pytest.raises(WorkerError, match="swap"):
                engine.generate([GenerateRequest((5, 6), 2)])
        self.swapped(engine, parents, STACKS["skip"])

    def test_layer_that_is_not_finite_is_refused_and_forgotten(
        self, engine: Engine, parents: Family
    ) -> None:
        stack = parents.recipe(Stack.plain("a0 a1 a2"))
        with pytest.raises(CandidateError, match=r"not (be )?finite"):
            engine.swap(parents.with_blend(stack, 1, 1e39))
        self.swapped(engine, parents, STACKS["deeper than any parent"])
