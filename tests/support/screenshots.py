"""Pictures of the page for the docs: ``python -m support.screenshots FOLDER``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from evomerge.core.study import Budget, StrategySettings
from evomerge.service.supervisor import LOG
from evomerge.store.queue.job_queue import open_queue
from evomerge.testing.search import SmallStudy
from support.browsers import PHONE, chromium
from support.jobs import submission
from support.searched import by_hand, search_small
from support.services import Service, serving

STUDY = SmallStudy(
    StrategySettings("random", 8),
    Budget(trials=56),
    options={"fail_if": 0.1, "break_if": 0.1, "fault_times": 1},
    objectives=("x", "y"),
)
DESKTOP = {"width": 1100, "height": 1000}


def main(folder: Path) -> None:
    """Write ``page-desktop.png``, ``page-phone.png`` and ``page-studies.png``."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        with serving(f"sqlite:///{work}/jobs.db", work / "spool") as service:
            fill(service, work)
            with chromium() as browser:
                study = "/studies/ann/arithmetic"
                shoot(browser, service, study, folder / "page-desktop.png", DESKTOP)
                shoot(browser, service, study, folder / "page-phone.png", PHONE, "dark")
                small = {"width": 1100, "height": 420}
                shoot(browser, service, "/", folder / "page-studies.png", small)


def fill(service: Service, work: Path) -> None:
    """Let there be a study at work, and others in other states."""
    queue = open_queue(service.db)
    queue.submit("ann", submission("arithmetic", study="small", place={"workers": 3}))
    for name in ("code-2", "translation", "long-context"):
        queue.submit("ann", submission(name))
    queue.close()
    search_small(service.db, work, STUDY)
    by_hand(
        service.db,
        "UPDATE em_job SET state = 'running', budget = '{\"trials\": 80}' "
        "WHERE name = 'arithmetic'",
        "UPDATE em_job SET state = 'failed', why = 'Source base: there is no "
        "model at this path.' WHERE name = 'code-2'",
        "UPDATE em_job SET state = 'paused' WHERE name = 'translation'",
    )
    log = service.spool / "ann" / "arithmetic" / LOG
    log.parent.mkdir(parents=True)
    log.write_text("generation 7: 56 trials, front 4, best x 1, y 1\n")


def shoot(
    browser: Any,
    service: Service,
    path: str,
    file: Path,
    size: dict[str, int],
    scheme: str = "light",
) -> None:
    """Write what a window of this size shows."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(service.url + path)
    page.get_by_label("Token").fill(service.tokens["ann"])
    page.keyboard.press("Enter")
    page.locator("main h1").wait_for()
    page.screenshot(path=str(file))
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
