"""`evomerge check`, `zoo`, `convert` and `doctor`: before, and around, a search."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge import api
from evomerge.cli.options import (
    cache_dir,
    cluster_option,
    db_option,
    json_option,
    policy_option,
)
from evomerge.cli.tables import counted, print_json, print_table
from evomerge.cli.verbs.checking import check_remote
from evomerge.cli.verbs.meant import meant, refuse_options
from evomerge.exit_codes import ExitCode


@click.command(
    epilog="Example: evomerge check search_spaces/scalars.yaml",
    short_help="Validate a study file and estimate what it costs.",
)
@click.argument("study", type=click.Path(path_type=Path), is_eager=True)
@click.option(
    "--dry-run/--no-dry-run",
    default=True,
    help="Start the engine and score an item a task, to estimate time (default: yes).",
)
@policy_option
@cluster_option
@db_option
@json_option
def check(
    study: Path, dry_run: bool, cluster: str | None, db: str, as_json: bool
) -> None:
    """Validate a STUDY file, its sources and tasks, and estimate what it costs.

    With a cluster it is looked at there, where its models are; nothing is estimated.
    """
    if (urls := meant(cluster)) is not None:
        refuse_options(("dry_run",))
        check_remote(study, urls, as_json)
        return
    found = api.check(study, db=db, cache_dir=cache_dir(), dry_run=dry_run)
    if as_json:
        print_json(found)
        return
    click.echo(f"{study}: no mistakes found")
    for part in (found, *found.later):
        print_table("", ("", ""), part.rows())


@click.command(
    epilog="Example: evomerge compare demo/zoo/base demo/zoo/math demo/zoo/ja",
    short_help="Say how models differ, and what merging them can give.",
)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--base", metavar="MODEL", help="What they began from; the first if not given."
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    help="Entries of each tensor to look at, evenly spread; all if not given.",
)
@json_option
def compare(
    models: tuple[str, ...], base: str | None, most: int | None, as_json: bool
) -> None:
    """Compare MODELS, folders or hub ids, with the base they began from.

    Norms, unchanged entries, cosines and signs of their differences, in all, by role
    and by layer; whether they fit each other; and what that promises for a merge.
    """
    first, others = (models[0], models[1:]) if base is None else (base, models)
    if not others:
        raise click.UsageError("expected another model beside the base.")
    found = api.compare(first, others, cache_dir=cache_dir(), most=most)
    if as_json:
        print_json(found)
    else:
        _print_compared(found)
    if found.problems:
        raise SystemExit(ExitCode.PUT_RIGHT)


def _print_compared(found: api.Compared) -> None:
    for problem in found.problems:
        click.echo(f"do not fit: {problem}")
    for remark in found.remarks:
        click.echo(f"note: {remark}")
    if found.problems:
        return
    print_table(
        f"differences from {found.base}",
        ("model", "norm", "of the base's", "unchanged"),
        [
            (
                row.name,
                row.norm,
                None if row.relative is None else f"{row.relative:.2%}",
                f"{row.sparsity:.1%}",
            )
            for row in found.models
        ],
    )
    pairs = [(row.one, row.other) for row in found.pairs if row.part == "all"]
    if pairs:
        cells: dict[str, list[float | None]] = {}
        for row in found.pairs:
            cells.setdefault(row.part, []).extend([row.cosine, row.agreement])
        heads = [f"{what} {a}, {b}" for a, b in pairs for what in ("cosine", "signs")]
        click.echo()
        title = "cosine of two differences; share of common changes with one sign"
        print_table(title, ("", *heads), [(part, *row) for part, row in cells.items()])
    if found.left_out:
        n, named = len(found.left_out), ", ".join(found.left_out[:3])
        click.echo(f"not compared: {counted(n, 'tensor')} ({named}{', ...' * (n > 3)})")
    if found.verdict:
        click.echo(found.verdict)


@click.command(
    epilog="Example: evomerge zoo demo/zoo", short_help="Train small models to merge."
)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "kind",
    type=click.Choice(["small", "real"]),
    default="small",
    show_default=True,
    help="real: SmolLM2-135M-Instruct and two experts of it, with a study.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="For --set real: a .gguf file or a model folder, instead of the package that "
    "ships the model.",
)
@click.option(
    "--recipe",
    default="P128",
    show_default=True,
    help="Of the small set: P128, or the smaller L2 or TINY.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the small set's weights and training data.",
)
def zoo(out: Path, kind: str, source: Path | None, recipe: str, seed: int) -> None:
    """Make a base model and experts of it on the spot, with tasks to merge them for.

    The small set is trained from nothing in about two minutes on two cores. The real
    one takes about six: a package of 93 MB is downloaded for its model, which is
    fine-tuned on two-digit sums and on sorting words. A second call finds them there.
    """
    if kind == "real":
        source_of = click.get_current_context().get_parameter_source
        for name in ("recipe", "seed"):
            if source_of(name) is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} goes with --set small.")
        _real_zoo(out, source)
        return
    if source is not None:
        raise click.UsageError("--from goes with --set real.")
    done = api.zoo(out, recipe=recipe, seed=seed)
    how = f"made in {done.seconds:.0f} s" if done.built else "there already"
    click.echo(f"{done.folder}: {', '.join(done.models)} ({done.recipe}, {how})")
    click.echo(f"{done.tasks}: their tasks")


def _real_zoo(out: Path, source: Path | None) -> None:
    done = api.real_zoo(out, source)
    how = f"made in {done.seconds:.0f} s" if done.made else "there already"
    click.echo(f"{done.folder}: {', '.join(done.models)} ({how})")
    click.echo(f"{done.study}: a study of them")


@click.command(
    epilog="Example: evomerge convert model-Q4_K_M.gguf model",
    short_help="Write the model of a GGUF file as a folder.",
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="bfloat16",
    show_default=True,
    help="Element type of the weights written.",
)
@click.option("--replace", is_flag=True, help="Replace OUT if it is there.")
def convert(source: Path, out: Path, dtype: str, replace: bool) -> None:
    """Write the model of SOURCE, a GGUF file or a folder with one, as a folder OUT.

    Studies and recipes take such folders. What a quantised file has lost of the model
    it was made from stays lost.
    """
    api.convert_gguf(source, out, dtype=dtype, replace=replace)
    click.echo(f"{out}: the model of {source}")


@click.command(
    epilog="Example: evomerge doctor --engine demo/zoo/base --probe demo/zoo/math",
    short_help="Look at this machine, and prove an engine.",
)
@click.option(
    "--engine",
    "model",
    metavar="MODEL",
    help="A model folder or hub id to start the engine on.",
)
@click.option(
    "--probe",
    metavar="MODEL",
    help="Another of the same family, to swap in.",
)
@click.option(
    "--kind",
    type=click.Choice(["vllm", "hf"]),
    default="vllm",
    show_default=True,
    help="Which engine.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Element type it computes in.",
)
@db_option
@json_option
def doctor(
    model: str | None,
    probe: str | None,
    kind: str,
    dtype: str,
    db: str,
    as_json: bool,
) -> None:
    """Say what this machine has, and prove that swapped weights behave as loaded ones.

    Without --engine only the installation and the database are looked at.
    """
    wanted = api.EngineCheck(model, probe, kind, dtype) if model else None
    found = api.doctor(wanted, db=db, cache_dir=cache_dir())
    if as_json:
        print_json(found)
    else:
        print_table("", ("", "", ""), [(f.name, f.value, f.verdict) for f in found])
    if any(f.verdict == "bad" for f in found):
        raise SystemExit(ExitCode.PUT_RIGHT)
