"""mergekit in a virtual environment of its own: its command, and its in-memory API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from merging.methods import Merge

VERSION = "0.1.5"
_TORCH = "2.13.0"
_INSTALL_S = 1800
_SERVER = Path(__file__).with_name("rival_server.py")


class MissingError(Exception):
    """mergekit is not to be had; the text says why."""


def install(folder: Path) -> Path:
    """Return the folder of mergekit's commands, installing it if need be.

    Args:
        folder: Where the virtual environment is kept.

    Raises:
        MissingError: There is no ``uv``, or no network.
    """
    place = folder / f"mergekit-{VERSION}"
    ready = place / "ready"
    if ready.exists():
        return place / "bin"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise MissingError("uv is not installed")
    shutil.rmtree(place, ignore_errors=True)
    environment = dict(os.environ)
    where = ["--torch-backend=cpu"]
    if wheels := environment.get("PIP_FIND_LINKS"):
        # A folder of wheels has the torch that is wanted, under pip's name for it.
        environment["UV_FIND_LINKS"] = wheels
        where = []
    python = str(place / "bin" / "python")
    packages = [f"mergekit=={VERSION}", f"torch=={_TORCH}"]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(place)],
        [uv, "pip", "install", "--quiet", *where, "--python", python, *packages],
        [str(place / "bin" / "mergekit-yaml"), "--help"],
    ):
        _install_step(command, environment)
    ready.touch()
    return place / "bin"


def _install_step(command: Sequence[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise MissingError(" ".join(lines[-3:]) or f"{command[0]} failed")


class Server:
    """A process with mergekit and a part of the checkpoints in memory."""

    def __init__(self, commands: Path, folder: Path, tensors: Sequence[str]) -> None:
        """Start it.

        Args:
            commands: Of mergekit's environment.
            folder: Of the checkpoints.
            tensors: Names of those that are merged.
        """
        self._process = subprocess.Popen(
            [str(commands / "python"), str(_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = folder
        self._tensors = list(tensors)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def merge(self, merge: Merge, threads: int) -> float:
        """Return the seconds one merge of the tensors takes."""
        job: dict[str, Any] = {
            "folders": {name: str(self._folder / name) for name in merge.reads},
            "tensors": self._tensors,
            "method": merge.method.name,
            "base": merge.base,
            "parameters": {**merge.each(), **merge.method.shared},
            "threads": threads,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"mergekit's {merge.method.name} failed in memory")
        return float(json.loads(answer)["seconds"])
