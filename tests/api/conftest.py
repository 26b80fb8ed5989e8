from collections.abc import Iterator

import pytest

from evomerge.testing.commands import Commands


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The command line, without a hub."""
    with Commands() as ready:
        yield ready
