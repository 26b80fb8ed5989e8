"""From a study file to a study that may be run, or a refusal that says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.checkpoints.finite import non_finite
from evomerge.core.flow.stacks import passthrough
from evomerge.core.measures import REFERENCE
from evomerge.core.policy import in_force
from evomerge.core.recipes.recipe import Checkpoint, Recipe
from evomerge.core.work import TaskSettings, WorkerSetup
from evomerge.errors import (
    CheckpointError,
    SpecError,
    StudyExistsError,
    StudyNotFoundError,
)
from evomerge.logs import say
from evomerge.scoring.survey import Surveyor
from evomerge.specs.completing.context import Finder
from evomerge.specs.persistence import cut_of, diff, recipe_version_of
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.sources import folders_of, origins_of
from evomerge.specs.studies.study_file import Written, read_studies
from evomerge.steps import step, through
from evomerge.store.base import Store, StoredStudy
from evomerge.store.owner import this_process
from evomerge.strategies.registry import problems

_RESTART_TTL_S = 30.0


def resolve_file(
    study_file: Written, cache_dir: Path, finder: Finder
) -> tuple[ResolvedStudy, ...]:
    """Read a study file and check it with its sources.

    Args:
        study_file: The file, or what would stand in one.
        cache_dir: Where fingerprints are remembered between processes.
        finder: Finds what other studies found, where ``start`` asks for it.

    Returns:
        Its stages, or the one search there is. Later stages have stand-ins for what
        they take.

    Raises:
        SpecError: Every mistake in the file and its sources.
    """
    with step("reading the study"):
        studies = read_studies(
            study_file,
            cache_dir=cache_dir,
            judge=problems,
            survey=Surveyor(cache_dir),
            finder=finder,
        )
        for study in studies:
            refuse_unprepared(study)
    say(warning for study in studies for warning in study.warnings)
    return studies


def refuse_unprepared(study: ResolvedStudy) -> None:
    """Load what prepares images for the frame, where tasks show any.

    Raises:
        SpecError: The frame's folder has no such files, or they cannot be used here.
    """
    frame = study.inputs[study.frame]
    if not study.image_tasks or not isinstance(frame, Checkpoint):
        return  # a stand-in is written where the workers are
    from evomerge.scoring.hf.processor import Processor  # loads torch

    try:
        Processor(str(study.sources[study.frame].path))
    except CheckpointError as error:
        raise SpecError(
            study.problem(f"tasks.{name}", f"shows images. {error}")
            for name in study.image_tasks
        ) from error


def as_recorded(
    studies: tuple[ResolvedStudy, ...],
    store: Store,
    study_file: Written,
    cache_dir: Path,
    finder: Finder,
) -> tuple[ResolvedStudy, ...]:
    """Return a file's studies with recipes and blocks as they are recorded with."""
    try:
        recorded = store.study(studies[0].name).config
    except StudyNotFoundError:
        return studies
    version, cut = recipe_version_of(recorded), cut_of(recorded)
    config = studies[0].config
    if (version, cut) == (recipe_version_of(config), cut_of(config)):
        return studies
    return read_studies(
        study_file,
        cache_dir=cache_dir,
        judge=problems,
        survey=Surveyor(cache_dir),
        versions=(version, cut),
        finder=finder,
    )


def refuse_other_configuration(
    store: Store, study: ResolvedStudy
) -> StoredStudy | None:
    """Compare a study with the one recorded under its name.

    Returns:
        The recorded study, None if there is none. One of another configuration is
        returned only if it never had a worker, so that it holds no result.

    Raises:
        StudyExistsError: It has another configuration; the message has the diff.
    """
    try:
        stored = store.study(study.name)
    except StudyNotFoundError:
        return None
    changes = diff(stored.config, study.config)
    if changes and store.tasks(stored.id) is not None:
        raise StudyExistsError(
            f"A study {study.name!r} with another configuration is in this database "
            "(recorded -> now):\n  "
            + "\n  ".join(changes)
            + "\nGive this one another name, or resume the recorded one: "
            f"evomerge resume {study.name}"
        )
    return stored


def restart(store: Store, recorded: StoredStudy, study: ResolvedStudy) -> None:
    """Let a study that found no worker take the configuration that was put right."""
    lease = store.lease(recorded.id, this_process(), _RESTART_TTL_S)
    try:
        store.restart(lease, study.config, study.allowance, study.seed)
    finally:
        store.release(lease)


def refuse_non_finite(study: ResolvedStudy, cache_dir: Path) -> None:
    """Look through every weight of the sources, once for each content.

    Raises:
        SpecError: Names source and tensors that hold NaN or infinity.
    """
    found = {
        name: non_finite(model, cache_dir)
        for name, model in through("looking for NaN", study.sources.items(), "sources")
    }
    bad = {name: tensors for name, tensors in found.items() if tensors}
    if bad:
        raise SpecError(
            study.source_problem(
                name,
                f"expected finite weights, but {', '.join(tensors[:3])}"
                f"{' and others hold' if len(tensors) > 3 else ' holds'} NaN or "
                "infinity; use another copy of this model.",
            )
            for name, tensors in bad.items()
        )


def setup_of(study: ResolvedStudy, cache_dir: Path) -> WorkerSetup:
    """Return what this study's workers are made of."""
    models = study.sources.values()
    stand_ins: dict[str, Recipe] = {}

    def named(name: str) -> str:
        source = study.inputs[name]
        if isinstance(source, Checkpoint):
            return source.fingerprint
        n_layers = study.sources[name].n_layers
        recipe = passthrough(name, source, n_layers, study.dtype)
        stand_ins[recipe.digest] = recipe
        return recipe.digest

    def with_reference(task: TaskSettings) -> TaskSettings:
        name = task.options.get(REFERENCE)
        if not isinstance(name, str) or name not in study.inputs:
            return task
        n_layers = study.sources[name].n_layers
        recipe = passthrough(name, study.inputs[name], n_layers, study.dtype)
        return replace(task, reference=recipe)

    return WorkerSetup(
        engine=study.engine,
        tasks=tuple(with_reference(task) for task in study.tasks),
        sources=folders_of(models),
        frame=named(study.frame),
        probe=None if study.probe is None else named(study.probe),
        cache_dir=str(cache_dir),
        origins=origins_of(models),
        stand_ins=stand_ins,
        policy=in_force(),
    )
