from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Commands
from support.hub import LoopbackHub


@pytest.fixture(scope="package")
def hub() -> Iterator[LoopbackHub]:
    """A hub for all; what one commits, others see."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="package")
def commands(hub: LoopbackHub) -> Iterator[Commands]:
    """The command line, with that hub alone; its cache is ``hf`` in each folder."""
    with Commands(hub.environment(Path("hf"))) as ready:
        yield ready
