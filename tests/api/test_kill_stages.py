"""A study in stages, killed at any moment, goes on to what it would have been."""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.contents import NOTHING, contents, verdict
from support.doomed import Life
from support.postgres import running
from support.study_files import staged_study, write_models, write_study

from evomerge import api
from evomerge.testing.forks import ForkServer

SCRIPT = Path(__file__).with_name("doomed_stages.py")
STAGES = ("two.ps", "two.joint")
SPAN = 700
"""Steps of a stage, about."""
GAP = 55
"""Steps from the end of one stage to the first generation of the next."""
FAULTS = {"fail_if": 0.1, "break_if": 0.1, "error_if": 0.05, "fault_block": 1}


def joint_study(models: Path) -> dict[str, Any]:
    """Return a study of two stages: a merge, then layers of its like and of it."""
    merge = {
        "operator": "task_arithmetic",
        "base": "base",
        "experts": ["math", "ja"],
        "knobs": {"weight": {"low": 0.0, "high": 1.0, "grid": 0.25}},
    }
    options = {"items": 12, **FAULTS}
    tasks = {
        name: {"task": "simulated", "metric": "acc", "options": options}
        for name in ("one", "two")
    }
    flow = {"kind": "gates", "sources": ["merge", "merged", "math"], "scales": "layer"}
    ps = {"name": "ps", "space": merge, "strategy": {"kind": "cma"}}
    joint = {
        "name": "joint",
        "take": {"merged": "ps"},
        "space": {**merge, "flow": {**flow, "pin": "none"}},
        "strategy": {"kind": "catcma"},
    }
    budget = {"trials": 13}
    changes = {"tasks": tasks, "budget": budget, "strategy": None}
    return staged_study(models, stages=[ps, joint], **changes)


class Siege:
    """One study in stages whose processes are killed."""

    def __init__(
        self, folder: Path, rng: np.random.Generator, new_url: Callable[[], str]
    ) -> None:
        self._folder = folder
        self._rng = rng
        self._forks = [ForkServer(SCRIPT, salt) for salt in (1, 2)]
        self._url = new_url
        self.kills = dict.fromkeys((*STAGES, "between"), 0)
        write_study(folder / "two.yaml", joint_study(write_models(folder / "models")))
        calm = self._url()
        assert self._live(Life(calm, str(folder), "", 0)) == 0
        self.calm = {name: contents(calm, name) for name in STAGES}
        self.taken = taken(calm)

    def study(self, n_kills: int) -> None:
        """Kill processes of one study, finish it, and compare it after each.

        Args:
            n_kills: In each stage, and between them.
        """
        url = self._url()
        spans = [("", SPAN // 2), ("between", GAP), ("", GAP), ("", SPAN)]
        plan = [kind for kind in spans for _ in range(n_kills)]
        for salt, (arm, span) in enumerate(plan, 1):
            # Only the first has to get there: the others begin where it ended.
            arm = arm if at(url) == "two.ps" else ""
            late_s = float(self._rng.uniform(0, 0.003)) if salt % 3 == 0 else 0.0
            kill_at = int(self._rng.integers(1, span))
            doomed = Life(url, str(self._folder), arm, 0, 1, salt, kill_at, late_s)
            is_killed = self._live(doomed) != 0
            self.kills[at(url)] += is_killed
            self._look(url, over=False)
        assert self._live(Life(url, str(self._folder), "", 0)) == 0
        self._look(url, over=True)
        assert taken(url) == self.taken

    def _live(self, life: Life) -> int:
        forks = self._forks[life.salt // 2 % len(self._forks)]
        log = self._folder / "log"
        code = forks.run(json.dumps(asdict(life)), log)
        known = (0, -signal.SIGKILL, -signal.SIGALRM)
        assert code in known, f"{life}: {log.read_text()}"
        return code

    def close(self) -> None:
        for forks in self._forks:
            forks.close()

    def _look(self, url: str, *, over: bool) -> None:
        for name, calm in self.calm.items():
            found = contents(url, name)
            seen = verdict(calm, found, self._folder / "nothing", over=over)
            assert not any(asdict(seen).values()), f"{name}: {seen}"


def taken(url: str) -> Any:
    """Return what the second stage took."""
    with_stage = {one.name: one for one in api.stages("two", db=url)}
    return with_stage["two.joint"].takes


def at(url: str) -> str:
    """Return the stage a study is at, or that it is between them."""
    if contents(url, "two.joint").candidates:
        return "two.joint"
    if contents(url, "two.ps") is NOTHING:
        return "two.ps"
    (first, *_) = api.stages("two", db=url)
    return "between" if first.state == "trial budget used" else "two.ps"


def besiege(
    folder: Path, new_url: Callable[[], str], n_studies: int, kills: int
) -> None:
    with closing(Siege(folder, np.random.default_rng(5), new_url)) as siege:
        assert all(len(calm.candidates) > 13 for calm in siege.calm.values())
        for _ in range(n_studies):
            siege.study(kills)
    sys.stdout.write(f"\nkills: {siege.kills}\n")
    assert min(siege.kills.values()) >= n_studies * (kills - 1)


@pytest.mark.parametrize(
    ("n_studies", "n_kills"),
    [
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(12, 4, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_in_stages_and_between_them_a_study_equals_the_undisturbed_one(
    tmp_path: Path, n_studies: int, n_kills: int
) -> None:
    numbers = count()
    besiege(
        tmp_path, lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db", n_studies, n_kills
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_so_does_a_study_in_stages_on_postgresql(tmp_path: Path) -> None:
    with running() as server:
        besiege(tmp_path, server.database, n_studies=4, kills=4)
