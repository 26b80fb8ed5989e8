import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe
from evomerge.testing.models import tiny_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "merge_speed.py"
TA = "task_arithmetic"
SMALL = ("--parameters", "1e6", "--experts", "2", "--methods", TA, "linear")
QUICK = ("--seconds", "0", "--copy-mb", "16", "--threads", "1", "--no-mergekit")


def report(part: str) -> dict[str, Any]:
    words = [*SMALL, *QUICK, "--part", part, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_merge_from_disk_to_disk_is_timed_and_its_memory_watched() -> None:
    found = report("disk")
    rows = [row for row in found["disk"] if row["device"] == "cpu"]
    assert [row["method"] for row in rows] == [TA, TA, "linear"]
    tiny, *real = rows
    assert tiny["parameters"] < found["facts"]["parameters"]
    for row in real:
        cost = row["evomerge"]
        assert cost["seconds"] > 0.0
        if sys.platform == "linux":
            assert 0 < cost["anonymous_bytes"] < cost["resident_bytes"]
        assert row["mergekit"] is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_floor_is_every_source_read_and_the_result_written() -> None:
    found = report("loop")
    rows = [row for row in found["loop"] if row["device"] == "cpu"]
    moved = {row["method"]: row["floor"] * row["bandwidth"] for row in rows}
    checkpoint = 2 * found["facts"]["parameters"]
    # Two experts, the base where there is one, and the result.
    assert moved == pytest.approx({TA: 4 * checkpoint, "linear": 3 * checkpoint})
    assert all(row["evomerge"] > 0.0 for row in rows)


def test_every_method_that_is_measured_is_a_merge_that_candidates_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from merging.loop import Candidates
    from merging.methods import METHODS, merges

    for seed, name in enumerate(("base", "expert1", "expert2")):
        tiny_model(tmp_path / name, n_layers=1, seed=seed)
    for merge in merges(list(METHODS), 2):
        file = tmp_path / "merge.yml"
        file.write_text(merge.config(tmp_path))
        recipe, paths = load_recipe(file, profile="default")
        assert len(paths) == len(merge.reads)
        operators = {op.operator for _, slot in recipe.places() for _, op in slot.roles}
        assert merge.method.name in operators
        with Sources(paths) as sources:
            stream = Candidates(recipe, sources)
            assert stream.n_reads == len(merge.reads)
            assert stream.next() > 0.0
