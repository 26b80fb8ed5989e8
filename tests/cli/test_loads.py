"""What only reads, or refuses, loads nothing that computes."""

import json
import subprocess
import sys
from pathlib import Path

from support.study_files import simulated_study, write_study

CALL = """
import json, sys
from evomerge.cli import app
codes = []
for words in json.loads(sys.argv[1]):
    try:
        app.main(words)
    except SystemExit as ended:
        codes.append(ended.code)
heavy = ("torch", "vllm", "ray", "transformers")
print(json.dumps([codes, [name for name in heavy if name in sys.modules]]))
"""


def test_reading_and_refusing_load_nothing_heavy(done: Path, models: Path) -> None:
    study = simulated_study(
        models,
        tasks={"t": {"task": "arc_esay", "metric": "acc"}},
        objectives=[{"measure": "t/ac"}],
        engine={"kind": "vllm", "options": {"enforce_eagr": True}},
    )
    bad = str(write_study(done / "bad.yaml", study))
    calls = [
        ["check", bad],
        ["check", bad, "--no-dry-run"],
        ["run", bad],
        ["check", "mine.yaml", "--no-dry-run"],
        ["studies"],
        ["status", "mine"],
        ["front", "mine"],
        ["trials", "mine"],
        ["show", "mine", "--trial", "1"],
        ["attempts", "mine"],
        ["export", "nobody", "out"],
        ["export", "mine", "out", "--trial", "999"],
        ["resume", "nobody"],
        ["delete", "mine", "--yes"],
    ]
    ran = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(calls)],
        capture_output=True,
        text=True,
        cwd=done,
        check=True,
    )
    codes, loaded = json.loads(ran.stdout.splitlines()[-1])
    assert codes == [2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 0], ran.stderr
    assert loaded == []
