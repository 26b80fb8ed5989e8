"""A study that is running on a cluster while something is done to its machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.machines.cluster import until
from support.machines.service import Service, Standing
from support.study_files import simulated_study

PATIENCE_S = 300.0


def study(models: Path, name: str, block_s: float, trials: int) -> dict[str, Any]:
    """Return a study of made-up tasks, eight blocks a trial; its name draws its seed.

    Args:
        models: Folder that ``write_models`` filled.
        name: Its name.
        block_s: Seconds that a block takes.
        trials: Its budget.
    """
    seed = sum(name.encode())
    options = {"items": 16, "sleep_s": block_s, "optimum": 0.2 + seed / 1e4}
    task = {"task": "simulated", "metric": "acc", "options": options}
    return simulated_study(
        models,
        name=name,
        seed=seed,
        tasks={"one": task, "two": task},
        objectives=[{"name": "score", "measure": "one/acc"}],
        items={"blocks": 4},
        strategy={"kind": "cma", "generation_size": 4},
        budget={"trials": trials},
    )


class Drill:
    """One study of a service, watched.

    Args:
        service: Runs it.
        disturbed: The study as it runs there, with pauses.
        calm: The same without.
        files: Beside it.
    """

    def __init__(
        self,
        service: Service,
        disturbed: Mapping[str, Any],
        calm: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self._service = service
        self._calm = calm
        self._files = files or {}
        self.name = str(calm["name"])
        service.submit(disturbed, self._files)

    @property
    def now(self) -> Standing:
        """Where the study stands."""
        return self._service.standing(self.name)

    def until(self, what: Callable[[Standing], bool]) -> float:
        """Wait until the study stands so; return the seconds it took.

        Raises:
            AssertionError: It ended otherwise, or took too long; says what it said.
        """

        def look() -> bool:
            now = self.now
            is_so = what(now)
            assert is_so or now.state not in ("failed", "finished"), now.why
            return is_so

        try:
            return until(look, PATIENCE_S)
        except AssertionError as error:
            said = self._service.log(self.name)[-4000:]
            raise AssertionError(f"{error} {self.now}\n{said}") from error

    def at_work(self, n_attempts: int = 5) -> None:
        """Wait until trials have ended and two workers are at the next."""
        self.until(lambda now: now.attempts >= n_attempts and now.at_work == 2)

    def goes_on(self, by: int = 2) -> float:
        """Wait until so many more trials have ended; return the seconds it took."""
        before = self.now.attempts
        return self.until(lambda now: now.attempts >= before + by)

    def ends_as_undisturbed(self, folder: Path) -> None:
        """Wait for its end, and compare it with the undisturbed one.

        Raises:
            AssertionError: It differs; says how.
        """
        self.until(lambda now: now.state == "finished")
        seen = self._service.compared(self._calm, self._files, folder / "calm")
        assert not any(asdict(seen).values()), seen


def clock() -> Callable[[], float]:
    """Return what tells the seconds since now."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
