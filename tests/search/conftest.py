from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.testing.forks import ForkServer

SCRIPT = Path(__file__).with_name("doomed_study.py")


@pytest.fixture(scope="package")
def forks() -> Iterator[list[ForkServer]]:
    """Servers of doomed studies, each with another salt of its hashes."""
    servers = [ForkServer(SCRIPT, salt) for salt in (1, 2)]
    yield servers
    for server in servers:
        server.close()
