"""What ``pip install evomerge`` costs, without extras or with one.

    python benchmarks/light_client.py [--extra local]

Wheels are fetched first; then they are installed by pip from that folder into an empty
environment. Imports are timed in new processes, with bytecode that is there already;
the quickest of nine is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "evomerge")
N_TIMES = 9
IMPORT = """
import sys, time
began = time.perf_counter(), time.process_time()
import evomerge.cli.app
print(time.perf_counter() - began[0], time.process_time() - began[1], len(sys.modules))
"""


def pip(*words: object) -> tuple[float, float]:
    """Run pip, and return its seconds, and those of a processor."""
    began = time.monotonic(), os.times()
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, words)]
    subprocess.run(command, check=True)
    ended = time.monotonic(), os.times()
    cpu_s = sum(ended[1][2:4]) - sum(began[1][2:4])
    return ended[0] - began[0], cpu_s


def megabytes(folder: Path) -> float:
    """Size of all files below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", default="", help="such as local; none if not given")
    extra = parser.parse_args().extra
    wanted = f"evomerge[{extra}]" if extra else "evomerge"
    with tempfile.TemporaryDirectory() as name:
        source, wheels, place = (Path(name) / part for part in ("src", "wheels", "env"))
        source.mkdir()
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, source / part)
        pip("wheel", "-w", wheels, f"{wanted} @ {source.as_uri()}")
        venv.create(place, with_pip=False, symlinks=True)
        python = place / "bin" / "python"
        offline = ("--no-index", "--find-links", wheels)
        took_s, busy_s = pip("--python", python, "install", *offline, wanted)
        (packages,) = place.glob("lib/python*/site-packages")
        runs = []
        for _ in range(N_TIMES + 1):
            said = subprocess.run(
                [python, "-c", IMPORT], capture_output=True, check=True
            )
            runs.append([float(word) for word in said.stdout.split()])
        wall_s, cpu_s, n_modules = map(min, zip(*runs[1:], strict=True))
        n_wheels = len(list(wheels.iterdir()))
        print(f"{wanted}: {n_wheels} wheels, {megabytes(wheels):.1f} MB")
        print(f"{megabytes(packages):.1f} MB installed")
        print(f"in {took_s:.1f} s, of it {busy_s:.1f} s of processor time")
        print(f"import of evomerge.cli.app: {wall_s:.2f} s, of it {cpu_s:.2f} s of")
        print(f"processor time; {n_modules:.0f} modules, Python's own among them")


if __name__ == "__main__":
    main()
