"""`evomerge init`: a first study file."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from evomerge import api
from evomerge.cli.options import cache_dir, json_option
from evomerge.cli.tables import print_json


@click.command(
    epilog="Example: evomerge init study.yaml --model base=demo/zoo/base "
    "--model math=demo/zoo/math --base base --task gsm8k",
    short_help="Write a study file for given models and tasks.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME=MODEL",
    help="A folder or hub id, and what the study calls it; may be repeated.",
)
@click.option("--base", metavar="NAME", help="The model that the others began from.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    help="A task of lm-eval or of --include, or simulated; may be repeated.",
)
@click.option(
    "--include",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with task files of yours.",
)
@click.option(
    "--engine",
    type=click.Choice(["vllm", "hf", "simulated"]),
    help="What runs the candidates; vllm if it is installed, else hf.",
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Candidates to try.",
)
@json_option
def init(
    file: Path,
    models: tuple[str, ...],
    base: str | None,
    tasks: tuple[str, ...],
    include: Path | None,
    engine: str | None,
    trials: int,
    as_json: bool,
) -> None:
    """Write a study FILE with comments, for given models and tasks.

    Models that are on this machine are looked at: whether they are of one family, and
    what differs. Nothing is fetched but the tasks' data, and no file is overwritten.
    """
    begin, wanted = api.init, api.Beginning  # or the extra that brings them is named
    made = begin(
        file,
        wanted(_named(models), tasks, base, include, engine, trials),
        cache_dir=cache_dir(),
    )
    if as_json:
        print_json(made)
        return
    for note in made.notes:
        click.echo(note)
    click.echo(f"{made.file} is written; strategy {made.strategy}. Next:")
    for verb in ("check", "run"):
        click.echo(f"  {shlex.join(['evomerge', verb, made.file])}")


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Return name to model; a model alone is called after its last part."""
    found: dict[str, str] = {}
    for text in models:
        name, sign, written = text.partition("=")
        if not sign:
            name, written = Path(text.partition("@")[0]).name, text
        if name in found:
            raise click.BadParameter(
                f"expected each name once, got {name!r} twice; write NAME=MODEL.",
                param_hint="--model",
            )
        found[name] = written
    return found
