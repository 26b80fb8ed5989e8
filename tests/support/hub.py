"""A small hub of models and data sets on the loopback, made from folders.

It answers what huggingface_hub and datasets ask of a hub: information on a repository,
its files, and their content, at a branch or a commit. Point a process at it with
``HF_ENDPOINT``, which is read when huggingface_hub is imported. Requests are recorded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["models", "datasets"]
Files = Mapping[str, bytes]

_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?"
)
_RESOLVE = re.compile(
    r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)"
    r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request the hub got.

    Attributes:
        token: What followed ``Bearer``; empty without.
    """

    method: str
    path: str
    token: str


@dataclass(slots=True)
class Repository:
    """What the hub has under one name.

    Attributes:
        commits: Commit hash to file name to content.
        refs: Branch to commit hash.
        is_gated: Everyone may see what there is; only holders of ``token`` get files.
        token: Who holds it may see the repository; empty if everyone may.
    """

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    token: str = ""


class LoopbackHub:
    """A hub on 127.0.0.1 at a free port; a context manager."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.failing_with: int | None = None
        """Status that every request is answered with, if any."""

    def commit(
        self, repo: str, folder: Path, *, kind: Kind = "models", branch: str = "main"
    ) -> str:
        """Take a folder's files as the newest commit of a branch.

        Returns:
            The commit's hash: that of names and contents.
        """
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        listing = "".join(f"{name} {_oid(data)}\n" for name, data in files.items())
        commit = _oid(listing.encode())
        found = self.repositories.setdefault((kind, repo), Repository())
        found.commits[commit] = files
        found.refs[branch] = commit
        return commit

    @property
    def url(self) -> str:
        """The hub's address, for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a process needs to use this hub and no other cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            "NO_PROXY": "127.0.0.1",
        }


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


class _RefusedError(Exception):
    """The answer is an error, with the code that huggingface_hub looks for."""

    def __init__(self, status: int, code: str = "") -> None:
        self.status = status
        self.code = code


def _handler_of(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are recorded."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = urlsplit(self.path).path
        self.hub.requests.append(Asked(self.command, path, self._token))
        try:
            if self.hub.failing_with is not None:
                raise _RefusedError(self.hub.failing_with)
            if match := _API.fullmatch(path):
                self._api(match, body.decode())
            elif match := _RESOLVE.fullmatch(path):
                self._file(match)
            else:
                raise _RefusedError(404)
        except _RefusedError as refused:
            code = {"X-Error-Code": refused.code} if refused.code else {}
            self._send(refused.status, b"", code)

    def _find(self, match: re.Match[str]) -> tuple[Repository, str]:
        """Return a repository and the commit meant."""
        kind: Kind = "datasets" if match["kind"] == "datasets" else "models"
        found = self.hub.repositories.get((kind, match["repo"]))
        if found is None or (found.token and self._token != found.token):
            if found is None or not found.is_gated:
                raise _RefusedError(404 if self._token else 401, "RepoNotFound")
            if match.re is _RESOLVE:
                raise _RefusedError(403 if self._token else 401, "GatedRepo")
        revision = unquote(match["revision"] or "main")
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            raise _RefusedError(404, "RevisionNotFound")
        return found, commit

    def _api(self, match: re.Match[str], body: str) -> None:
        found, commit = self._find(match)
        files = found.commits[commit]
        if match["what"] == "tree":
            query = parse_qs(urlsplit(self.path).query)
            is_deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            self._json(list(_tree(files, unquote(match["path"] or ""), is_deep)))
        elif match["what"] == "paths-info":
            wanted = parse_qs(body).get("paths", [])
            entries = list(_tree(files, "", is_deep=True))
            self._json([entry for entry in entries if entry["path"] in wanted])
        else:
            self._json(
                {
                    "id": match["repo"],
                    "sha": commit,
                    "private": bool(found.token) and not found.is_gated,
                    "gated": "manual" if found.is_gated else False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": name} for name in files],
                }
            )

    def _file(self, match: re.Match[str]) -> None:
        found, commit = self._find(match)
        data = found.commits[commit].get(unquote(match["path"]))
        if data is None:
            raise _RefusedError(404, "EntryNotFound")
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(data)),
            "ETag": f'"{_oid(data)}"',
            "Accept-Ranges": "bytes",
        }
        if part := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], headers)
        else:
            self._send(200, data, headers)

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self._send(200, data, {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _tree(files: Files, folder: str, is_deep: bool) -> Iterator[dict[str, Any]]:
    """Yield what lies in a folder, as the hub lists it."""
    prefix = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for name, data in files.items():
        if not name.startswith(prefix):
            continue
        inner = name.removeprefix(prefix)
        above = [prefix + inner[: m.start()] for m in re.finditer("/", inner)]
        for path in above if is_deep else above[:1]:
            if path not in folders:
                folders.add(path)
                yield {"type": "directory", "path": path, "oid": _oid(path.encode())}
        if is_deep or not above:
            size, oid = len(data), _oid(data)
            yield {"type": "file", "path": name, "size": size, "oid": oid}
