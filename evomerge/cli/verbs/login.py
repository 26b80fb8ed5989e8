"""`evomerge login`: keep the token that a cluster's operator gave out."""

from __future__ import annotations

import sys

import click

from evomerge.cli.options import cluster_option, json_option
from evomerge.cli.tables import print_json
from evomerge.cli.verbs.meant import clean


@click.command(
    epilog="Example: evomerge login --cluster https://cluster:7077",
    short_help="Keep the token for a cluster.",
)
@cluster_option
@json_option
def login(cluster: str | None, as_json: bool) -> None:
    """Ask for a token, try it, and keep it where nobody else may read it.

    It is asked for, or read from standard input; never an argument, which every user of
    this machine could see. It is kept in ~/.config/evomerge/token, or in the file that
    EVOMERGE_TOKEN_FILE names, and only if the cluster takes it.
    """
    from evomerge.client import connect, settings
    from evomerge.client.values import to_json

    if cluster is None:
        raise click.UsageError(
            f"Expected --cluster URL, or the URL in {settings.CLUSTER}."
        )
    settings.addresses(cluster)
    file = settings.token_file()
    if sys.stdin.isatty():
        text = click.prompt("Token (emk_...)", hide_input=True, err=True)
    else:
        text = sys.stdin.read(4096)
    token = settings.checked_token(text, "what was given")

    def notice(said: str) -> None:
        click.echo(f"evomerge: {clean(said)}", err=True)

    me = connect(cluster, token=token, notice=notice).me()
    settings.write_token(file, token)
    if as_json:
        print_json({**to_json(me), "file": str(file)})
        return
    scopes = ", ".join(sorted(me.scopes))
    click.echo(f"You are {clean(me.user)} ({me.role}; {scopes}). Kept in {file}.")
    click.echo(f"For every command: export {settings.CLUSTER}={cluster}")
