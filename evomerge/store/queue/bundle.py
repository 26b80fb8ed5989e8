"""A bundle: the files of a study as they were submitted, named by their content.

Who submits and who runs both hold a bundle to the same bounds. A bundle is names and
bytes; links, owners and times of files are not in it.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.core.digest import canonical_json
from evomerge.errors import Problem, SpecError

MAX_BYTES = 8 << 20
"""Most that the files of a bundle hold together."""
MAX_FILES = 200
STUDY_FILE = "study.yaml"
"""The one file that a bundle must have."""

_LONGEST_NAME = 255
_LONGEST_PATH = 1000
_TOO_LARGE = f"at most {MAX_BYTES >> 20} MiB are taken, all files together"


@dataclass(frozen=True)
class Bundle:
    """Files by relative name, with ``/`` between folders.

    Raises:
        SpecError: Names or sizes are refused; says each.
    """

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        problems = list(_problems(self.files))
        if problems:
            raise SpecError(problems)

    @property
    def digest(self) -> str:
        """SHA-256 over canonical JSON of names and contents, 64 hexadecimal digits."""
        contents = {n: hashlib.sha256(c).hexdigest() for n, c in self.files.items()}
        return hashlib.sha256(canonical_json(contents).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """What the files hold together."""
        return sum(map(len, self.files.values()))

    def to_json(self) -> dict[str, str]:
        """Return plain data: name to content in base 64."""
        return {n: base64.b64encode(c).decode() for n, c in self.files.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Bundle:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: A content is not base 64.
            SpecError: As for the class.
        """
        return cls(
            {n: base64.b64decode(c, validate=True) for n, c in value.items()},
        )

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Read every file below a folder.

        Raises:
            SpecError: One is a link or no plain file, or as for the class.
            OSError: One cannot be read.
        """
        files: dict[str, bytes] = {}
        left = MAX_BYTES
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                said = "is a link; put the file itself there"
                raise SpecError([Problem(name, said)])
            if path.is_dir():
                continue
            if not path.is_file():
                raise SpecError([Problem(name, "is no plain file")])
            with path.open("rb") as file:
                files[name] = file.read(left + 1)
            left -= len(files[name])
            if left < 0 or len(files) > MAX_FILES:
                break  # refused as it is, however much there is to come
        return cls(files)

    def write(self, folder: Path) -> None:
        """Write the files into a new folder that only its owner may enter.

        Raises:
            FileExistsError: The folder is there already.
            OSError: It cannot be written.
        """
        folder.mkdir(mode=0o700)
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(content)


def differences(old: Bundle, new: Bundle) -> list[Problem]:
    """Return how the files of a new bundle differ from those there are."""
    found = []
    for name in sorted({*old.files, *new.files}):
        before, now = old.files.get(name), new.files.get(name)
        if before is None:
            found.append(Problem(name, "is not among the files there are"))
        elif now is None:
            found.append(Problem(name, "is among the files there are, and not here"))
        elif before != now:
            found.append(Problem(name, _first_difference(before, now)))
    return found


def _first_difference(before: bytes, now: bytes) -> str:
    try:
        old, new = before.decode().splitlines(), now.decode().splitlines()
    except UnicodeDecodeError:
        return f"{len(before)} other bytes are there, {len(now)} here"
    for number in range(max(len(old), len(new))):
        there, here = (
            repr(lines[number])[:80] if number < len(lines) else "nothing"
            for lines in (old, new)
        )
        if there != here:
            return f"line {number + 1} is {there} there, {here} here"
    return "ends of lines differ"


def _problems(files: Mapping[str, bytes]) -> Iterator[Problem]:
    if STUDY_FILE not in files:
        yield Problem(STUDY_FILE, "is missing; a bundle needs a study file")
    if len(files) > MAX_FILES:
        said = f"holds {len(files)} files; at most {MAX_FILES} are taken"
        yield Problem("bundle", said)
        return
    if sum(map(len, files.values())) > MAX_BYTES:
        yield Problem("bundle", f"is too large; {_TOO_LARGE}")
    alike: dict[str, str] = {}
    for name in files:
        refusal = _refusal(name)
        if refusal is not None:
            yield Problem(repr(name)[:80], refusal)
            continue
        folders = (str(path) for path in Path(name).parents)
        if (folder := next((f for f in folders if f in files), None)) is not None:
            yield Problem(name, f"lies in {folder!r}, which is a file")
        # One file on a disk that does not tell letters apart.
        first = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            yield Problem(name, f"is {first!r} in other letters; rename one of them")


def _refusal(name: str) -> str | None:
    """Say why a name is refused; None if it is not."""
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash; folders are separated by '/'"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is no Unicode text"
    if name.startswith("/"):
        return "is absolute; names are relative to the study file"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..'; name it as it lies below the study file"
    if size > _LONGEST_PATH or any(len(p.encode()) > _LONGEST_NAME for p in parts):
        return "is too long"
    return None
