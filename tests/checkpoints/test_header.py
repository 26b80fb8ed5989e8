"""Safetensors headers: believed only as far as the file bears them out."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from evomerge.checkpoints.header import HEADER_LIMIT, read_header
from evomerge.errors import CheckpointError

GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(file: Path, header: Any, data: bytes = b"\0" * 24) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "float16", "int64", "bool"])


@given(st.dictionaries(st.text(min_size=1), st.tuples(shapes, dtypes), min_size=1))
def test_reads_what_the_library_writes(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]
) -> None:
    tensors.pop("__metadata__", None)
    arrays = {
        name: np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for name, (shape, dtype) in tensors.items()
    }
    file = tmp_path_factory.mktemp("st") / "x.safetensors"
    file.write_bytes(save(arrays))
    found = read_header(file)
    assert found.keys() == arrays.keys()
    data = file.read_bytes()
    for name, info in found.items():
        assert info.shape == arrays[name].shape
        assert data[info.offset :][: info.nbytes] == arrays[name].tobytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "F8_E4M3"}, "F8_E4M3"),
        ({"dtype": 3}, "element type 3"),
        ({"dtype": ["F32"]}, "element type"),
        ({"shape": [2, 4]}, "needs 32 bytes"),
        ({"shape": [-2, -3]}, "whole numbers"),
        ({"shape": [True, 6]}, "whole numbers"),
        ({"shape": "23"}, "whole numbers"),
        ({"data_offsets": [0, 24.0]}, "whole numbers"),
        ({"data_offsets": [24, 0]}, "needs 24 bytes"),
        ({"data_offsets": [0]}, "expected dtype, shape and data_offsets"),
        ({"data_offsets": None}, "expected dtype, shape and data_offsets"),
        ({"data_offsets": [4, 28]}, "overlap or leave a gap"),
    ],
)
def test_false_claims_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    file = write(tmp_path / "m.safetensors", {"some.weight": GOOD | change})
    with pytest.raises(CheckpointError, match=says) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    assert "some.weight" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"\1\2\3", "too short"),
        (struct.pack("<Q", HEADER_LIMIT + 1) + b"{}", "more than the limit"),
        (struct.pack("<Q", 2**63) + b"{}", "more than the limit"),
        (struct.pack("<Q", 100) + b"{}", "is truncated"),
        (struct.pack("<Q", 3) + b"{]}", "not valid JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "is a list"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not valid JSON"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_header(file)
    assert str(file) in str(caught.value)


def test_truncated_data_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "m.safetensors", {"w": GOOD}, b"\0" * 23)
    with pytest.raises(CheckpointError, match="is truncated"):
        read_header(file)


def test_trailing_bytes_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "m.safetensors", {"w": GOOD}, b"\0" * 25)
    with pytest.raises(CheckpointError, match="1 bytes that belong to no tensor"):
        read_header(file)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "m.safetensors", {"a": GOOD, "b": GOOD})
    with pytest.raises(CheckpointError, match="overlap"):
        read_header(file)


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    entry = json.dumps(GOOD)
    text = f'{{"w": {entry}, "w": {entry}}}'.encode()
    with pytest.raises(CheckpointError, match="occurs twice"):
        read_header(write(tmp_path / "m.safetensors", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: cannot be read"):
        read_header(tmp_path / "gone.safetensors")


@given(st.binary(max_size=200))
def test_random_bytes_never_end_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("st") / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content)
    with pytest.raises(CheckpointError):
        read_header(file)
