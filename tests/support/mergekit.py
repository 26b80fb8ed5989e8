"""mergekit 0.1.5, installed into a folder of its own, and processes that have it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = ("mergekit==0.1.5", "immutables", "peft", "accelerate")


@contextmanager
def mergekit_process(script: Path, place: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a script that answers line by line, with mergekit on its path.

    Args:
        script: What is started.
        place: Where mergekit is put, unless ``EVOMERGE_MERGEKIT`` names where it is.
    """
    kept = os.environ.get("EVOMERGE_MERGEKIT")
    place = Path(kept) if kept else place
    if not (place / "mergekit").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--target", str(place), *PACKAGES],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"mergekit 0.1.5 cannot be installed: {done.stderr[-300:]}")
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"},
        )
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
