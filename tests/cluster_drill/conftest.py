"""One stand for all drills, and what they measured."""

import json
from collections.abc import Iterator

import pytest
from support.machines.namespaces import refusal
from support.machines.stand import Stand, stand

_measured: list[tuple[str, float]] = []


@pytest.fixture(scope="session")
def the_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Give the one cluster of all drills; ``seconds.json`` keeps what they measured."""
    if (why := refusal()) is not None:
        pytest.skip(f"machines cannot be pretended here: {why}")
    with stand(tmp_path_factory.mktemp("stand")) as made:
        yield made
        _measured.extend(made.measured)
        file = tmp_path_factory.getbasetemp() / "seconds.json"
        file.write_text(json.dumps(dict(_measured), indent=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, as rows of a table."""
    if _measured:
        terminalreporter.section("seconds")
        for what, seconds in _measured:
            terminalreporter.write_line(f"| {what} | {seconds:.1f} |")
