"""Studies with stages, as the database holds them: one study for each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.errors import StageError, StudyExistsError, StudyNotFoundError
from evomerge.store.base import Store, StoredStudy

if TYPE_CHECKING:  # it loads numpy
    from evomerge.specs.resolved import ResolvedStudy


def about(stored: StoredStudy) -> dict[str, Any] | None:
    """Return which stage of which study it is; None if of none."""
    found: dict[str, Any] | None = stored.config.get("stage")
    return found


def stages_of(store: Store, study: str) -> tuple[StoredStudy, ...]:
    """Return the stages of a study that have begun, in order."""
    numbered = [
        (said["number"], stored)
        for stored in store.studies()
        if (said := about(stored)) is not None and said["study"] == study
    ]
    return tuple(stored for _, stored in sorted(numbered, key=lambda one: one[0]))


def whole_of(stored: StoredStudy) -> str:
    """Return the name of a study; for a stage, of the study it belongs to."""
    said = about(stored)
    return stored.name if said is None else str(said["study"])


def every_part(store: Store, name: str) -> tuple[StoredStudy, ...]:
    """Return a study by its name; of one with stages all that have begun, in order.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    try:
        return (store.study(name),)
    except StudyNotFoundError:
        if stages := stages_of(store, name):
            return stages
        raise


def found(store: Store, name: str, *, finished: bool = False) -> StoredStudy:
    """Return a study by its name; of one with stages the last that has begun.

    Args:
        store: The database.
        name: Of the study, or of a stage as ``study.stage``.
        finished: Of one with stages the last that is finished, if any is.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    parts = every_part(store, name)
    over = [part for part in parts if part.finished is not None]
    return over[-1] if finished and over else parts[-1]


def refuse_other_kind(store: Store, study: ResolvedStudy) -> None:
    """Make sure that no name belongs to a study with stages and to one without.

    Raises:
        StudyExistsError: It would.
    """
    said = study.config.get("stage")
    whole = study.name if said is None else said["study"]
    if said is None and stages_of(store, whole):
        raise StudyExistsError(
            f"A study {whole!r} with stages is in this database; give this one, which "
            "has none, another name."
        )
    if said is not None and any(one.name == whole for one in store.studies()):
        raise StudyExistsError(
            f"A study {whole!r} without stages is in this database; give this one "
            "another name."
        )


def refuse_unclear_budget(store: Store, name: str, stored: StoredStudy) -> None:
    """Make sure that a budget belongs to one stage, on which no other builds yet.

    Args:
        store: The database.
        name: As it was asked for.
        stored: What was found under that name.

    Raises:
        StageError: It does not.
    """
    said = about(stored)
    if said is None:
        return
    if stored.name != name:
        raise StageError(
            f"Every stage of {name!r} has a budget of its own; say which one changes, "
            f"for example: evomerge resume {stored.name} --trials N"
        )
    later = [
        stage.name
        for stage in stages_of(store, said["study"])
        if stage.config["stage"]["number"] > said["number"]
    ]
    if later:
        raise StageError(
            f"The budget of {name!r} is closed: {later[0]!r} has begun with what it "
            f"found. Raise the budget of a later stage, or delete "
            f"{' and '.join(repr(one) for one in later)} first."
        )
