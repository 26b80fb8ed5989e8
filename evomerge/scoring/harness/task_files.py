"""Local task files and the data they name, read as data: nothing of them is run.

What lm-eval's own reader would import (``!function``) stays as it is written, and is
refused with its file and key. ``loading`` asks for a task by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.lines import Document, problem_at
from evomerge.specs.reading.yamlfile import Tagged, join, read_yaml

MAX_DATA_BYTES = 256 << 20
"""Longest data file read; its items are kept in memory, several times as large."""
MAX_ARRAY_BYTES = 32 << 20
"""Longest data file that is one JSON array, which takes far more memory than lines."""
MAX_ITEMS = 1_000_000
"""Most lines a data file may have."""
MAX_FILES = 10_000
"""Most files a folder of data may hold."""
FILE_BUILDERS = ("arrow", "csv", "json", "parquet", "text")
"""Kinds of data files that hold nothing but data."""
_CODE_SUFFIXES = (".py", ".pyc", ".so", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
_PACKED = (
    b"\x1f\x8b",
    b"BZh",
    b"PK\x03\x04",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
)


class CodeRefusedError(SpecError):
    """A task would run code, and the operator did not allow that."""


def read_task_file(path: Path, root: Path) -> Document:
    """Read a task or group file with its includes, as lm-eval merges them.

    Values under tags stay ``Tagged``; see ``refuse_tags``.

    Args:
        path: The file.
        root: The folder that it and its includes must lie in, links followed.

    Raises:
        SpecError: A file is missing, lies elsewhere, includes itself, is no regular
            file, is not plain YAML, or has a name that is none.
    """
    config = _merged(path.resolve(), root.resolve(), set())
    kind = "group" if "group" in config else "task"
    tags = config.get("tag") or []
    if kind in config and not isinstance(config[kind], str):
        raise _at(config, kind, f"expected a name, got {config[kind]!r:.80}.")
    if not all(
        isinstance(tag, str) for tag in (tags if isinstance(tags, list) else [tags])
    ):
        raise _at(config, "tag", f"expected a name or names, got {tags!r:.80}.")
    return config


def refuse_tags(config: Mapping[str, Any], file: str) -> None:
    """Refuse values that only code could make.

    Raises:
        CodeRefusedError: Names each with its key.
    """
    found = [
        problem_at(config, file, key, f"runs Python code ({value.tag} {value.text})")
        for key, value in _tags(config, "")
    ]
    if found:
        raise CodeRefusedError(found)


def point_at_data(config: dict[str, Any], folder: Path, cache_dir: str) -> None:
    """Find a task's data files beside its own, whatever the current folder is.

    Args:
        config: The task's keys; changed in place.
        folder: Where the task's file stands.
        cache_dir: Where data read from local files may be kept.

    Raises:
        SpecError: No data file is named, or one is missing, empty, too large or no
            regular file.
    """
    options = dict(config.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)
    files = options.get("data_files")
    if not files and config.get("dataset_path") in FILE_BUILDERS:
        raise SpecError([Problem("dataset_kwargs.data_files", "names no files")])
    if files is not None:
        options["data_files"] = _beside(files, folder)
        if config.get("dataset_path") in FILE_BUILDERS:
            options.setdefault("cache_dir", str(Path(cache_dir) / "datasets"))
            for file in _files(options["data_files"]):
                problem = None if "://" in file else _data_problem(Path(file))
                if problem is not None:
                    raise SpecError([Problem("dataset_kwargs.data_files", problem)])
    if options or "dataset_kwargs" in config:
        config["dataset_kwargs"] = options


def _files(files: Any) -> Iterator[str]:
    if isinstance(files, Mapping | list):
        for part in files.values() if isinstance(files, Mapping) else files:
            yield from _files(part)
    else:
        yield str(files)


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _beside(part, folder) for split, part in files.items()}
    if isinstance(files, list):
        return [_beside(part, folder) for part in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() else files


def _data_problem(path: Path) -> str | None:
    """Say why a local data file is not read; None if it is."""
    if not path.is_file():
        return f"{path} is no regular file"
    size = path.stat().st_size
    if size == 0:
        return f"{path} is empty"
    if size > MAX_DATA_BYTES:
        return f"expected at most {MAX_DATA_BYTES} bytes in {path}, got {size}"
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_PACKED):
            return f"{path} is packed; unpack it"
        if start.lstrip().startswith(b"[") and size > MAX_ARRAY_BYTES:
            return f"{path} is one large array; write one JSON object a line"
        file.seek(0)
        n_lines = sum(
            part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b"")
        )
    if start.startswith(b"PAR1"):
        return _parquet_problem(path)
    if n_lines > MAX_ITEMS:
        return f"expected at most {MAX_ITEMS} lines in {path}, got {n_lines}"
    return None


def folder_problem(folder: Path) -> str | None:
    """Say why a folder is no data set of plain files; None if it is one."""
    size = 0
    for n, path in enumerate(folder.rglob("*")):
        if path.suffix in _CODE_SUFFIXES:
            return f"{path} may run Python code"
        if not path.is_dir() and not path.is_file():
            return f"{path} is no regular file"
        size += path.stat().st_size
        if n >= MAX_FILES or size > MAX_DATA_BYTES:
            return (
                f"expected at most {MAX_FILES} files and {MAX_DATA_BYTES} bytes in it"
            )
    return None


def _parquet_problem(path: Path) -> str | None:
    import pyarrow.parquet

    try:
        about = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError) as error:
        return f"{path} cannot be read: {error}"
    size = sum(
        about.row_group(group).total_byte_size for group in range(about.num_row_groups)
    )
    if about.num_rows > MAX_ITEMS or size > MAX_DATA_BYTES:
        return (
            f"expected at most {MAX_ITEMS} rows and {MAX_DATA_BYTES} bytes in {path}, "
            f"got {about.num_rows} and {size}"
        )
    return None


def _merged(path: Path, root: Path, seen: set[Path]) -> Document:
    """Read a file over its includes; the later and the file's own keys win."""
    if not path.is_relative_to(root):
        raise _wrong(path, f"lies outside the folder of task files {root}.")
    if path in seen:
        raise _wrong(path, "is included twice, perhaps by itself.")
    if not path.is_file():
        raise _wrong(path, "is missing, or no regular file.")
    seen.add(path)
    own = read_yaml(path, tags=True)
    includes = own.pop("include", None) or []
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        if not isinstance(name, str) or "\0" in name:
            raise _at(own, "include", f"expected a file's name, got {name!r}.")
        part = _merged((path.parent / name).resolve(), root, seen)
        part.pop("task_list", None)
        own.lines.take(part.lines, part.keys() - own.keys())
        merged |= part
    return Document(merged | own, own.lines)


def _tags(value: Any, key: str) -> Iterator[tuple[str, Tagged]]:
    if isinstance(value, Tagged):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _tags(part, join(key, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _tags(part, join(key, index))


def _at(config: Document, key: str, message: str) -> SpecError:
    return SpecError([config.lines.problem(key, message)])


def _wrong(path: Path, message: str) -> SpecError:
    return SpecError([Problem(str(path), message)])
