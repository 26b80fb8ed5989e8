"""Exports fetched as an archive: by ranges, so that a cut one goes on, and unpacked.

Nothing of an archive is trusted. It is read as a tar that is not compressed, so that it
cannot grow; it may hold plain files only, below the folder that is made for them; and
the folder is whole, with the content its fingerprint promises, or absent.
"""

from __future__ import annotations

import http.client
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from evomerge.client.transport import Request, Transport
from evomerge.errors import CheckpointError, ClusterUnreachableError, ExportError

CARD_NAME, RECIPE_NAME = "README.md", "recipe.json"
MAX_MEMBERS = 10_000
_CHUNK = 1 << 20
_LONGEST_NAME = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Archive:
    """What is known of an archive before it is fetched.

    Attributes:
        id: Of its export.
        size: Its bytes.
        fingerprint: Of the model folder in it, None if that is not known.
    """

    id: str
    size: int
    fingerprint: str | None


def refuse_taken(folder: Path, *, replaced: bool = False) -> None:
    """Refuse a folder that may not be made, before anything is fetched for it.

    Args:
        folder: To be made.
        replaced: An earlier export may be there.

    Raises:
        ExportError: It exists, or what is to be replaced is no export.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not replaced:
        raise ExportError(
            f"{folder} exists already; nothing is overwritten. Choose another folder, "
            "or replace an earlier export with --replace."
        )
    is_export = (folder / RECIPE_NAME).is_file() and (folder / CARD_NAME).is_file()
    if folder.is_symlink() or not is_export:
        raise ExportError(
            f"{folder} is no folder that was exported before (it lacks {RECIPE_NAME} "
            f"or {CARD_NAME}), so it is not replaced. Choose another folder."
        )


@contextmanager
def fetch(
    transport: Transport,
    request: Request,
    archive: Archive,
    folder: Path,
    progress: Progress,
) -> Iterator[Path]:
    """Fetch an archive into a file beside a folder; it stays if it is not whole.

    Args:
        transport: To the replicas.
        request: For the whole archive.
        archive: What is known of it.
        folder: That is to be made of it.
        progress: Told bytes fetched and bytes in all.

    Raises:
        ExportError: It is another one than was promised, or cannot be written.
        ClusterUnreachableError: Nobody goes on with it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 2 * archive.size:  # the archive, and what is in it
        raise ExportError(
            f"{folder.parent} has {free / 1e9:.1f} GB left; the export takes twice "
            f"{archive.size / 1e9:.1f} GB until it is unpacked."
        )
    part = folder.parent / f".{folder.name}.{_plain(archive.id)}.part"
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise ExportError(f"{part} is in the way; remove it.")
    with part.open("ab") as file:
        _complete(transport, request, archive, file, progress)
    yield part
    part.unlink()


def _complete(
    transport: Transport,
    request: Request,
    archive: Archive,
    file: IO[bytes],
    progress: Progress,
) -> None:
    """Fetch what is missing of an archive, as often as it is cut."""
    if file.tell() > archive.size:
        file.truncate(0)
    pause_s, cut_at = _FIRST_PAUSE_S, None
    while (have := file.tell()) < archive.size:
        progress(have, archive.size)
        ranged = replace(request, headers={"Accept": "*/*", "Range": f"bytes={have}-"})
        with transport.open(ranged) as answer:
            if answer.status != 206:  # from the beginning
                file.truncate(0)
                file.seek(0)
            _copy(answer, file, archive.size, progress)
        file.flush()
        if file.tell() > have:
            pause_s, cut_at = _FIRST_PAUSE_S, None
        if file.tell() < archive.size:
            cut_at = cut_at or time.monotonic()
            if time.monotonic() - cut_at > transport.patience_s:
                raise ClusterUnreachableError(
                    f"The cluster ({transport.shown}) cuts every connection after "
                    f"{file.tell()} of {archive.size} bytes. What came is kept: ask "
                    "for the same again."
                )
            transport.next()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    progress(archive.size, archive.size)


def _copy(
    answer: http.client.HTTPResponse,
    file: IO[bytes],
    size: int,
    progress: Progress,
) -> None:
    """Copy an answer until it ends or is cut."""
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except (OSError, http.client.HTTPException):
            return
        if not chunk:
            return
        file.write(chunk)
        if file.tell() > size:
            file.truncate(0)
            raise ExportError(f"More than the {size} bytes came that were promised.")
        progress(file.tell(), size)


def unpack(
    file: Path, folder: Path, archive: Archive, *, replaced: bool = False
) -> Path:
    """Make a folder of an archive's files.

    Args:
        file: The archive, whole; removed if it does not hold what it should.
        folder: To be made.
        archive: What is known of it.
        replaced: Put it in the place of an earlier export.

    Returns:
        The folder.

    Raises:
        ExportError: The archive is refused; says why. No folder is made.
    """
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.new-"))
    old = work.with_name(f"{work.name}.old")
    try:
        _extract(file, work)
        _check(work, archive)
        refuse_taken(folder, replaced=replaced)
        work.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
    except ExportError:
        file.unlink(missing_ok=True)  # as often as it is tried, it is refused
        raise
    finally:
        for left in (work, old):
            shutil.rmtree(left, ignore_errors=True)
    return folder


def _extract(file: Path, work: Path) -> None:
    left = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for number, member in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise _refusal(f"it holds more than {MAX_MEMBERS} files")
                if (why := _why_not(member)) is not None:
                    raise _refusal(f"{member.name!r:.200} {why}")
                left -= member.size
                if left < 0:
                    raise _refusal("its files are larger than it is")
                _write(tar, member, work)
    except tarfile.TarError as error:
        raise _refusal(f"it is no tar ({error})") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise _refusal("it holds one name twice") from error


def _why_not(member: tarfile.TarInfo) -> str | None:
    """Say why a member is refused; None if it is not."""
    if not member.isdir() and (not member.isreg() or member.issparse()):
        return "is no plain file"
    parts = member.name.removesuffix("/").split("/")
    if len(member.name) > _LONGEST_NAME or re.search(r"[\x00-\x1f\x7f\\]", member.name):
        return "has a name that no file should have"
    if any(part in ("", "..") for part in parts):
        return "lies elsewhere"
    return None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, work: Path) -> None:
    target = work / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise _refusal(f"{member.name!r:.200} is no plain file")
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
        if file.tell() != member.size:
            raise _refusal(f"{member.name!r:.200} is cut off")


def _check(work: Path, archive: Archive) -> None:
    if archive.fingerprint is None:
        return
    from evomerge.checkpoints import read_model  # costs other commands milliseconds

    try:
        found = read_model(work).fingerprint
    except CheckpointError as error:
        raise _refusal(f"it holds no model: {error}") from error
    if found != archive.fingerprint:
        raise _refusal(
            f"its content has the fingerprint {found}, not {archive.fingerprint:.80}"
        )


def _refusal(why: str) -> ExportError:
    return ExportError(f"The archive that came is refused: {why}. Nothing was written.")


def _plain(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", word)[:80]
