"""`evomerge export` and `evomerge merge`: write model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge import api
from evomerge.cli.options import (
    cache_dir,
    cluster_option,
    db_option,
    json_option,
    merge_options,
    policy_option,
    profile_option,
    shard_option,
    strict_option,
)
from evomerge.cli.tables import counted, print_json
from evomerge.cli.verbs.exporting import export_remote
from evomerge.cli.verbs.meant import meant, refuse_options
from evomerge.cli.verdicts import (
    print_baselines,
    print_bounds,
    print_costs,
    print_standing,
)

if TYPE_CHECKING:
    from evomerge.specs.mergekit import Profile

_GIGA = 10**9


@click.command(
    epilog="Example: evomerge export scalars --trial 41 best-model",
    short_help="Write a trial as a model folder with a card.",
)
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--trial",
    type=click.IntRange(0),
    help="Which trial; the best of the first objective if not given.",
)
@click.option(
    "--score/--no-score",
    "is_scored",
    default=True,
    help="Score it and the baselines on held-out items for the card (default: yes).",
)
@click.option("--replace", is_flag=True, help="Replace OUT if it was exported before.")
@shard_option
@policy_option
@click.option(
    "--remote", is_flag=True, help="Only from a cluster, as --cluster alone says too."
)
@cluster_option
@db_option
@json_option
def export(
    name: str,
    out: Path,
    trial: int | None,
    is_scored: bool,
    replace: bool,
    shard_gb: float,
    remote: bool,
    cluster: str | None,
    db: str,
    as_json: bool,
) -> None:
    """Write a trial of NAME as an ordinary model folder OUT, with an honest card.

    The trial, the baselines and the user's starts are scored on items the search never
    saw; the table gives 95 % intervals and the paired difference to each.

    With a cluster the folder is written there and then fetched: what a cut connection
    interrupts goes on where it was, and the folder is whole or absent.
    """
    if (urls := meant(cluster)) is not None:
        refuse_options(("shard_gb",))
        export_remote(name, out, trial, is_scored, replace, urls, as_json)
        return
    if remote:
        raise click.UsageError("Expected --cluster URL, or it in EVOMERGE_CLUSTER.")
    wanted = api.Export(trial, out, is_scored, replace, int(shard_gb * _GIGA))
    done = api.export(name, wanted, db=db, cache_dir=cache_dir())
    if as_json:
        print_json(done)
        return
    print_standing(done)
    if done.rivals:
        print_baselines(done)
    print_bounds(done)
    print_costs(done)
    click.echo(f"Trial {done.trial} of {name} is in {done.path}. Try it:")
    click.echo(f"  {done.command}")


@click.command(
    epilog="Example: evomerge merge recipe.yaml merged-model",
    short_help="Carry out one decided merge.",
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@profile_option
@strict_option
@shard_option
@merge_options
def merge(
    recipe: Path,
    out: Path,
    profile: Profile,
    strict: bool,
    shard_gb: float,
    device: str,
    dtype: str | None,
    threads: int | None,
    memory_gb: float | None,
) -> None:
    """Carry out one decided merge: the RECIPE file, written as model folder OUT.

    RECIPE is a file of our own, or mergekit's; of mergekit-moe's files comes a mixture.
    """
    done = api.merge(
        recipe,
        out,
        profile=profile,
        strict=strict,
        means=api.Means(
            device,
            dtype,
            threads,
            None if memory_gb is None else int(memory_gb * _GIGA),
            cache_dir(),
            int(shard_gb * _GIGA),
        ),
    )
    files = counted(len(done.shards), "file")
    click.echo(f"{done.path}: {done.size_bytes / 1e6:.1f} MB in {files}")
