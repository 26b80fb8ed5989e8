"""Experts trained in processes of their own, two at a time.

Each process runs ``evomerge.zoo.worker`` and prints its finished steps. Plain child
processes rather than multiprocessing: they do not import the caller's main program,
so a zoo can be made from a script, a notebook or a test alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from evomerge.errors import EvomergeError
from evomerge.zoo.recipes import EXPERTS, ZooRecipe
from evomerge.zoo.training import OnStep

_AT_ONCE = 2
_LAST_WORDS = 2000  # characters of a failed process's output that are shown


class ExpertProcesses:
    """Trains the experts of one zoo and leaves no process behind."""

    def __init__(
        self, recipe: ZooRecipe, seed: int, files: dict[str, Path], progress: OnStep
    ) -> None:
        """Prepare; ``files`` says where each model's weights lie or go."""
        self._recipe, self._seed = recipe, seed
        self._files, self._progress = files, progress
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False
        self._lock = Lock()

    def train(self, base: Path) -> None:
        """Train all experts from the base's weights.

        Raises:
            EvomergeError: A process failed; the others were ended.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                list(pool.map(lambda name: self._train(name, base), EXPERTS))
            except BaseException:  # an interrupt too must not leave processes behind
                self._stop()
                raise

    def _train(self, model: str, base: Path) -> None:
        total = self._recipe.course(model).steps
        with tempfile.TemporaryFile("w+") as words:
            worker = self._start(model, base, words.fileno())
            if worker is None:
                return
            with worker:
                assert worker.stdout is not None
                for line in worker.stdout:
                    self._tell(model, int(line), total)
            if worker.returncode and not self._stopped:
                words.seek(0)
                self._stop()
                raise EvomergeError(
                    f"Training {model!r} failed (exit status {worker.returncode}): "
                    f"{words.read()[-_LAST_WORDS:].strip()}"
                )

    def _start(
        self, model: str, base: Path, stderr: int
    ) -> subprocess.Popen[str] | None:
        options = {
            "recipe": self._recipe.name,
            "model": model,
            "seed": self._seed,
            "base": base,
            "out": self._files[model],
        }
        command = [sys.executable, "-P", "-m", "evomerge.zoo.worker"]
        command += [f"--{key}={value}" for key, value in options.items()]
        with self._lock:
            if self._stopped:
                return None
            worker = subprocess.Popen(
                command,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            self._running.append(worker)
        return worker

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for worker in self._running:
                worker.terminate()

    def _tell(self, model: str, done: int, total: int) -> None:
        with self._lock:
            self._progress(model, done, total)


def _environment() -> dict[str, str]:
    """Our environment, with this very package importable; one thread each."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
