"""A light client's environment: what ``pip install evomerge`` brings, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PARTS = ("pyproject.toml", "README.md", "LICENSE", "evomerge")
_HEAVY = ("numpy", "sqlalchemy", "torch", "ray", "pydantic", "fastapi")


class LightClient:
    """The command line in an environment of its own.

    Args:
        folder: For the environment and for what it downloads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = folder / "env" / "bin" / "evomerge"
        self._environment: dict[str, str] = {}
        source = folder / "source"
        source.mkdir(parents=True)
        for part in _PARTS:
            copy = shutil.copytree if (_ROOT / part).is_dir() else shutil.copy
            copy(_ROOT / part, source / part)
        venv.create(folder / "env", with_pip=False)
        python = folder / "env" / "bin" / "python"
        words = ["-m", "pip", "--quiet", "--python", str(python), "install", source]
        subprocess.run([sys.executable, *map(str, words)], check=True)
        self.packages = self._packages(python)

    def _packages(self, python: Path) -> list[str]:
        """Return what is installed; refuse what a light client must not have."""
        ask = (
            "import importlib.metadata as m; [print(d.name) for d in m.distributions()]"
        )
        found = subprocess.run(
            [python, "-c", ask], check=True, capture_output=True, text=True
        ).stdout.split()
        if heavy := sorted(set(_HEAVY) & set(found)):
            raise AssertionError(f"this is no light client: it has {heavy}")
        return sorted(found)

    def log_in(self, url: str, token: Path) -> None:
        """Talk to this service from now on.

        Args:
            url: Of the replicas, parted by commas.
            token: File that holds the token.
        """
        self._environment = {
            "EVOMERGE_CLUSTER": url,
            "EVOMERGE_TOKEN_FILE": str(token),
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """Its commands' variables: none of this process's reach them."""
        return self._environment

    def words(self, *words: object) -> list[str]:
        """Return the words of a command."""
        return [str(self._program), *map(str, words)]

    def call(self, *words: object) -> str:
        """Run a command that must succeed; return what it printed."""
        done = subprocess.run(
            self.words(*words),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise AssertionError(f"evomerge {' '.join(map(str, words))}: {said}")
        return done.stdout
