"""`evomerge recipe` and `study`: files of one form into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge import api
from evomerge.cli.options import (
    cache_dir,
    json_option,
    profile_option,
    strict_option,
)
from evomerge.cli.tables import print_json

if TYPE_CHECKING:
    from evomerge.specs.mergekit import Profile


@click.command(
    epilog="Example: evomerge recipe merge.yml --to own --out recipe.yaml",
    short_help="Convert a recipe, also from and to mergekit.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["own", "mergekit", "canonical"]),
    help="own: YAML with folders; canonical: the JSON that the digest names. Default: "
    "own for a mergekit file, mergekit for any other.",
)
@profile_option
@strict_option
@click.option(
    "--lossy",
    is_flag=True,
    help="Write what mergekit can say of a recipe that it cannot say in full.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write instead of standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def recipe(
    file: Path,
    to: api.RecipeForm | None,
    profile: Profile,
    strict: bool,
    lossy: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Convert the recipe FILE into another form, and say what that cannot express."""
    done = api.convert_recipe(
        file,
        to=to,
        profile=profile,
        strict=strict,
        lossy=lossy,
        cache_dir=cache_dir(),
    )
    for loss in done.losses:
        click.echo(f"Not expressed: {loss}", err=True)
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
    if out is not None:
        out.write_text(done.text, encoding="utf-8")
    if as_json:
        print_json(done)
    elif out is None:
        click.echo(done.text, nl=False)
    else:
        click.echo(f"{out}: recipe {done.digest} as {done.form}")


@click.command(
    epilog="Example: evomerge study evolve.yml study.yaml --vllm",
    short_help="Turn a mergekit-evolve file into a study.",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--max-fevals",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Candidates to try.",
)
@click.option(
    "--vllm/--no-vllm",
    default=False,
    help="Score with vLLM, or with plain transformers (default).",
)
@click.option(
    "--sigma0",
    type=click.FloatRange(min=0.0, max=1.0, min_open=True),
    default=1 / 6,
    show_default="1/6",
    help="First step, in units of a weight.",
)
@click.option(
    "--random-seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the search, and of random masks.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Longest the search may take, in seconds.",
)
@click.option(
    "--force-population-size",
    "population",
    type=click.IntRange(2),
    help="Candidates of a generation; CMA-ES's own if not given.",
)
@click.option(
    "--task-search-path",
    "task_paths",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with task files of yours; may be repeated.",
)
@json_option
def study(
    config: Path,
    out: Path | None,
    max_fevals: int,
    vllm: bool,
    sigma0: float,
    random_seed: int,
    timeout_s: float | None,
    population: int | None,
    task_paths: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Turn CONFIG, a file of mergekit-evolve, into the study file OUT.

    What has no equal here, or means something else, is said with its line, and stands
    at the top of the study file. Without OUT it is printed, for the current folder.
    Options are named as those of mergekit-evolve.
    """
    converted = api.convert_study  # or the extra that brings it is named
    wanted = api.EvolveOptions(
        max_fevals, vllm, sigma0, random_seed, timeout_s, population, task_paths
    )
    done = converted(config, out, wanted)
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        print_json(done)
    elif out is None:
        click.echo(done.text, nl=False)
    else:
        click.echo(f"{out}: a study. Next: evomerge check {out}")
