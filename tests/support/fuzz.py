"""Spoil inputs and call commands on them: none may end in a defect, or without bounds.

``python -m support.fuzz FOLDER --seed 1 --inputs 300``. Every input has a
process of its own, forked when all libraries are loaded, whose memory and time are
limited. A seed and the number of an input give the same input again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from evomerge.cli.app import main
from support.fuzz_inputs import write_inputs
from support.fuzz_targets import STUDY, TARGETS, Words

MEMORY = 2 << 30
"""Bytes that no command may take, and that each may ask for beyond what is loaded."""
SECONDS = 60.0
"""Processor time that no command may take."""
_PATIENCE = 4
"""So many times as long may it take where others are at work."""
CODES = frozenset({0, 2, 3, 75})
_TOLD = 1500


@dataclass(frozen=True)
class Ended:
    """How the commands on one spoilt input ended.

    Attributes:
        number: Of the input.
        what: What was spoilt, and how.
        codes: One for each command that ended; -9 for one that was stopped.
        peak: Most bytes of memory.
        seconds: Processor time.
        told: The end of what the last command printed.
    """

    number: int
    target: str
    what: str
    codes: tuple[int, ...]
    peak: int
    seconds: float
    told: str

    @property
    def is_fine(self) -> bool:
        """Whether every command ended as it should."""
        within = self.peak <= MEMORY and self.seconds <= SECONDS
        return within and CODES.issuperset(self.codes)


def prepare(folder: Path) -> None:
    """Write sound inputs, search the study, and load every library on the way."""
    write_inputs(folder)
    os.chdir(folder)
    first = (
        ("run", f"{STUDY}.yaml", "--in-process"),
        *(("check", f"{name}.yaml") for name in ("numbers", "flow", "tasked")),
        ("merge", "recipe-own.yaml", "out"),
        ("recipe", "recipe-own.yaml", "--to", "canonical", "--out", "recipe.yaml"),
        ("export", STUDY, "exported"),
    )
    for words in first:
        if (code := _call(words)) != 0:
            raise SystemExit(f"{words} ended with {code} on sound inputs")
    for name in ("out", "exported"):
        shutil.rmtree(folder / name)
    (folder / "recipe.yaml").rename(folder / "recipe-canonical.yaml")


def tried(
    sound: Path, work: Path, seed: int, numbers: Iterable[int], like: str = ""
) -> list[Ended]:
    """Spoil an input for each number, targets in turn, and call its commands."""
    names = list(TARGETS)
    ends = []
    for number in numbers:
        if like in (target := names[number % len(names)]):
            ends.append(_one(sound, work, (seed, number), target))
            if not ends[-1].is_fine:
                sys.stderr.write(f"{_said(ends[-1])}\n")
    return ends


def report(ends: Sequence[Ended]) -> str:
    """Say in a few lines what came of all inputs."""
    codes = Counter(code for end in ends for code in end.codes)
    slowest = max(ends, key=lambda end: end.seconds)
    lines = [
        f"{len(ends)} inputs, {sum(codes.values())} commands",
        "exit codes: " + ", ".join(f"{c}: {n}" for c, n in sorted(codes.items())),
        f"peak memory: {max(end.peak for end in ends) / 2**20:.0f} MiB",
        f"longest: {slowest.seconds:.1f} s (input {slowest.number}, {slowest.target})",
    ]
    return "\n".join([*lines, *(_said(end) for end in ends if not end.is_fine)])


def _said(end: Ended) -> str:
    return (
        f"\ninput {end.number} ({end.target}: {end.what}): codes {list(end.codes)}, "
        f"{end.peak / 2**20:.0f} MiB, {end.seconds:.1f} s\n{end.told}"
    )


def _one(sound: Path, work: Path, seed: tuple[int, int], target: str) -> Ended:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound, work, copy_function=os.link)
    for file in work.glob("*.db"):  # which is written in place
        file.unlink()
        shutil.copy(sound / file.name, file)
    what = TARGETS[target].spoil(work, np.random.default_rng(seed))
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _live(work, TARGETS[target].commands)
    status, usage = _wait(child, began + _PATIENCE * SECONDS)
    codes = tuple(map(int, _read(work / "codes").split()))
    if status != 0:
        codes += (-9,)
    return Ended(
        number=seed[1],
        target=target,
        what=what[:300],
        codes=codes,
        peak=usage.ru_maxrss * 1024,
        seconds=usage.ru_utime + usage.ru_stime,
        told=_read(work / "said")[-_TOLD:],
    )


def _live(work: Path, commands: Sequence[Words]) -> NoReturn:
    """Call the commands in this process, which ends here."""
    os.chdir(work)
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (loaded + MEMORY, loaded + MEMORY))
    for words in commands:
        with Path("said").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        code = _call(words)
        sys.stdout.flush()
        sys.stderr.flush()
        with Path("codes").open("a") as codes:
            codes.write(f"{code}\n")
        if code not in CODES:
            break
    os._exit(0)


def _call(words: Words) -> int:
    try:
        main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException as error:  # noqa: BLE001 - what a command lets through
        sys.stderr.write(f"{error!r}\n")
    return 1


def _wait(child: int, until: float) -> tuple[int, resource.struct_rusage]:
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > until:
            os.kill(child, 9)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        time.sleep(0.003)


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("folder", type=Path)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--inputs", type=int, default=300)
    words.add_argument("--like", default="", help="Only targets with this in the name")
    asked = words.parse_args()
    folder = asked.folder.resolve()
    os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    prepare(folder / "sound")
    sound, work = folder / "sound", folder / "work"
    ends = tried(sound, work, asked.seed, range(asked.inputs), asked.like)
    (folder / "ends.json").write_text(json.dumps([asdict(end) for end in ends]))
    sys.stdout.write(f"\nseed {asked.seed}\n{report(ends)}\n")
    sys.exit(0 if all(end.is_fine for end in ends) else 1)


if __name__ == "__main__":
    _main()
