import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stack_swap.py"
SMALL = ("--hidden", "128", "--layers", "2", "--repeats", "2", "--json")


@pytest.mark.engine
@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_way_to_change_a_stack_is_timed_and_counted() -> None:
    command = [sys.executable, str(SCRIPT), *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {row["way"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert list(rows) == ["pool", "in place", "slots", "weights", "fresh"]
    layer = 2 * (128 * 128 * 2 + 32 * 128 * 2 + 3 * 128 * 512 + 2 * 128)
    assert rows["pool"]["bytes_moved"] == 0
    assert rows["slots"]["bytes_moved"] == rows["in place"]["bytes_moved"] == 2 * layer
    assert rows["weights"]["bytes_moved"] > 2 * layer
    assert rows["pool"]["swap_ms"] < rows["weights"]["swap_ms"]
    assert rows["slots"]["swap_ms"] < rows["fresh"]["swap_ms"]
