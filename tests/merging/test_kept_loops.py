"""Compiled loops are kept by what the whole folder of loops holds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evomerge
from evomerge.merging import kernels
from evomerge.merging.kernels.norms import is_any_infinite

ASK = """
import sys
import numpy as np
from evomerge.merging.kernels.norms import is_any_infinite
loop = is_any_infinite
assert loop(np.array([np.inf], np.float32))
sys.stdout.write(str(sum(loop.stats.cache_hits.values())))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    package = Path(evomerge.__file__).parent
    shutil.copytree(
        package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def hits(copy: Path) -> int:
    """Return how many loops a copy of the package found compiled."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
def test_a_copy_of_the_same_loops_finds_them_compiled(copy: Path) -> None:
    assert is_any_infinite(np.array([np.inf], np.float32))
    assert hits(copy) == 1


@pytest.mark.slow
def test_another_line_in_any_of_them_compiles_all_anew(copy: Path) -> None:
    called = copy / "evomerge/merging/kernels/numbers.py"
    called.write_text(called.read_text() + "\nANOTHER = 1\n")
    assert is_any_infinite(np.array([np.inf], np.float32))
    assert hits(copy) == 0


def test_loops_of_others_are_kept_where_numba_keeps_them() -> None:
    assert kernels.KeptByContent.from_function(np.sum, np.__file__) is None
