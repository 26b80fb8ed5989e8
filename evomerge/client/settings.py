"""Which cluster is meant, and the token shown to it.

A token is a secret: it is read from a file that nobody else may read, never from an
argument, which every user of a machine can see.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from evomerge.errors import Problem, SetupError, SpecError, TokenError
from evomerge.masking import masked_url

CLUSTER = "EVOMERGE_CLUSTER"
TOKEN_FILE = "EVOMERGE_TOKEN_FILE"
CA_FILE = "EVOMERGE_CA_FILE"

_TOKEN = re.compile(r"emk_[A-Za-z0-9_-]{20,200}")
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica listens.

    Attributes:
        path: What every route begins with, without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_safe(self) -> bool:
        """Whether a token may go there: nobody on the way can read it."""
        return self.scheme == "https" or self.host in ("127.0.0.1", "::1", "localhost")


def addresses(text: str) -> tuple[Address, ...]:
    """Read the URLs of a cluster's replicas, separated by commas.

    Raises:
        SpecError: One is no URL of a service; says each.
    """
    found, problems = [], []
    for written in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(_address(written))
        except ValueError as error:
            problems.append(
                Problem(
                    "cluster",
                    "expected URLs as https://HOST:PORT, separated by commas, got "
                    f"{masked_url(written)!r:.200}: {error}",
                )
            )
    if not found and not problems:
        said = "expected a URL as https://HOST:PORT, got nothing"
        problems.append(Problem("cluster", said))
    if problems:
        raise SpecError(problems)
    return tuple(dict.fromkeys(found))


def _address(written: str) -> Address:
    parts = urlsplit(written)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it begins with neither https:// nor http://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user; a token is kept by `evomerge login`")
    if not parts.hostname or re.search(r"[^A-Za-z0-9._:%-]", parts.hostname):
        raise ValueError("it names no host")
    if parts.query or parts.fragment:
        raise ValueError("it holds a query")
    if re.search(r"[^A-Za-z0-9._~/-]", parts.path):
        raise ValueError("its path holds more than letters, digits and ./_~-")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


def token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the token is kept."""
    named = environment.get(TOKEN_FILE)
    if named:
        return Path(named).expanduser()
    root = environment.get("XDG_CONFIG_HOME")
    folder = Path(root) if root else Path.home() / ".config"
    return folder / "evomerge" / "token"


def read_token(file: Path) -> str:
    """Read a token from a file that only its owner may read.

    Raises:
        TokenError: There is none, or others may read it; says what to run.
    """
    try:
        # Looked at and read by one descriptor: what is checked is what is used.
        with file.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise TokenError(f"The token's file {file} is no plain file.")
            if found.st_mode & 0o077:
                raise TokenError(
                    f"The token in {file} may be read by others (mode "
                    f"{stat.S_IMODE(found.st_mode):04o}), so it is not used. Run: "
                    f"chmod 600 {file}"
                )
            text = stream.read(_LONGEST)
    except FileNotFoundError as error:
        raise TokenError(
            f"There is no token in {file}. Run: evomerge login, or let {TOKEN_FILE} "
            "name a file that has it."
        ) from error
    except OSError as error:
        raise TokenError(
            f"The token in {file} cannot be read: {error.strerror or error}."
        ) from error
    return checked_token(text.decode("ascii", "replace"), str(file))


def checked_token(text: str, where: str) -> str:
    """Return the token that a text is, without the white space around it.

    Raises:
        TokenError: It is none; what it is is not told.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise TokenError(
            f"What {where} holds is no token: expected 'emk_' and letters, digits, '_' "
            "and '-', as `evomerge token add` shows it."
        )
    return token


def write_token(file: Path, token: str) -> None:
    """Keep a token so that only its owner may read it; the file is whole or as before.

    Raises:
        SetupError: It cannot be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".token-")  # 0600
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(f"{token}\n")
            Path(name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise SetupError(
            f"The token cannot be kept in {file}: {error.strerror or error}. Let "
            f"{TOKEN_FILE} name another file."
        ) from error
