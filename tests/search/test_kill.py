"""Killed at any moment, a study resumes to exactly what it would have been."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.doomed import Life
from support.siege import Siege, table

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
