"""JSON files of a model folder: read, and refused in words a user can act on."""

import json
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        CheckpointError: The file is missing, unreadable or not an object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file.parent}: has no {file.name}. Give the folder of a model saved by "
            "transformers."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{file}: expected a JSON object, got a {type(data).__name__}."
        )
    return data
