"""`evomerge recipe`: recipe files of one form into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge import api
from evomerge.cli.options import cache_dir, profile_option, strict_option
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
