"""Models from a Hugging Face hub: an id becomes a commit, and a folder of this machine.

The only module that loads huggingface_hub. Only the files a merge reads are fetched;
pickle files and code never are. A commit that is in the hub's cache needs no network.
Messages are worded here and not taken from the library, whose own may hold a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from evomerge.checkpoints.tokenizers.tokenizer import (
    RARE_FILES,
    TEMPLATES,
    TOKENIZER_FILES,
)
from evomerge.checkpoints.weights import PICKLES
from evomerge.core.policy import refuse_hub
from evomerge.errors import CheckpointError, HubError

SCHEME = "hf://"

_FILES = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "*.safetensors",
    *TOKENIZER_FILES,
    *RARE_FILES,
    f"{TEMPLATES}/*.jinja",
    "README.md",
    "LICENSE*",
)
_NOT_THESE = ("*/*.safetensors", "*/LICENSE*", "LICENSE*/*", "consolidated*")
"""Files in folders within a repository, and a second copy of the weights."""

# As strict as the hub itself: both parts become names of folders in its cache.
_REPO = re.compile(r"[A-Za-z0-9_](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"\w(?:[\w.+/-]*[\w+-])?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_OF_REPO, _MOST_OF_REVISION = 96, 200

_NO_HUB = (ValueError, TypeError, LookupError, AssertionError)
"""What huggingface_hub raises where an answer is not that of a hub."""
_FORBIDDEN = (401, 403)


@dataclass(frozen=True, slots=True)
class HubId:
    """A model on the hub.

    Attributes:
        repo: ``org/name``.
        revision: Branch, tag or commit hash; None for the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the form that is never taken for a folder."""
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model as it stands at one commit, on this machine.

    Attributes:
        pinned: Its id, with the commit's hash as revision.
        folder: Where it lies, in the hub's cache.
    """

    pinned: HubId
    folder: Path


def parse(text: str) -> HubId | None:
    """Read ``org/name`` or ``org/name@revision``, with or without ``hf://``.

    Returns:
        None if the text can only be a path.

    Raises:
        CheckpointError: It begins with ``hf://`` but is no id.
    """
    repo, at, revision = text.removeprefix(SCHEME).partition("@")
    is_repo = (
        _REPO.fullmatch(repo) is not None
        and len(repo) <= _MOST_OF_REPO
        and not any(part in repo for part in ("--", ".."))
        and not repo.endswith(".git")
    )
    is_revision = not at or (
        _REVISION.fullmatch(revision) is not None
        and len(revision) <= _MOST_OF_REVISION
        and not any(part in revision for part in ("..", "//", "/."))
    )
    if is_repo and is_revision:
        return HubId(repo, revision or None)
    if text.startswith(SCHEME):
        raise CheckpointError(
            f"{text!r} is no hub id: expected {SCHEME}org/name or "
            f"{SCHEME}org/name@revision."
        )
    return None


def fetch(wanted: HubId) -> Snapshot:
    """Bring a model onto this machine, if its commit is not there yet.

    Raises:
        HubError: The hub does not know the model or revision, does not give it to this
            user, or cannot be asked and the cache does not have it.
        NotAllowedError: The policy in force forbids it.
        CheckpointError: The model's weights are not safetensors.
    """
    refuse_hub(str(wanted))
    snapshot = _snapshot(wanted)
    if not any(snapshot.folder.glob("*.safetensors")):
        _refuse_weights(snapshot.pinned)
    return snapshot


def look_up(wanted: HubId) -> None:
    """Ask whether a model is there, without fetching it.

    Raises:
        HubError: As for ``fetch``.
    """
    refuse_hub(str(wanted))
    _refuse_bad_address()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        HfApi().model_info(wanted.repo, revision=wanted.revision)
    except (HfHubHTTPError, *_NO_HUB) as error:
        _explain(wanted, error)
    except (HTTPError, OfflineModeIsEnabled):
        _snapshot(wanted, from_cache=True)


