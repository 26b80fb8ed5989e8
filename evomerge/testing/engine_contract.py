# ruff: noqa: D102 - the names of inherited tests are sentences already
"""What every engine must do, as tests to inherit.

A subclass says how the engine is started and what its kind is called; it may override
``settings`` and the parents' ``family``, ``tied`` and ``dtype``. One engine serves all
tests of a class, started from parent ``a``; each test swaps in what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import CandidateError, RequestError, WorkerError
from evomerge.scoring.engine import Engine, GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.self_test import Probe, whole
from evomerge.testing.models import Family
from evomerge.testing.parents import (
    PROMPTS,
    Parents,
    answers_by_hand,
    by_hand,
    pairs,
)


class SwapContract:
    """Swaps are exact: inherit, set ``kind``, and give ``open_engine``."""

    kind: ClassVar[str]
    family: ClassVar[Family] = "llama"
    tied: ClassVar[bool] = False
    dtype: ClassVar[str] = "float32"

    @staticmethod
    def open_engine(setup: WorkerSetup) -> Engine:
        """Start the engine under test; override this, perhaps by its class."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> EngineSettings:
        """Return how the engine under test is run."""
        return EngineSettings(
            kind=cls.kind, dtype=cls.dtype, max_model_len=128, kv_cache_bytes=16 << 20
        )

    @classmethod
    def noise(cls) -> float:
        """Return what different sums of the same products may differ by."""
        return 1e-4 if cls.dtype == "float32" else 0.3

    @pytest.fixture(scope="class")
    @classmethod
    def parents(cls, tmp_path_factory: pytest.TempPathFactory) -> Parents:
        """Write the two parents."""
        folder = tmp_path_factory.mktemp("parents")
        return Parents(folder, cls.family, cls.tied, cls.dtype).write()

    @pytest.fixture(scope="class")
    @classmethod
    def cold_b(cls, parents: Parents) -> Probe:
        """Measure ``b`` in an engine loaded from its folder."""
        engine = cls.open_engine(parents.setup("b", cls.settings()))
        try:
            return Probe.take(engine)
        finally:
            engine.close()

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, parents: Parents, cold_b: Probe) -> Iterator[tuple[Engine, Probe]]:
        """Start one engine from ``a``, measure it cold, and close it twice at last."""
        engine = cls.open_engine(parents.setup("a", cls.settings()))
        yield engine, Probe.take(engine)
        engine.close()
        engine.close()
        with pytest.raises(WorkerError, match="closed"):
            engine.loglikelihood(pairs())

    @pytest.fixture
    def engine(self, shared: tuple[Engine, Probe], parents: Parents) -> Engine:
        """Give the shared engine, holding ``a``."""
        engine, _ = shared
        engine.swap(_whole(parents, "a", self.settings()))
        return engine

    def test_swapped_in_parent_equals_its_cold_load_exactly(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        report = engine.swap(_whole(parents, "b", self.settings()))
        hot = Probe.take(engine)
        assert hot.difference(cold_b) == 0.0
        assert hot.answers == cold_b.answers
        assert report.size_bytes == read_model(parents.folder / "b").size_bytes
        assert report.swap_s > 0
        assert report.materialise_s > 0

    def test_swapping_back_gives_the_first_answers_again(
        self, shared: tuple[Engine, Probe], parents: Parents
    ) -> None:
        engine, cold_a = shared
        for name in "ba":
            engine.swap(_whole(parents, name, self.settings()))
        hot = Probe.take(engine)
        assert hot.difference(cold_a) == 0.0
        assert hot.answers == cold_a.answers

    def test_parents_answer_differently(
        self, shared: tuple[Engine, Probe], cold_b: Probe
    ) -> None:
        assert shared[1].difference(cold_b) > 0.1

    def test_loglikelihood_is_what_transformers_computes(
        self, engine: Engine, parents: Parents
    ) -> None:
        expected = by_hand(parents.folder / "a", self.dtype, pairs())
        found = engine.loglikelihood(pairs())
        differences = [
            abs(answer.logprob - logprob)
            for answer, (logprob, _) in zip(found, expected, strict=True)
        ]
        name = f"{self.kind} {self.family} {self.dtype} tied={self.tied}"
        print(f"{name}: {max(differences):.2g} from transformers")  # noqa: T201 - kept by -rP
        assert max(differences) <= self.noise()
        if self.dtype == "float32":
            assert [a.is_greedy for a in found] == [greedy for _, greedy in expected]

    def test_greedy_answers_are_those_of_transformers(
        self, engine: Engine, parents: Parents
    ) -> None:
        if self.dtype != "float32":
            pytest.skip("Rounding decides between near ties in half precision.")
        expected = answers_by_hand(parents.folder / "a", 12)
        answers = engine.generate([GenerateRequest(p, 12) for p in PROMPTS])
        assert [a.text for a in answers] == expected


class EngineContract(SwapContract):
    """All that is asked of an engine; inherit as from ``SwapContract``."""

    def test_greedy_continuation_is_recognised(self, engine: Engine) -> None:
        prompt = PROMPTS[0]
        every = [
            LoglikelihoodRequest(prompt, (t,)) for t in range(len(engine.tokenizer))
        ]
        scores = engine.loglikelihood(every)
        best = max(range(len(every)), key=lambda token: scores[token].logprob)
        assert [i for i, score in enumerate(scores) if score.is_greedy] == [best]

    def test_answers_come_in_the_order_asked(self, engine: Engine) -> None:
        prompts = [GenerateRequest(p, 8) for p in PROMPTS]
        answers = engine.generate(prompts)
        assert engine.generate(prompts[::-1]) == answers[::-1]
        scores = [s.logprob for s in engine.loglikelihood(pairs())]
        back = [s.logprob for s in engine.loglikelihood(pairs()[::-1])][::-1]
        assert back == pytest.approx(scores, abs=self.noise())

    def test_answer_at_its_limit_is_truncated_and_counted(self, engine: Engine) -> None:
        answers = engine.generate([GenerateRequest(p, 3) for p in PROMPTS])
        assert all(a.n_tokens <= 3 for a in answers)
        assert any(a.truncated for a in answers)
        assert all(a.n_tokens == 3 for a in answers if a.truncated)

    def test_answer_is_truncated_where_the_engine_is_full(self, engine: Engine) -> None:
        for place in range(len(PROMPTS)):
            prompt = (PROMPTS[place] * engine.max_length)[: engine.max_length - 2]
            (answer,) = engine.generate([GenerateRequest(prompt, 50)])
            assert answer.n_tokens <= 2
            if answer.truncated:
                assert answer.n_tokens == 2
                return
        pytest.fail("Every prompt's answer ended by itself.")

    def test_stop_string_ends_the_answer_and_is_not_part_of_it(
        self, engine: Engine
    ) -> None:
        free = engine.generate([GenerateRequest(p, 24) for p in PROMPTS])
        place = max(range(len(free)), key=lambda i: len(set(free[i].text)))
        text = free[place].text
        stop = text[len(text) // 2]
        request = GenerateRequest(PROMPTS[place], 24, stop=("never", stop))
        mixed = engine.generate([GenerateRequest(PROMPTS[0], 24), request])
        assert mixed[1].text == text[: text.index(stop)]
        assert not mixed[1].truncated
        assert mixed[1].n_tokens < free[place].n_tokens or free[place].text.endswith(
            stop
        )
        assert mixed[0].text == free[0].text

    def test_seeded_sampling_repeats_and_differs_by_seed(self, engine: Engine) -> None:
        def draw(seed: int) -> list[str]:
            asked = [
                GenerateRequest(p, 8, temperature=1.5, top_p=0.95, seed=seed)
                for p in PROMPTS
            ]
            return [a.text for a in engine.generate(asked)]

        assert draw(1) == draw(1)
        assert draw(1) != draw(2)

    def test_old_prefixes_are_forgotten_at_a_swap(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        Probe.take(engine)  # fills any cache with what `a` thinks of the same prompts
        engine.swap(_whole(parents, "b", self.settings()))
        answers = engine.generate(Probe.prompts(engine))
        assert tuple((a.text, a.n_tokens) for a in answers) == cold_b.answers

    def test_merge_that_is_not_finite_blames_the_candidate_and_nothing_else(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        with pytest.raises(CandidateError, match="not finite"):
            engine.swap(parents.blend(3e38))
        with pytest.raises(WorkerError, match="swap"):
            engine.loglikelihood(pairs())
        with pytest.raises(WorkerError, match="swap"):
            engine.generate([GenerateRequest(PROMPTS[0], 2)])
        engine.swap(_whole(parents, "b", self.settings()))
        assert Probe.take(engine).difference(cold_b) == 0.0

    def test_merge_of_another_depth_is_refused(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        with pytest.raises(CandidateError, match="frame"):
            engine.swap(parents.blend(0.5, n_layers=3))
        engine.swap(_whole(parents, "b", self.settings()))
        assert Probe.take(engine).difference(cold_b) == 0.0

    def test_blend_lies_elsewhere_than_its_parents(
        self, shared: tuple[Engine, Probe], parents: Parents, cold_b: Probe
    ) -> None:
        engine, cold_a = shared
        engine.swap(parents.blend(0.5))
        blend = Probe.take(engine)
        assert blend.difference(cold_a) > 0.01
        assert blend.difference(cold_b) > 0.01

    def test_requests_that_do_not_fit_are_refused_with_the_numbers(
        self, engine: Engine
    ) -> None:
        n = engine.max_length
        with pytest.raises(RequestError, match=str(n)):
            engine.generate([GenerateRequest((5,) * n, 1)])
        with pytest.raises(RequestError, match=str(n)):
            engine.loglikelihood([LoglikelihoodRequest((5,) * n, (6,))])
        with pytest.raises(RequestError, match="empty"):
            engine.loglikelihood([LoglikelihoodRequest((), (6,))])
        with pytest.raises(RequestError, match="empty"):
            engine.generate([GenerateRequest((), 1)])

    def test_longest_pair_that_fits_is_scored(self, engine: Engine) -> None:
        n = engine.max_length
        (score,) = engine.loglikelihood([LoglikelihoodRequest((5,) * (n - 2), (6, 7))])
        assert score.logprob < 0

    def test_nothing_asked_nothing_answered(self, engine: Engine) -> None:
        assert engine.generate([]) == []
        assert engine.loglikelihood([]) == []
        (score,) = engine.loglikelihood([LoglikelihoodRequest((5,), ())])
        assert (score.logprob, score.is_greedy) == (0.0, True)

    def test_facts_are_plain_and_name_kind_and_dtype(self, engine: Engine) -> None:
        facts: dict[str, Any] = dict(engine.facts)
        assert facts["kind"] == self.kind
        assert facts["dtype"] == self.dtype
        assert all(isinstance(value, str) for value in facts.values())


def _whole(parents: Parents, name: str, settings: EngineSettings) -> Recipe:
    return whole(parents.setup("a", settings), parents.fingerprint(name))
