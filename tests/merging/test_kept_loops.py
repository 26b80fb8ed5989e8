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

ASK = """
import sys
import numpy as np
from evomerge.merging.kernels.numbers import is_any_infinite
loop = is_any_infinite
assert loop(np.array([np.inf], np.float32))
sys.stdout.write(str(sum(loop.stats.cache_hits.values())))
"""


BESIDE = "evomerge/merging/constants.py"


def copied(folder: Path) -> Path:
    package = Path(evomerge.__file__).parent
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / package.name, ignore=left_out)
    return folder


def hits(copy: Path) -> int:
    """Return how many loops a copy of the package found compiled."""
    kept = copy.parent / "kept"
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(kept)},
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
def test_loops_are_compiled_once_until_a_line_in_any_of_them_differs(
    tmp_path: Path,
) -> None:
    names = ("one", "same", "other", "constant")
    copies = [copied(tmp_path / name) for name in names]
    _, _, other, constant = copies
    for changed in (other / "evomerge/merging/kernels/numbers.py", constant / BESIDE):
        changed.write_text(changed.read_text() + "\nANOTHER = 1\n")
    assert [hits(copy) for copy in copies] == [0, 1, 0, 0]


def test_loops_of_others_are_kept_where_numba_keeps_them() -> None:
    assert kernels.KeptByContent.from_function(np.sum, np.__file__) is None
