"""A replica: one process that answers over HTTP and runs jobs, and has no state.

What it knows is in the database and in the spool folder, so any number of them serve
one database, and one that is lost loses nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from evomerge.caches import cache_dir
from evomerge.errors import SetupError
from evomerge.service.environment import hub_home
from evomerge.service.exporter import Exporter
from evomerge.service.forking.forks import MODULES, Forks
from evomerge.service.http.app import make_app
from evomerge.service.http.asking import Counter
from evomerge.service.http.operating import Replica
from evomerge.service.metrics import Place, telling
from evomerge.service.page import routes as page
from evomerge.service.policy import refuse_readable
from evomerge.service.records import Records, RecordsPool, waited_for
from evomerge.service.supervisor import KILL_AFTER_S, Site, Supervisor
from evomerge.store.queue.job_queue import open_queue

SKEW_S = 5.0
"""How far a clock may be from the database's before it is told."""
_CLOSING_S = 10
_SQLITE = "sqlite:///"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where a replica answers.

    Attributes:
        host: A name or an address; by default this machine alone can reach it.
        port: 0 for any that is free.
        tls_cert: Certificate chain in PEM form, with ``tls_key``.
        behind_proxy: Whether a proxy in front of it does TLS.

    Raises:
        SetupError: Others could reach it, and read what is sent.
    """

    host: str = "127.0.0.1"
    port: int = 7077
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SetupError("Expected --tls-cert and --tls-key together, got one.")
        is_safe = self.tls_cert is not None or self.behind_proxy
        if not is_safe and not is_loopback(self.host):
            raise SetupError(
                f"Other machines could reach {self.host}, and whoever is on the way "
                "could read tokens. Give --tls-cert and --tls-key, or say "
                "--behind-proxy if a proxy in front does TLS; or listen on 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """A server whose end is in order: streams first, then what is being answered."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_end = on_end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order at the first signal, at once at the second."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what follows jobs, then the rest."""
        self._on_end()
        await super().shutdown(sockets)


def serve(
    site: Site,
    listening: Listening,
    ready: Callable[[str], None] = lambda _: None,
    metrics: Place | None = None,
) -> None:
    """Answer and run jobs until SIGTERM or Ctrl-C; jobs are given back then.

    Args:
        site: Where jobs run; its database gets tables if it has none.
        listening: Where it answers.
        ready: Told the URL when it answers.
        metrics: Where numbers are told; nowhere if not given.

    Raises:
        StoreError: The database cannot be used, is of another version, or was away for
            ten minutes.
        SetupError: The address is taken.
        OSError: The spool folder cannot be written.
    """
    _prepare(site, listening)
    jobs, orders, pool = open_queue(site.url), Records(site.url), RecordsPool(site.url)
    forks = Forks(MODULES if site.capacity else None)
    supervisor = Supervisor(
        jobs, site, _name(), start=forks.start, is_ready=forks.is_ready
    )
    exporter = Exporter(orders.exports, site, _name())
    runs = [supervisor.run, *([exporter.run] if site.capacity else [])]
    threads = [threading.Thread(target=run, daemon=True) for run in runs]
    bound = _bind(listening)

    def drain() -> None:
        server.should_exit = True

    def end() -> None:
        supervisor.drain()
        exporter.drain()
        app.state.watch.close()

    counter = Counter(pool, site)
    app = make_app(counter, Replica(lambda: supervisor.obstacle, drain))
    page.install(app)
    url = _url(listening, bound)
    server = _Server(_config(app, listening), lambda: ready(url), end)
    for thread in threads:
        thread.start()
    try:
        with telling(metrics, site.url):
            server.run([bound])
    finally:
        supervisor.drain()
        exporter.drain()
        for thread in threads:
            thread.join(KILL_AFTER_S + 10.0)
        for opened in (jobs, orders, pool, forks):
            opened.close()


def _config(app: Any, listening: Listening) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # who asked what is nobody's but theirs
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_CLOSING_S,
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
    )


def _prepare(site: Site, listening: Listening) -> None:
    """Refuse at once what would fail later."""
    site.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    if site.policy is not None:
        refuse_readable(site.policy, _own_files(site, listening))
    records = waited_for(site.url)
    try:
        skew_s = time.time() - records.seconds()
    finally:
        records.close()
    if abs(skew_s) > SKEW_S:
        _logger.warning(
            "This machine's clock is %.0f s %s the database's. Jobs go by the "
            "database's; times in logs are this machine's. Set its clock.",
            abs(skew_s),
            "ahead of" if skew_s > 0 else "behind",
        )
    # What goes wrong in a server is told as everything else is.
    logging.getLogger("uvicorn").handlers = logging.getLogger("evomerge").handlers


def _own_files(site: Site, listening: Listening) -> list[tuple[str, Path]]:
    """Return what no study may read, and what it is."""
    files = [
        ("the spool folder", site.spool),
        ("the cache folder", cache_dir()),
        ("the hub's token", hub_home() / "token"),
    ]
    if site.url.startswith(_SQLITE):
        file = site.url.removeprefix(_SQLITE).partition("?")[0]
        files.append(("the database", Path(file)))
    for what, path in (
        ("the key for TLS", listening.tls_key),
        ("Ray's token", os.environ.get("RAY_AUTH_TOKEN_PATH")),
    ):
        if path is not None:
            files.append((what, Path(path)))
    return files


def _name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _bind(listening: Listening) -> socket.socket:
    host = listening.host.strip("[]")
    try:
        found = socket.getaddrinfo(
            host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        raise SetupError(
            f"Cannot listen on {listening.host}:{listening.port}: {error.strerror}. "
            "Give another --listen HOST:PORT."
        ) from error
    bound.set_inheritable(False)
    return bound


def _url(listening: Listening, bound: socket.socket) -> str:
    scheme = "http" if listening.tls_cert is None else "https"
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    return f"{scheme}://{host}:{bound.getsockname()[1]}"
