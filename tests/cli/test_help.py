"""Every command's help: complete, with an example that is right, and quick."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from evomerge.cli.app import app

GOLDEN = Path(__file__).parents[1] / "golden" / "help"


def leaves(group: click.Group, *words: str) -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= leaves(command, *words, name)
        else:
            found[" ".join((*words, name))] = command
    return found


LEAVES = leaves(app)
COMMANDS = sorted(LEAVES)
PAGES = ("", "db", "token", "user", "workers", *COMMANDS)
HEAVY = (
    "torch",
    "ray",
    "vllm",
    "lm_eval",
    "transformers",
    "sqlalchemy",
    "optuna",
    "cma",
    "pydantic",
    "yaml",
    "numpy",
    "rich",
)


def help_of(*words: str) -> str:
    result = CliRunner().invoke(
        app, [*words, "--help"], prog_name="evomerge", terminal_width=88
    )
    assert result.exit_code == 0
    return result.output


def file_name(command: str) -> str:
    return command.replace(" ", "-") or "evomerge"


@pytest.mark.parametrize("command", PAGES)
def test_help_equals_its_golden_text(command: str) -> None:
    text = help_of(*command.split())
    file = GOLDEN / f"{file_name(command)}.txt"
    if os.environ.get("EVOMERGE_REWRITE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_no_golden_help_is_left_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {
        file_name(page) for page in PAGES
    }


def test_all_commands_are_there() -> None:
    promised = (
        "attempts, cancel, check, compare, convert, dashboard, db check, db upgrade, "
        "delete, doctor, events, export, front, init, login, logs, merge, pause, ps, "
        "recipe, resume, run, scale, scan, serve, show, status, studies, study, "
        "submit, token add, token list, token revoke, trials, user add, user list, "
        "wait, workers drain, workers undrain, zoo"
    )
    assert promised.split(", ") == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_help_can_be_parsed(name: str) -> None:
    command = LEAVES[name]
    found = re.fullmatch(rf"Example: evomerge {name} ?(.*)", command.epilog or "")
    assert found, f"{name} has no example"
    with command.make_context(name, shlex.split(found.group(1))) as context:
        assert context.params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in LEAVES[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_what_prints_a_table_prints_json_as_well(name: str) -> None:
    writes_no_table = {
        "dashboard",
        "merge",
        "zoo",
        "convert",
        "serve",
        "token add",
        "token revoke",
    }
    options = {o for p in LEAVES[name].params for o in p.opts}
    assert ("--json" in options) is (name not in writes_no_table)


def test_help_loads_no_library_that_takes_long() -> None:
    program = (
        "import sys, evomerge.cli.app as app\n"
        "try: app.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        f"print('loaded', *(m for m in {HEAVY!r} if m in sys.modules))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1].split() == ["loaded"], ran.stderr
