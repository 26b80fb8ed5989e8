"""What a study finds does not depend on how its items are cut into blocks."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.searched import search_small

from evomerge.core.scoring_protocol import ItemRole, Outcome, scores_of
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.evaluator import Evaluator
from evomerge.store.sql import open_store
from evomerge.testing.parents import Parents
from evomerge.testing.search import SmallStudy, decided

TASKS = Path(__file__).parent / "tasks"
CUTS = (
    {"n_blocks": 4, "block_items": 1},
    {"n_blocks": 16, "block_items": 10},
    {"n_blocks": 1},
)
pytestmark = pytest.mark.timeout(300)


def cut(setup: WorkerSetup, how: dict[str, int]) -> WorkerSetup:
    return replace(setup, tasks=tuple(replace(task, **how) for task in setup.tasks))


@dataclass(frozen=True)
class CutStudy(SmallStudy):
    how: dict[str, int] = field(default_factory=dict)

    def setup(self, cache_dir: Path) -> WorkerSetup:
        return cut(super().setup(cache_dir), self.how)


def test_a_search_takes_the_same_course_with_every_cut(tmp_path: Path) -> None:
    found = []
    for number, how in enumerate(CUTS):
        url = f"sqlite:///{tmp_path}/{number}.db"
        strategy = StrategySettings("tpe", 4)
        options = {"items": 120, "fail_if": 0.1}
        small = CutStudy(strategy, Budget(trials=12), options, how=how)
        assert search_small(url, tmp_path / "cache", small) == "trial budget used"
        store = open_store(url)
        assert list(store.check()) == []
        found.append(decided(store))
        store.close()
    assert found[0] == found[1] == found[2]
    assert len({repr(scores) for *_, scores in found[0]}) > 5


def test_a_model_is_scored_the_same_with_every_cut(tmp_path: Path) -> None:
    parents = Parents(tmp_path).write()
    recipe = parents.blend(0.5)
    tasks = tuple(
        TaskSettings(name, name, include_path=str(TASKS), max_gen_toks=size)
        for name, size in (("sums", 6), ("pets", None))
    )
    bare = parents.setup("a", EngineSettings(kind="hf", max_model_len=256))
    found = []
    for how in CUTS:
        worker = Evaluator(cut(replace(bare, tasks=tasks), how))
        described = worker.ready("w").tasks
        known: dict[str, dict[str, Outcome]] = {}
        for task in described:
            blocks = task.manifest.blocks(ItemRole.SEARCH)
            outcomes = worker.score(recipe, blocks)
            known[task.manifest.task] = {o.item: o for o in outcomes}
        worker.close()
        found.append(scores_of(described, known))
    assert found[0] == found[1] == found[2]
