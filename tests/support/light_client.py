"""A process that can import what the plain ``pip install evomerge`` brings, no more."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path

import evomerge

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
CALL_ALL = """
import contextlib, io, json, sys
from evomerge.cli.app import main

found = {}
for words in sys.argv[1:]:
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words.split())
        except SystemExit as ended:
            code = ended.code
    out.flush()
    found[words] = code, out.buffer.getvalue().decode(), err.getvalue()
print(json.dumps(found))
"""
"""Runs command lines one after another; prints code, output and errors of each."""
_NAME = re.compile(r"[\w.-]+")


def requirements(extra: str = "") -> list[str]:
    """Names of the packages that evomerge, or one of its extras, asks for."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    asked = (
        project["optional-dependencies"][extra] if extra else project["dependencies"]
    )
    return [_name(requirement) for requirement in asked]


def with_theirs(names: Iterable[str]) -> set[str]:
    """Packages and all that they ask for in turn, without extras."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower()
        if name not in found:
            found.add(name)
            for requirement in distribution(name).requires or ():
                if ";" not in requirement:  # an extra, or for another Python
                    left.append(_name(requirement))
    return found


def make_light(folder: Path) -> Path:
    """Put evomerge and the packages it asks for into a folder to import from."""
    package = Path(evomerge.__file__).parent
    (folder / package.name).symlink_to(package)
    for name in with_theirs(requirements()):
        installed = distribution(name)
        for part in {file.parts[0] for file in installed.files or ()} - {".."}:
            (folder / part).symlink_to(Path(str(installed.locate_file(part))))
    return folder


def run_light(
    folder: Path,
    program: str,
    words: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program where only that folder and Python's own library are found."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", program, *words],
        env={"EVOMERGE_PROGRESS": "off", "PYTHONPATH": str(folder), "PATH": ""}
        | dict(env or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found, requirement
    return found.group()
