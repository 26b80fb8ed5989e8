"""Pack a model folder into one archive: a module to be run.

``python -m evomerge.service.packing FOLDER ARCHIVE`` writes a plain tar whose members
are the folder's files, and prints its size and the model's fingerprint as JSON, in one
line. The archive is whole or absent; the folder is gone then.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from pathlib import Path

from evomerge.checkpoints import read_model


def pack(folder: Path, archive: Path) -> dict[str, object]:
    """Pack a folder; return size and fingerprint.

    Raises:
        CheckpointError: It holds no model.
        OSError: The archive cannot be written.
    """
    fingerprint = read_model(folder).fingerprint
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w:") as tar:
        for file in sorted(folder.rglob("*")):
            tar.add(file, file.relative_to(folder).as_posix(), recursive=False)
    unfinished.replace(archive)
    shutil.rmtree(folder)
    return {"size_bytes": archive.stat().st_size, "fingerprint": fingerprint}


if __name__ == "__main__":
    print(json.dumps(pack(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
