"""How long each command is silent: before its first line, and at most between two.

    python benchmarks/first_line.py --zoo demo/zoo --db demo/evomerge.db [COMMAND ...]

Each command runs in a process of its own, once with its output in pipes and once at a
pseudo-terminal, in a folder with copies of the zoo and of the database, and with a new
cache: nothing is known of the models yet. Counted is what a person sees, of both
streams. For `run` the estimate of the time left is compared with what was left.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pty
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STUDY = """\
name: few
sources: {{base: {zoo}/base, math: {zoo}/math, ja: {zoo}/ja, sort: {zoo}/sort}}
space: {{operator: task_arithmetic, base: base, knobs: {{weight: search}}}}
tasks:
  en_hard: {{task: en_hard, include: {zoo}/tasks, metric: exact_match, limit: 400}}
  jd_sort4: {{task: jd_sort4, include: {zoo}/tasks, metric: exact_match, limit: 400}}
engine: {{kind: hf}}
budget: {{trials: 12}}
"""
RECIPE = """\
sources: {{math: {zoo}/math, ja: {zoo}/ja}}
operator: linear
knobs: {{weight: {{math: 0.5, ja: 0.5}}}}
"""
COMMANDS = {
    "check": "check few.yaml",
    "check --no-dry-run": "check few.yaml --no-dry-run",
    "run": "run few.yaml",
    "resume": "resume few --trials 20",
    "export": "export few best",
    "merge": "merge recipe.yaml merged",
    "zoo": "zoo small --recipe TINY",
    "front": "front demo --db sqlite:///demo.db",
    "trials": "trials demo --db sqlite:///demo.db",
    "show": "show demo --trial 3 --db sqlite:///demo.db",
    "status": "status demo --db sqlite:///demo.db",
    "compare": "compare zoo/base zoo/math zoo/ja",
    "doctor": "doctor --engine zoo/base --probe zoo/math --kind hf",
}
SHARES = (0.1, 0.25, 0.5, 0.75)
_LEFT = re.compile(r"(?:(\d+):)?(\d+):(\d\d) left")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came out of a process, and when, in seconds since its start."""

    pieces: tuple[tuple[float, str], ...]
    seconds: float
    code: int

    @property
    def first_s(self) -> float:
        """When the first thing could be read."""
        return self.pieces[0][0] if self.pieces else self.seconds

    @property
    def last_s(self) -> float:
        """When the last thing could be read; what follows is the process's end."""
        return self.pieces[-1][0] if self.pieces else self.seconds

    @property
    def silence_s(self) -> float:
        """The longest time without anything new, up to the last."""
        times = [0.0, *(at for at, _ in self.pieces), self.last_s]
        return max(b - a for a, b in itertools.pairwise(times))

    def estimates(self) -> Iterator[tuple[float, float, float]]:
        """Yield shares of the time with estimates, the estimate then, and the truth."""
        said = [
            (at, int(h or 0) * 3600 + int(m) * 60 + int(s))
            for at, text in self.pieces
            for h, m, s in _LEFT.findall(text)[-1:]
        ]
        if not said:
            return
        begun = said[0][0]
        for share in SHARES:
            due = begun + share * (self.last_s - begun)
            at, left = [one for one in said if one[0] <= due][-1]
            yield share, left, self.last_s - at


def listen(
    command: list[str], folder: Path, env: Mapping[str, str], tty: bool
) -> Heard:
    """Run a command, and note when it says what."""
    reading, writing = pty.openpty() if tty else os.pipe()
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=writing,
        stderr=writing,
        stdin=subprocess.DEVNULL,
    )
    os.close(writing)
    pieces = []
    with selectors.DefaultSelector() as waiting:
        waiting.register(reading, selectors.EVENT_READ)
        while True:
            if waiting.select(0.1):
                try:
                    data = os.read(reading, 1 << 16)
                except OSError:  # a terminal's end
                    break
                if not data:
                    break
                if data.strip():
                    text = data.decode("utf-8", "replace")
                    pieces.append((time.monotonic() - began, text))
            elif process.poll() is not None:  # a child of its own may keep the pipe
                break
    code = process.wait()
    ended = time.monotonic() - began
    os.close(reading)
    return Heard(tuple(pieces), ended, code)


def prepared(zoo: Path, db: Path | None) -> Path:
    """Make a folder with all that the commands need."""
    folder = Path(tempfile.mkdtemp(prefix="first-line-"))
    shutil.copytree(zoo, folder / "zoo")
    if db is not None:
        shutil.copy(db, folder / "demo.db")
    (folder / "few.yaml").write_text(STUDY.format(zoo="zoo"))
    (folder / "recipe.yaml").write_text(RECIPE.format(zoo="zoo"))
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--db", type=Path, help="with the study `demo`")
    parser.add_argument("--folder", type=Path, help="of an earlier call, to go on in")
    parser.add_argument("--ways", default="pipe,tty")
    parser.add_argument("--keep", type=Path, help="folder for what was said")
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []])
    asked = parser.parse_args()
    heads = ("first line s", "longest silence s", "last line s", "end s", "exit code")
    print("| command | output |", " | ".join(heads), "|")
    print("|---|---|---:|---:|---:|---:|---:|")
    estimates = []
    for way in asked.ways.split(","):
        base = asked.folder or prepared(asked.zoo.resolve(), asked.db)
        cache = base / "cache"
        names = {
            k: v
            for k, v in os.environ.items()
            if k not in ("EVOMERGE_DB", "RAY_ADDRESS")
        }
        env = {**names, "EVOMERGE_CACHE": str(cache), "TERM": "xterm", "COLUMNS": "120"}
        for name in asked.commands or COMMANDS:
            command = [sys.executable, "-m", "evomerge", *COMMANDS[name].split()]
            heard = listen(command, base, env, way == "tty")
            print(
                f"| {name} | {way} | {heard.first_s:.1f} | {heard.silence_s:.1f} "
                f"| {heard.last_s:.1f} | {heard.seconds:.1f} | {heard.code} |",
                flush=True,
            )
            if asked.keep is not None:
                asked.keep.mkdir(parents=True, exist_ok=True)
                told = "".join(f"[{at:7.2f}] {text!r}\n" for at, text in heard.pieces)
                file = asked.keep / f"{name.replace(' ', '')}-{way}.txt"
                file.write_text(f"{told}[{heard.seconds:7.2f}] end, {heard.code}\n")
            if name == "run":
                estimates += [(way, *one) for one in heard.estimates()]
        print(f"(in {base})", file=sys.stderr)
    for way, share, left, truth in estimates:
        print(f"run, {way}, {share:.0%}: {left:.0f} s left said, {truth:.0f} s were")


if __name__ == "__main__":
    main()
