"""The script that proves merges on a GPU runs, with few libraries, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_proof.py"
ABSENT = ["pydantic", "sqlalchemy", "alembic", "ray", "vllm", "lm_eval", "optuna"]
"""What a machine with nothing but a deep learning image lacks."""


def test_every_part_but_the_timed_one_holds_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    given = ["--device", "cpu", "--width", "128", "--out", str(out)]
    given += ["--parts", "masks", "steps", "swap"]
    code = (
        "import runpy, sys; "
        f"sys.modules.update(dict.fromkeys({ABSENT!r})); "
        f"sys.argv[1:] = {given!r}; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads(out.read_text())
    assert {row["part"] for row in rows} == {"masks", "steps", "swap"}
    assert all(row["ok"] for row in rows)


def test_it_ends_by_itself_and_says_what_was_not_run() -> None:
    given = ["--device", "cpu", "--width", "128", "--minutes", "0"]
    ended = subprocess.run(
        [sys.executable, SCRIPT, *given], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "not run: what comes after masks dare_linear" in ended.stdout
