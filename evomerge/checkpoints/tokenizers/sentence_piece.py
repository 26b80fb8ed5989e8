"""SentencePiece's ``tokenizer.model``: its pieces, read without the library.

The file is a protobuf message (sentencepiece_model.proto); only the fields that decide
ids are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import read_bytes

UNKNOWN, CONTROL, USER = 2, 3, 4
APART = (UNKNOWN, CONTROL, USER)
"""Kinds of pieces that are no part of ordinary text."""

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_BPE = 2
_NONE = "it is no SentencePiece model"


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a SentencePiece model says.

    Attributes:
        texts: Every piece; its place is its id.
        scores: Likewise, its score.
        kinds: Likewise, what it is: 1 for ordinary ones.
        is_bpe: Pieces are joined, not chosen by score.
        falls_back: Unknown letters become bytes.
        adds_space: Text gets a space in front.
        charsmap: Compiled replacements of characters; may be empty.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    is_bpe: bool
    falls_back: bool
    adds_space: bool
    charsmap: bytes


def read_pieces(file: Path) -> Pieces:
    """Read a model.

    Raises:
        CheckpointError: The file cannot be read.
        ValueError, TypeError, LookupError: It is no SentencePiece model.
    """
    fields = list(_fields(read_bytes(file)))
    pieces = [dict(_fields(value)) for number, value in fields if number == _PIECES]
    last = dict(fields)
    trainer, normalizer = (
        dict(_fields(last.get(number, b""))) for number in (_TRAINER, _NORMALIZER)
    )
    kinds = tuple(int(piece.get(3, 1)) for piece in pieces)
    if UNKNOWN not in kinds:
        raise ValueError(_NONE)
    return Pieces(
        texts=tuple(_bytes(piece[1]).decode() for piece in pieces),
        scores=tuple(_number(piece.get(2, bytes(4))) for piece in pieces),
        kinds=kinds,
        is_bpe=trainer.get(3, 1) == _BPE,
        falls_back=bool(trainer.get(35, 0)),
        adds_space=bool(normalizer.get(3, 1)),
        charsmap=_bytes(normalizer.get(2, b"")),
    )


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(_NONE)
    return value


def _number(value: Any) -> float:
    if len(_bytes(value)) != 4:
        raise ValueError(_NONE)
    (number,) = struct.unpack("<f", value)
    return float(number)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Read the fields of a message: number, and integer or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        width = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            width, at = _varint(data, at)
        if width is None or at + width > len(data):
            raise ValueError(_NONE)
        yield number, data[at : at + width]
        at += width


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError(_NONE)
