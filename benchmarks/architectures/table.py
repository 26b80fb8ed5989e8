"""What becomes of an architecture: built tiny, merged, loaded again, compared.

Merges are worked out a second time from plain state dicts, tensor by tensor, so that
every stored tensor is accounted for: merged, taken over, or missed.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from architectures.built import (
    CAUSAL,
    CLASSIFIER,
    IMAGE_TEXT,
    KINDS,
    Kind,
    NotBuiltError,
    build,
)
from architectures.plain_merges import BASED, METHODS, by_hand
from architectures.served import EXACT, serve
from evomerge import api
from evomerge.checkpoints import BUFFER, Model, Piece, read_model
from evomerge.checkpoints.documents import read_json
from evomerge.errors import EvomergeError
from evomerge.merging.views.fused import cut

_MATRICES = ("attn", "mlp", "expert", "embed", "head")
_FINAL = ("norm", "state", "scalar")
_SECONDS = 120.0

State = Literal["merges", "refused", "not built", "wrong"]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one architecture.

    Attributes:
        kind: Of task.
        family: ``model_type``.
        state: What came out.
        why: Of what did not merge, the reason.
        tensors: Stored tensors, each accounted for.
        carried: Kinds of parts that were taken over from the frame.
        hf: What the engine of transformers makes of the merge.
        stack: What it makes of stacks of layers.
    """

    kind: str
    family: str
    state: State
    why: str = ""
    tensors: int = 0
    carried: tuple[str, ...] = ()
    hf: str = ""
    stack: str = ""


def examine(
    kind: Kind,
    family: str,
    folder: Path,
    methods: Mapping[str, str] = METHODS,
    **changes: Any,
) -> Row:
    """Build an architecture, merge it by every method, load and compare.

    Args:
        kind: Of task.
        family: ``model_type``.
        folder: To work in.
        methods: Method to what is written of it.
        changes: What its configuration has besides.
    """
    try:
        build(folder, kind, family, **changes)
    except NotBuiltError as error:
        return Row(kind.name, family, "not built", str(error))
    try:
        model = read_model(folder / "a")
        merged = ("classifier",) if kind == CLASSIFIER else ()
        if lacking := [part for part in merged if part not in model.beside]:
            return Row(kind.name, family, "wrong", f"no {lacking[0]} was found")
        for method, written in methods.items():
            out = _merged(folder, method, written + _parts(merged))
            if odd := _oddity(folder, out, method, model, merged):
                return Row(kind.name, family, "wrong", f"{method}: {odd}")
            if odd := loaded_otherwise(folder / "a", out):
                return Row(kind.name, family, "wrong", f"{method}: {odd}")
    except EvomergeError as error:
        said = str(error).replace(f"{folder}/", "")
        return Row(kind.name, family, "refused", said)
    except Exception:  # noqa: BLE001
        return Row(kind.name, family, "wrong", traceback.format_exc()[-400:])
    n, carried = len(model.tensors), tuple(sorted(model.beside.keys() - {*merged}))
    hf = stack = ""
    is_served = methods is METHODS and not model.layout.further
    if is_served and kind in (CAUSAL, IMAGE_TEXT):
        merge = folder / "linear.yaml", folder / "out-linear"
        hf = serve("hf", *merge)
        if hf == EXACT:
            stack = serve("hf", *merge, profile="slots", slots=6)
    return Row(kind.name, family, "merges", "", n, carried, hf, stack)


def examine_apart(kind: Kind, family: str) -> Row:
    """Examine an architecture in a process of its own, for two minutes at most."""
    _warm()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, kind.name, family))
    child.start()
    theirs.close()
    try:
        if ours.poll(_SECONDS):
            found: Row = ours.recv()
            return found
        return Row(kind.name, family, "wrong", f"not done after {_SECONDS:g} s")
    except EOFError:
        return Row(kind.name, family, "wrong", "its process died")
    finally:
        child.kill()
        child.join()


@cache
def _warm() -> None:
    """Load here what every child then has for nothing: ten seconds of it."""
    torch.set_num_threads(1)  # threads do not outlive a fork
    with TemporaryDirectory() as folder:
        examine(CAUSAL, "llama", Path(folder))


def _child(answer: Any, kind: str, family: str) -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        answer.send(examine(KINDS[kind], family, Path(folder)))


def _merged(folder: Path, method: str, written: str) -> Path:
    file, out = folder / f"{method}.yaml", folder / f"out-{method}"
    sources = ", ".join(f"{name}: {name}" for name in ("base", "a", "b"))
    text = f"sources: {{{sources}}}\nframe: a\nexperts: [a, b]\n{written}"
    file.write_text(text + ("base: base\n" if method in BASED else ""))
    api.merge(file, out)
    return out


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def _parts(merged: Collection[str]) -> str:
    said = ", ".join(f"{part}: linear" for part in merged)
    return f"parts: {{{said}}}\n" if said else ""


def _oddity(
    folder: Path, out: Path, method: str, model: Model, merged_parts: Collection[str]
) -> str | None:
    """Say which tensor is not what plain arithmetic gives."""
    base, a, b, found = (stored(f) for f in (*_folders(folder), out))
    if odd := sorted(model.tensors.keys() ^ found.keys()):
        return f"{len(odd)} tensors are missing or too many, such as {odd[0]!r}"
    for name, one in found.items():
        place = model.places[name]
        is_carried = place.section == "beside" and place.role not in merged_parts
        if is_carried or place.role == BUFFER:
            if not torch.equal(one, a[name]):
                return f"{name!r} is not the frame's"
            continue
        # Around the layers all but the final norm goes with the embedding or the head.
        is_final = place.section == "head" and place.role in _FINAL
        beside = place.section == "beside"
        around = place.layer is None and not is_final and not beside
        matrix = around or place.role in _MATRICES
        pieces: tuple[Piece | None, ...] = place.pieces or (None,)
        for piece in pieces:
            x, y, z = (cut(t[name].float(), piece).double() for t in (base, a, b))
            drawn = name
            if piece is not None and place.layer is not None:
                drawn = model.layout.full_name(place.layer, piece.name)
            wanted = by_hand(method, x, y, z, drawn, whole=matrix)
            if not torch.allclose(cut(one, piece).double(), wanted, 1e-6, 1e-6):
                return f"{name!r} ({place.role}) is merged otherwise"
    return None


def _folders(folder: Path) -> Iterator[Path]:
    return (folder / name for name in ("base", "a", "b"))


def loaded_otherwise(parent: Path, out: Path) -> str | None:
    """Say what transformers finds missing or odd that it does not in a parent."""
    import transformers

    name = read_json(out / "config.json")["architectures"][0]
    cls = getattr(transformers, name)
    infos = [
        cls.from_pretrained(folder, output_loading_info=True)[1]
        for folder in (parent, out)
    ]
    usual, found = ({k: set(v) for k, v in info.items()} for info in infos)
    odd = {k: sorted(map(str, v))[:2] for k, v in found.items() if v - usual[k]}
    return f"transformers loads it with {odd}" if odd else None