def wanted_files(folder: Path) -> dict[str, int]:
    """Return which files of a model's or adapter's folder a merge reads, in bytes."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        is_wanted = any(fnmatch(name, pattern) for pattern in _FILES)
        if is_wanted and not any(fnmatch(name, pattern) for pattern in _NOT_THESE):
            found[name] = path.stat().st_size
    return found


def _snapshot(wanted: HubId, *, from_cache: bool = False) -> Snapshot:
    _refuse_bad_address()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        folder = Path(
            snapshot_download(
                wanted.repo,
                revision=wanted.revision,
                allow_patterns=list(_FILES),
                ignore_patterns=list(_NOT_THESE),
                local_files_only=from_cache,
                tqdm_class=_bar(),
            )
        )
    except (HTTPError, OSError, *_NO_HUB) as error:
        _explain(wanted, error)
    # The hub names the commit, and the commit becomes a path.
    if _COMMIT.fullmatch(folder.name) is None:
        raise HubError(
            f"the hub ({_endpoint()}) names a commit {folder.name!r} for "
            f"{wanted.repo!r}: expected 40 hexadecimal digits. Do not trust this hub."
        )
    return Snapshot(replace(wanted, revision=folder.name), folder)


def _refuse_bad_address() -> None:
    """Load the library, which reads HF_ENDPOINT as it is imported."""
    try:
        import huggingface_hub.hf_api  # noqa: F401
    except ValueError:
        raise HubError(
            "HF_ENDPOINT is no address of a hub. Set it to one, as in "
            "http://host:port, or unset it."
        ) from None


def _bar() -> type:
    """Return a progress bar that shows itself to people only."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("disable", None)  # tqdm's word for: unless a terminal
            super().__init__(*args, **kwargs)

    return Bar


def _explain(wanted: HubId, error: Exception) -> NoReturn:
    """Say what went wrong in our words: the library's may hold a token."""
    from huggingface_hub import errors

    name, hub = repr(wanted.repo), f"the hub ({_endpoint()})"
    match error:
        case errors.GatedRepoError():
            text = (
                f"{hub} gives {name} only to those it granted access. Ask for access "
                "on the model's page, and set HF_TOKEN to a token of yours that may "
                "read it."
            )
        case errors.RepositoryNotFoundError():
            text = (
                f"{hub} has no model {name} that you may see. Check the spelling; for "
                "a private model set HF_TOKEN to a token that may read it."
            )
        case errors.RevisionNotFoundError():
            text = (
                f"{hub} has no revision {wanted.revision!r} of {name}. Give a branch, "
                "a tag or a whole commit hash."
            )
        case errors.LocalEntryNotFoundError():
            text = _not_here(wanted, error.__cause__)
        case errors.HfHubHTTPError():
            status = error.response.status_code
            text = f"{hub} answered {status} when asked for {name}. " + (
                "Check HF_TOKEN." if status in _FORBIDDEN else "Try again later."
            )
        case errors.HTTPError():
            text = (
                f"the connection to {hub} broke while {name} was asked for "
                f"({type(error).__name__}). Check HF_ENDPOINT and try again; what was "
                "fetched is kept."
            )
        case UnicodeEncodeError():
            text = "HF_TOKEN holds characters that no request can carry; copy it again."
        case OSError():
            what = error.strerror or type(error).__name__
            text = f"{name} cannot be kept in the cache, {_cache()}: {what}."
        case _:
            text = f"{hub} answers as no hub does. Check HF_ENDPOINT."
    raise HubError(text) from None


def _not_here(wanted: HubId, cause: BaseException | None) -> str:
    """Say why a model that the cache lacks could not be asked for."""
    from huggingface_hub.errors import HfHubHTTPError

    which = wanted.repo + (f"@{wanted.revision}" if wanted.revision else "")
    lacking = f"{which!r} is not whole in the hub's cache"
    if _is_offline():
        return f"HF_HUB_OFFLINE is set, and {lacking}. Unset it to ask the hub."
    how = "did not answer"
    if isinstance(cause, HfHubHTTPError):
        how = f"answered {cause.response.status_code}"
    elif cause is not None:
        how = f"did not answer ({type(cause).__name__})"
    return (
        f"the hub ({_endpoint()}) {how}, and {lacking}. Check the network and "
        "HF_ENDPOINT, and try again."
    )


def _refuse_weights(pinned: HubId) -> NoReturn:
    """Say why there are no weights after a download that found no safetensors."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        names = HfApi().list_repo_files(pinned.repo, revision=pinned.revision)
    except (HTTPError, OfflineModeIsEnabled, *_NO_HUB):
        names = []
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise CheckpointError(
            f"the hub has the weights of {pinned.repo!r} only as {pickles[0]!r}, a "
            "pickle file. Loading a pickle can run any code its author put in, so it "
            "was not fetched. Use a revision with safetensors, or convert the model "
            "where you trust its author, and give the folder."
        )
    raise CheckpointError(
        f"{pinned.repo!r} has no safetensors at commit {pinned.revision}. Give a model "
        "that was saved by transformers."
    )


def _endpoint() -> str:
    """Return the hub's address without user name and password."""
    from huggingface_hub import constants

    try:
        parts = urlsplit(constants.ENDPOINT)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "HF_ENDPOINT"
    return (
        f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else "HF_ENDPOINT"
    )


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
