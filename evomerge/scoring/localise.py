"""A worker's parents brought to its machine: fetched from a hub, or written once.

Engines start from model folders. A frame or probe that is none, because an adapter is
folded in or its vocabulary is changed, is merged as it stands into the cache folder,
once for all workers of the machine: one makes it under a lock, which the others wait
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from evomerge.checkpoints import hub, read_model
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import WorkerError

LOCK_TIMEOUT_S = 900.0


def at_hand(setup: WorkerSetup) -> WorkerSetup:
    """Return the setup with every parent, frame and probe as folders of this machine.

    Raises:
        CheckpointError: A parent cannot be fetched or opened.
        ExportError: The disk refuses a stand-in.
        WorkerError: Another process takes too long over a stand-in.
    """
    sources = dict(setup.sources)
    for fingerprint, origin in setup.origins.items():
        wanted = hub.parse(origin)
        if wanted is not None and not Path(sources[fingerprint]).is_dir():
            sources[fingerprint] = str(hub.fetch(wanted).folder)
    named: dict[str, str] = {}
    if setup.engine.kind != "simulated":
        for name, recipe in setup.stand_ins.items():
            folder = _written(recipe, sources, Path(setup.cache_dir))
            model = read_model(folder, cache_dir=setup.cache_dir)
            named[name] = model.fingerprint
            sources[model.fingerprint] = str(folder)
    return replace(
        setup,
        sources=sources,
        frame=named.get(setup.frame, setup.frame),
        probe=None if setup.probe is None else named.get(setup.probe, setup.probe),
    )


def _written(recipe: Recipe, sources: Mapping[str, str], cache_dir: Path) -> Path:
    from evomerge.merging.output.writer import write_model
    from evomerge.merging.sources import Sources

    folder = cache_dir / "stand_ins" / recipe.digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock"), "writing a model that engines start from"):
        if not folder.is_dir():
            with Sources(sources, cache_dir=cache_dir) as opened:
                write_model(recipe, opened, folder)
    return folder


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock that the system releases should this process die.

    Args:
        path: The lock's file; made if it is not there.
        doing: What is done under it, for messages.

    Raises:
        WorkerError: Another process holds the lock for too long.
    """
    # A file that stands for a lock, where the system has none, would outlive its maker.
    lock = FileLock(path, poll_interval=0.2, fallback_to_soft=False)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise WorkerError(
            f"Another process has held {path} for {LOCK_TIMEOUT_S:.0f} s "
            f"while {doing}; end it and try again."
        ) from error
    try:
        yield
    finally:
        lock.release()
