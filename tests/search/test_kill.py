"""Killed at any moment, a study resumes to exactly what it would have been."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support.contents import contents, verdict
from support.doomed import Doom, Life, live, promised
from support.siege import Siege, table

from evomerge.store.sql import open_store
from evomerge.testing.forks import ForkServer

N_TRIALS = 17
N_KILLS = {"cma": 11, "tpe": 11, "nsga2": 11}
SPAN = 400


@pytest.mark.slow
def test_killed_at_statements_commits_and_events_a_study_equals_the_undisturbed_one(
    forks: list[ForkServer], new_url: Callable[[], str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    tallies = []
    for strategy, n_kills in N_KILLS.items():
        life = Life("", str(tmp_path), strategy, N_TRIALS)
        siege = Siege(forks, new_url, life, rng, SPAN)
        tallies.append(siege.run(n_kills))
    sys.stdout.write(f"\n{table(tallies)}\n")
    assert sum(tally.kills for tally in tallies) >= 30
    assert sum(tally.lost + tally.doubled + tally.different for tally in tallies) == 0
    assert all(tally.studies for tally in tallies)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["cma", "tpe"])
def test_killed_in_generations_and_in_finals_a_sampled_study_equals_the_undisturbed_one(
    forks: list[ForkServer], new_url: Callable[[], str], tmp_path: Path, strategy: str
) -> None:
    calm = Life(f"sqlite:///{tmp_path}/calm.db", str(tmp_path), strategy, N_TRIALS)
    calm = replace(calm, is_sampled=True)
    live(calm, Doom(calm))
    rng, in_finals, n_kills = np.random.default_rng(5), 0, 0
    (tmp_path / "killed").mkdir()
    start = replace(calm, url=new_url(), folder=str(tmp_path / "killed"))
    while True:
        life = replace(
            start,
            workers=int(rng.integers(1, 4)),
            salt=int(rng.integers(1, 2**32)),
            kill_at=int(rng.integers(100, 500)) * (n_kills < 30),
        )
        log = tmp_path / "log"
        server = forks[life.salt % len(forks)]
        code = server.run(json.dumps(asdict(life)), log, lambda pid: None)
        found = contents(life.url)
        seen = verdict(contents(calm.url), found, promised(life.folder), over=code == 0)
        assert not any(asdict(seen).values()), f"after {life}: {seen}"
        if code == 0:
            break
        n_kills += 1
        in_finals += is_in_finals(life.url)
    assert n_kills >= 5
    assert in_finals


def is_in_finals(url: str) -> bool:
    store = open_store(url)
    history = store.history(store.study("small").id)
    store.close()
    finals = [record for record in history if record.final_of is not None]
    return bool(finals) and not all(record.state.is_final for record in finals)
