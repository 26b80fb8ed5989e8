import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import WorkerError
from evomerge.scoring import localise
from evomerge.scoring.self_test import Probe, kept_probe, whole
from evomerge.testing.parents import Parents, probed

FACTS = {"kind": "hf", "version": "1"}
PROBE = Probe((-1.0 / 3.0, -2.5e-7), (("yes\n", 3), ("", 1)))


@pytest.fixture
def parents(tmp_path: Path) -> Parents:
    return Parents(tmp_path).write()


def test_workers_starting_together_measure_the_probe_once(parents: Parents) -> None:
    setup = probed(parents.setup("a", EngineSettings(kind="hf")), parents)
    measured: list[str] = []

    def measure(cold: WorkerSetup) -> Probe:
        measured.append(cold.frame)
        sleep(0.3)
        return PROBE

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kept_probe(FACTS, setup, measure), range(4)))
    assert measured == [setup.probe]
    assert found == [PROBE] * 4


def test_another_engine_or_limit_measures_its_own_probe(parents: Parents) -> None:
    setup = probed(parents.setup("a", EngineSettings(kind="hf")), parents)
    longer = replace(setup, engine=EngineSettings(kind="hf", max_model_len=99))
    measured: list[str] = []

    def measure(cold: WorkerSetup) -> Probe:
        measured.append(cold.frame)
        return PROBE

    kept_probe(FACTS, setup, measure)
    kept_probe(FACTS | {"version": "2"}, setup, measure)
    kept_probe(FACTS, longer, measure)
    kept_probe(FACTS, longer, measure)
    assert len(measured) == 3


def test_damaged_measurement_is_made_again(parents: Parents) -> None:
    setup = probed(parents.setup("a", EngineSettings(kind="hf")), parents)
    kept_probe(FACTS, setup, lambda _: PROBE)
    (path,) = (parents.folder / "cache" / "self_test").glob("*.json")
    path.write_text(path.read_text()[:20])
    other = Probe((-9.0,), (("no", 2),))
    assert kept_probe(FACTS, setup, lambda _: other) == other
    assert kept_probe(FACTS, setup, lambda _: PROBE) == other


def test_failed_measurement_frees_the_lock(parents: Parents) -> None:
    setup = probed(parents.setup("a", EngineSettings(kind="hf")), parents)

    def fail(_: WorkerSetup) -> Probe:
        raise WorkerError("no memory")

    with pytest.raises(WorkerError, match="no memory"):
        kept_probe(FACTS, setup, fail)
    assert kept_probe(FACTS, setup, lambda _: PROBE) == PROBE


def test_lock_held_for_too_long_is_the_machines_fault(
    parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = probed(parents.setup("a", EngineSettings(kind="hf")), parents)
    monkeypatch.setattr(localise, "LOCK_TIMEOUT_S", 0.0)

    def ask_again(_: WorkerSetup) -> Probe:
        with pytest.raises(WorkerError, match="Another process"):
            kept_probe(FACTS, setup, lambda _: PROBE)
        return PROBE

    assert kept_probe(FACTS, setup, ask_again) == PROBE


_HOLDING = """
import sys
from pathlib import Path
from evomerge.scoring.localise import locked

with locked(Path(sys.argv[1]), "testing"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_is_free_when_the_process_that_held_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    monkeypatch.setattr(localise, "LOCK_TIMEOUT_S", 0.0)
    command = [sys.executable, "-c", _HOLDING, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(WorkerError, match="testing"),
            localise.locked(path, "testing"),
        ):
            pass
        holder.kill()
    with localise.locked(path, "testing"):
        assert path.exists()


def test_parent_is_written_as_a_recipe_of_its_depth(parents: Parents) -> None:
    setup = parents.setup("a", EngineSettings(kind="hf", dtype="bfloat16"))
    recipe = whole(setup, parents.fingerprint("b"))
    assert len(recipe.slots) == 4
    assert recipe.dtype == "bfloat16"
