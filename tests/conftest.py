"""Shared by all tests: profiles, a clean environment, and the count of groups."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.databases import (  # noqa: F401 - fixtures
    any_url,
    empty_postgres_url,
    empty_url,
    new_url,
    postgres_admin,
    postgres_template,
    postgres_url,
    sqlite_template,
)
from support.searched import (  # noqa: F401 - fixtures
    searched_file,
    searched_template,
    searched_url,
)

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile(
    "ci",
    max_examples=50,
    deadline=None,
    derandomize=True,  # a red build is red twice
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Processes that tests start find what tests share, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Read when huggingface_hub is imported, which collecting tests may already do.
os.environ["HF_HUB_OFFLINE"] = "1"
# How long something takes here is no part of what a test expects to be said.
os.environ["EVOMERGE_PROGRESS"] = "off"
# Loops compiled once serve every process of every run, whatever its cache folder.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path("~/.cache").expanduser()))

_unfreeze = gc.unfreeze

GROUPS = ("engine", "ray", "slow")
SHARED = ("package", "module", "class")
_ran: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No database of the user's, and no hub, reaches a test."""
    monkeypatch.delenv("EVOMERGE_DB", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while nearly all that is loaded stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engines and clusters need longer than the usual limit, and one place.

    So do tests that share what is made for a package, module or class: processes share
    nothing, and each would make it again.
    """
    for item in items:
        # Where tests run side by side, two engines at once would starve, and two Rays.
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group("engines"))
        elif item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("rays"))
        elif item.get_closest_marker("xdist_group") is None and (home := _home(item)):
            item.add_marker(pytest.mark.xdist_group(home))
        if item.get_closest_marker("timeout") is None and any(
            item.get_closest_marker(group) for group in GROUPS
        ):
            item.add_marker(pytest.mark.timeout(300))


def _home(item: pytest.Item) -> str | None:
    """Name the widest of what a test shares with others, if it shares anything."""
    assert isinstance(item, pytest.Function)
    made = item._fixtureinfo.name2fixturedefs.values()
    scopes = {definition.scope for each in made for definition in each}
    widest = next((scope for scope in SHARED if scope in scopes), None)
    if widest is None:
        return None
    names = [item.path.parent.name, item.path.stem, getattr(item.cls, "__name__", "")]
    return ".".join(names[: SHARED.index(widest) + 1])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check groups, and spare what stays to the end the search for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    # vLLM does it whenever an engine ends, and then looks through all modules.
    gc.unfreeze = lambda: None
    _check_groups(session)


def _check_groups(session: pytest.Session) -> None:
    """Tests of one group stay in one process, or the run fails: it would take long."""
    if not getattr(session.config.option, "loadgroup", False):
        return
    for item in session.items:
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
            raise pytest.UsageError(
                f"pytest-xdist did not put {item.nodeid} in its group. Install the "
                "versions of pytest and pytest-xdist that requirements/ names."
            )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _ran.update(group for group in GROUPS if group in report.keywords)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A group that ran no test fails the run: nothing may go missing silently."""
    _unfreeze()
    if not os.environ.get("EVOMERGE_NEED_GROUPS") or exitstatus != 0:
        return
    if hasattr(session.config, "workerinput"):  # only a part of the tests ran here
        return
    missing = [group for group in GROUPS if not _ran[group]]
    if missing:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"No test of group {', '.join(missing)} ran: a failure.")
