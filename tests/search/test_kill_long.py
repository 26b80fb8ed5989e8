"""Hundreds of kills, of the coordinator and of the database's server under it."""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from support.doomed import Life
from support.postgres import Server, running
from support.siege import Siege, Tally, table

from evomerge.testing.forks import ForkServer

SEED = "EVOMERGE_KILL_SEED"
N_TRIALS = 17
N_KILLS = {"cma": 90, "tpe": 105, "nsga2": 105}
SPAN = 400

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]


@pytest.fixture
def rng() -> np.random.Generator:
    """A new seed each time, told so that a failure can be looked at again."""
    fresh = np.random.SeedSequence().generate_state(1)[0]
    seed = int(os.environ.get(SEED, fresh))
    sys.stdout.write(f"\n{SEED}={seed}\n")
    return np.random.default_rng(seed)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own, because it is killed."""
    with running() as server:
        yield server


def besiege(
    rng: np.random.Generator,
    forks: list[ForkServer],
    folder: Path,
    new_url: Callable[[], str],
    server: Server | None,
) -> list[Tally]:
    tallies = []
    for strategy, n_kills in N_KILLS.items():
        life = Life("", str(folder), strategy, N_TRIALS)
        siege = Siege(forks, new_url, life, rng, SPAN, server)
        tallies.append(siege.run(n_kills))
    sys.stdout.write(f"{table(tallies)}\n")
    assert sum(tally.kills for tally in tallies) >= 300
    assert sum(tally.lost + tally.doubled + tally.different for tally in tallies) == 0
    return tallies


def test_three_hundred_kills_on_sqlite_lose_and_double_and_change_nothing(
    rng: np.random.Generator, forks: list[ForkServer], tmp_path: Path
) -> None:
    numbers = count()
    besiege(
        rng, forks, tmp_path, lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db", None
    )


def test_three_hundred_kills_on_postgresql_with_its_server_killed_too_change_nothing(
    rng: np.random.Generator,
    forks: list[ForkServer],
    tmp_path: Path,
    server: Server,
) -> None:
    tallies = besiege(rng, forks, tmp_path, server.database, server)
    assert sum(tally.server_kills for tally in tallies) >= 20
