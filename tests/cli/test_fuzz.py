"""Whatever a user gives: a message, bounds, and never a defect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = int(os.environ.get("EVOMERGE_FUZZ_SEED", "1"))


def fuzz(folder: Path, inputs: int, seconds: float) -> None:
    words = ("--seed", str(SEED), "--inputs", str(inputs))
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz", str(folder), *words],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = done.stdout[done.stdout.rfind("\nseed ") :]
    sys.stdout.write(told)  # seed, inputs, exit codes, peak memory, longest time
    assert done.returncode == 0, told or done.stderr


@pytest.mark.slow
def test_some_spoilt_inputs_end_in_words_and_within_bounds(tmp_path: Path) -> None:
    fuzz(tmp_path, int(os.environ.get("EVOMERGE_FUZZ_FEW", "40")), 280)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_spoilt_inputs_end_in_words_and_within_bounds(tmp_path: Path) -> None:
    fuzz(tmp_path, int(os.environ.get("EVOMERGE_FUZZ_INPUTS", "5000")), 7000)
