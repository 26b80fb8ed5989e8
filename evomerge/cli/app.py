"""The `evomerge` command: all groups of commands, and how errors and signals end."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from evomerge import __version__, extras
from evomerge.cli import (
    beginning,
    databases,
    models,
    people,
    recipes,
    run,
    service,
    studies,
    tools,
    trial,
)
from evomerge.cli.verbs import following, jobs, login, workers
from evomerge.errors import EvomergeError
from evomerge.exit_codes import ExitCode, exit_code_of
from evomerge.masking import hide_arguments, masked, masked_url


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
    epilog="A first run, from nothing: evomerge zoo demo/zoo && "
    "evomerge run search_spaces/scalars.yaml\n\n"
    "Exit codes: 0 done, 1 a defect, 2 put right what is named, 3 what is recorded "
    "does not hold, 4 the job was cancelled or paused, 75 try again later, 76 another "
    "process took the study over, 130 or 143 stopped.",
)
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Tell routine steps too.")
@click.option(
    "--log-format",
    type=click.Choice(["plain", "json"]),
    envvar="EVOMERGE_LOG",
    default="plain",
    show_default=True,
    help="Lines for people, or a JSON object a line; also of every process started.",
)
def app(verbose: bool, log_format: str) -> None:
    """Search for the best way to merge language models."""
    from evomerge.logs import set_up

    os.environ["EVOMERGE_LOG"] = log_format  # of every process that is started
    set_up(verbose=verbose)


for _command in (
    beginning.init,
    run.run,
    run.resume,
    databases.studies,
    studies.status,
    studies.front,
    studies.trials,
    trial.show,
    trial.scan,
    databases.attempts,
    models.export,
    models.merge,
    recipes.recipe,
    recipes.study,
    databases.delete,
    databases.db,
    login.login,
    jobs.submit,
    jobs.ps,
    jobs.cancel,
    jobs.pause,
    workers.scale,
    workers.workers,
    following.logs,
    following.events,
    following.wait,
    service.serve,
    people.user,
    people.token,
    service.dashboard,
    tools.check,
    tools.compare,
    tools.zoo,
    tools.convert,
    tools.doctor,
):
    app.add_command(_command)


class Stop:
    """The first signal that asked the program to stop: SIGTERM is as Ctrl-C.

    Schedulers send it, and a search must give its study back.
    What is raised cannot say which it was: a library that waits in C (Ray) raises a
    KeyboardInterrupt of its own in its place.
    """

    def __init__(self) -> None:
        self._number = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The code shells give a program that this signal ended: 130 or 143."""
        return 128 + self._number

    @contextmanager
    def once(self) -> Iterator[None]:
        """End what runs at the first signal, in order; at the second, at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set them
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> NoReturn:
        self._number = signal.Signals(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt


def _tell(error: EvomergeError) -> None:
    from evomerge import logs

    if logs.is_json():
        logs.tell(str(error), "error")
    else:
        click.echo(f"Error: {error}", err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process.

    Exit codes: those of ``ExitCode``; 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """
    from evomerge.cli import screen  # costs every import of this module

    if arguments is None:
        arguments = sys.argv[1:]
        hide_arguments()
    for word in arguments:
        masked_url(word)  # learns what must not be told of it
    stop = Stop()
    try:
        with stop.once(), extras.named(), screen.shown():
            code = app.main(arguments, prog_name="evomerge", standalone_mode=False)
    except click.exceptions.Abort:  # what click makes of Ctrl-C
        click.echo("Stopped.", err=True)
        code = stop.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(masked(shown.getvalue()), err=True, nl=False)
        code = ExitCode.PUT_RIGHT
    except EvomergeError as error:
        code = exit_code_of(error)
        _tell(error)
    except OSError as error:  # a folder that may not be written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror or error}"
        click.echo(f"Error: {masked(text)}", err=True)
        code = ExitCode.PUT_RIGHT
    except Exception:  # noqa: BLE001 - the outermost call: a defect, shown in full
        click.echo(masked(traceback.format_exc()), err=True)
        code = ExitCode.DEFECT
    sys.exit(code or ExitCode.DONE)
