"""A study that is ready to be searched, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import Problem, SpecError
from evomerge.masking import masked

if TYPE_CHECKING:
    from evomerge.specs.resolved import ResolvedStudy


LOCAL = "local"
"""Address of a Ray that is started on this machine."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a search runs.

    Attributes:
        workers: Engines at once; None takes what the study says.
        address: A running Ray cluster; ``local`` starts Ray on this machine, None too
            unless the study ran elsewhere before.
        in_process: One worker inside this process, without Ray.
        cache_dir: Folder for what can be made again.
    """

    workers: int | None
    address: str | None
    in_process: bool
    cache_dir: Path

    def __post_init__(self) -> None:
        if self.in_process and self.address is not None:
            raise SpecError(
                [Problem("--in-process", "cannot go together with --address")]
            )

    def after(self, earlier: Mapping[str, Any]) -> Where:
        """Fill what is left open with where the study ran before."""
        if self.in_process:
            return self
        address = self.address or earlier.get("address")
        return replace(
            self,
            workers=self.workers or earlier.get("workers"),
            address=None if address == LOCAL else address,
        )

    def remembered(self) -> dict[str, Any]:
        """Return what a resume takes up again, as plain data."""
        address = None if self.address is None else masked(self.address)
        return {"workers": self.workers, "address": address}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study that is in the database and ready to be searched.

    Attributes:
        objectives: Names, in order.
    """

    name: str
    objectives: tuple[str, ...]
    db: str = field(repr=False)
    where: Where
    study: ResolvedStudy
    allowance: Mapping[str, Any]

    @property
    def stage(self) -> str | None:
        """Which stage of a study it is; None where there are none."""
        about = self.study.config.get("stage")
        return None if about is None else str(about["name"])


def ready(
    study: ResolvedStudy, db: str, where: Where, earlier: Mapping[str, Any]
) -> Prepared:
    """Say where a study is to run.

    Args:
        study: The study.
        db: Database URL.
        where: Where to run; what it leaves open is as in the run before.
        earlier: Where it ran before, as plain data.
    """
    placed = where.after(earlier)
    # A look inside this process is not where the study lives.
    kept = earlier if where.in_process else placed.remembered()
    allowance = {**study.allowance, "placement": dict(kept)}
    return Prepared(study.name, _names(study), db, placed, study, allowance)


def _names(study: ResolvedStudy) -> tuple[str, ...]:
    return tuple(objective.name for objective in study.objectives)
