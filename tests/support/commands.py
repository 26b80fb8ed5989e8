"""The command line in processes that have loaded already what takes long to load."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory

from evomerge import api, cli
from evomerge.testing.forks import ForkServer

WITH_MODELS = "EVOMERGE_TEST_WITH_MODELS"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands, each in a fork of one process; a context manager.

    Args:
        environment: Read when libraries are imported, so it is the same for all.
        with_models: Whether they need the models of transformers, which load slowly.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        with_models: bool = True,
    ) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        usual = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        usual[WITH_MODELS] = "yes" if with_models else ""
        self._server = ForkServer(
            Path(__file__), salt=1, environment={**kept, **usual, **(environment or {})}
        )
        self._logs = TemporaryDirectory()

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._logs.cleanup()

    def run(self, folder: Path, *words: object) -> Ended:
        """Run a command in a folder, which holds its cache too."""
        log = Path(self._logs.name) / "log"
        code = self._server.run(json.dumps([str(folder), *map(str, words)]), log)
        return Ended(code, log.with_suffix(".out").read_text(), log.read_text())

    def python(self, folder: Path, program: str, *words: object) -> Ended:
        """Run a program of Python in a folder, as ``python -c`` does."""
        return self.run(folder, "-c", program, *words)

    def call(self, folder: Path, *words: object) -> str:
        """Run a command that succeeds, and return what it printed."""
        ended = self.run(folder, *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def main(argument: str) -> None:
    """Run one command, or a program after ``-c``: a folder and its words, as JSON."""
    from evomerge.cli.app import main as run

    folder, *words = json.loads(argument)
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    if words[0] != "-c":
        run(words)
    else:
        _, program, *sys.argv[1:] = words
        exec(compile(program, "-c", "exec"), {"__name__": "__main__"})


if __name__ == "<run_path>":  # in the server, before it forks
    if os.environ[WITH_MODELS]:
        import transformers.models.auto.modeling_auto
        import transformers.models.llama.modeling_llama  # noqa: F401

        import evomerge.scoring.hf.engine

    import rich.console
    import rich.live
    import rich.table  # noqa: F401

    import evomerge.merging.output.writer
    import evomerge.scoring.harness.scored_tasks
    import evomerge.specs.completing.measures
    import evomerge.specs.studies.study_file  # noqa: F401
    import support.loaded  # noqa: F401

    for package in (api, cli):
        for module in iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
