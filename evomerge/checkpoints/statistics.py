"""What a tool measured of a model, as a file: one number for every weight.

A file of statistics is a safetensors file with the names and shapes of the model's own
tensors. Its metadata may say what it is (``kind``), of which model (``source``, a
fingerprint) and from what data (``data``, a digest); what it says must be true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoints.fingerprint import fingerprint
from evomerge.checkpoints.header import TensorInfo, read_header, read_metadata
from evomerge.core.nearest import did_you_mean
from evomerge.core.operators.derived import STATISTICS
from evomerge.errors import CheckpointError


@dataclass(frozen=True)
class StatisticsFile:
    """A checked file of statistics.

    Attributes:
        path: The file.
        kind: What was measured, by the words of the catalogue.
        fingerprint: Name of its content.
        tensors: Name to tensor, as the model calls it.
    """

    path: Path
    kind: str
    fingerprint: str
    tensors: Mapping[str, TensorInfo]


def read_statistics(
    path: str | Path,
    kind: str,
    *,
    source: str | None = None,
    cache_dir: str | Path | None = None,
) -> StatisticsFile:
    """Read and check a file of statistics without loading its numbers.

    Args:
        path: A safetensors file.
        kind: What it is taken for.
        source: Fingerprint of the model that it is taken for.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        CheckpointError: There is no such file or kind, it is damaged, holds anything
            but floating-point numbers, or says that it is something else.
    """
    file = Path(path)
    if kind not in STATISTICS:
        raise CheckpointError(
            f"{file}: {kind!r} is no kind of statistics; known are "
            f"{', '.join(STATISTICS)}{did_you_mean(kind, list(STATISTICS))}"
        )
    if not file.is_file():
        what = "is a folder" if file.exists() else "does not exist"
        raise CheckpointError(
            f"{file}: {what}. Give the safetensors file that holds the {kind!r} of "
            "this model, by the names of its tensors."
        )
    tensors = read_header(file)
    said = read_metadata(file)
    for key, wanted in (("kind", kind), ("source", source)):
        if wanted is not None and said.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{file}: expected statistics of the {key} {wanted!r}, but the file "
                f"says {said[key]!r}. Name the file that was made for this model."
            )
    return StatisticsFile(file, kind, content_of_statistics(file, cache_dir), tensors)


def content_of_statistics(file: Path, cache_dir: str | Path | None = None) -> str:
    """Return the name of a file's content, whatever the file is called."""
    memo = None if cache_dir is None else Path(cache_dir)
    return fingerprint(file.parent, (file.name,), memo, named=False)


def misfits(
    file: StatisticsFile, wanted: Iterable[tuple[str, tuple[int, ...]]]
) -> str | None:
    """Say which tensors of a model a file lacks, or has in another shape.

    Args:
        file: The statistics.
        wanted: Names and shapes of the tensors that are merged by them.
    """
    lacking, other = [], []
    for name, shape in wanted:
        found = file.tensors.get(name)
        if found is None:
            lacking.append(name)
        elif found.shape != shape:
            other.append(f"{name} is {list(found.shape)}, expected {list(shape)}")
    if not lacking and not other:
        return None
    said = []
    if lacking:
        said.append(f"has nothing for {lacking[0]!r} ({len(lacking)} in all)")
    said += other[:1]
    return (
        f"{file.path}: {'; '.join(said)}. Measure every weight of the model under the "
        "name that it is stored by."
    )
