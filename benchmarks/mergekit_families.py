"""mergekit 0.1.5 beside evomerge, on every architecture that can be built tiny.

A ``linear`` and a ``ties`` file of mergekit are carried out by both, and what they
wrote is compared tensor by tensor. mergekit is installed into a folder of its own
(``EVOMERGE_MERGEKIT`` names one that has it) and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import torch
from architectures.built import KINDS, NotBuiltError, build
from architectures.served import write_words
from architectures.table import stored
from support.mergekit import mergekit_process

from evomerge import api
from evomerge.checkpoints.documents import read_json
from evomerge.checkpoints.layers.beside import kind_of
from evomerge.errors import EvomergeError

SERVER = Path(__file__).parents[1] / "tests" / "merging" / "mergekit_server.py"
FILES = {
    "linear": "merge_method: linear\ndtype: float32\nmodels:\n"
    "- {model: A, parameters: {weight: 0.25}}\n"
    "- {model: B, parameters: {weight: 0.75}}\n",
    "ties": "merge_method: ties\nbase_model: BASE\ndtype: float32\nmodels:\n"
    "- {model: A, parameters: {weight: 1, density: 0.5}}\n"
    "- {model: B, parameters: {weight: 1, density: 0.5}}\n",
}
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What both made of one file.

    Attributes:
        kind: Of task.
        family: ``model_type``.
        method: Of the file.
        fails: Whose merge failed, and why; nothing if both came to an end.
        equal: Tensors that are equal to 1e-6.
        differ: Reason to how many tensors are not, and the name of one.
    """

    kind: str
    family: str
    method: str
    fails: str = ""
    equal: int = 0
    differ: Mapping[str, list[str]] = field(default_factory=dict)


def main() -> None:
    """Compare the architectures asked for, and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types; all if none is named")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=Path, help="keep outcomes here, and go on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = _kept(asked.rows)
    with TemporaryDirectory() as place, mergekit_process(SERVER, Path(place)) as server:
        for kind in asked.kinds:
            for family in KINDS[kind].families:
                is_asked = not asked.families or family in asked.families
                if not is_asked or (kind, family) in {(o.kind, o.family) for o in done}:
                    continue
                with TemporaryDirectory() as folder:
                    found = _compare(kind, family, Path(folder), server)
                for one in found:
                    print(_said(one), flush=True)
                    if asked.rows:
                        with asked.rows.open("a") as out:
                            out.write(json.dumps(asdict(one)) + "\n")
                done += found
    print(summary(done))


def _kept(file: Path | None) -> list[Outcome]:
    if file is None or not file.is_file():
        return []
    return [Outcome(**json.loads(line)) for line in file.read_text().splitlines()]


def _compare(kind: str, family: str, folder: Path, server: Any) -> list[Outcome]:
    try:
        build(folder, KINDS[kind], family)
    except NotBuiltError:
        return []
    for name in ("base", "a", "b"):
        write_words(folder / name)
    return [_of_file(kind, family, method, folder, server) for method in FILES]


def _of_file(kind: str, family: str, method: str, folder: Path, server: Any) -> Outcome:
    file, ours, theirs = (folder / f"{method}{end}" for end in (".yml", "-o", "-t"))
    text = FILES[method]
    for mark, name in (("BASE", "base"), ("A,", "a,"), ("B,", "b,")):
        text = text.replace(mark, f"{folder}/{name}")
    file.write_text(text)
    print(json.dumps({"file": str(file), "out": str(theirs)}), file=server.stdin)
    server.stdin.flush()
    said = json.loads(server.stdout.readline()).get("error", "")
    whose = f"mergekit: {said}" if said else ""
    try:
        api.merge(file, ours)
    except EvomergeError as error:
        whose = f"{whose} evomerge: {error}".strip()
    if whose:
        return Outcome(kind, family, method, whose.replace(f"{folder}/", ""))
    parents = [folder / name for name in ("base", "a", "b")]
    read = stored if _has_all(stored(ours), stored(theirs)) else _loaded
    mine, other, *inputs = map(read, (ours, theirs, *parents))
    equal, differ = 0, dict[str, list[str]]()
    for name, tensor in mine.items():
        if name in other and _close(tensor, other[name]):
            equal += 1
        elif not torch.equal(inputs[1][name], inputs[2][name]) or name not in other:
            why = _reason(method, name, tensor, other, inputs)
            differ.setdefault(why, []).append(name)
    said = {why: [str(len(names)), names[0]] for why, names in differ.items()}
    return Outcome(kind, family, method, "", equal, said)


def _has_all(mine: Tensors, other: Tensors) -> bool:
    """Tell whether a tensor that one has is in the other; a tied head may be twice."""
    return not mine.keys() - other.keys()


def _loaded(folder: Path) -> dict[str, torch.Tensor]:
    """Return what transformers makes of a folder, without what it found nothing for."""
    import transformers

    named = read_json(folder / "config.json")["architectures"][0]
    cls = getattr(transformers, named)
    model, info = cls.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    lacking = set(info["missing_keys"])
    return {n: w.detach() for n, w in model.named_parameters() if n not in lacking}


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), 1e-6, 1e-6)


def _reason(
    method: str,
    name: str,
    mine: torch.Tensor,
    other: Tensors,
    inputs: Sequence[Tensors],
) -> str:
    """Say why a tensor is another one, and who is right by its method's formula."""
    if name not in other:
        return "mergekit has lost it"
    if kind_of(name):
        return (
            "parts beside the decoder are merged, here carried unless `parts` says so"
        )
    wanted = _formula(method, *(tensors[name].double() for tensors in inputs))
    right = [
        who
        for who, found in (("evomerge", mine), ("mergekit", other[name]))
        if _close(wanted.float(), found)
    ]
    if torch.equal(other[name], inputs[1][name]):
        return "mergekit has not merged it"
    return f"by the formula of the whole tensor right: {', '.join(right) or 'none'}"


def _formula(
    method: str, base: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    if method == "linear":
        return 0.25 * a + 0.75 * b
    kept = [_largest((one - base).float()) for one in (a, b)]
    sign = torch.where(kept[0] + kept[1] >= 0, 1.0, -1.0)
    agreeing = [torch.where(delta.sign() == sign, delta, 0.0) for delta in kept]
    count = (agreeing[0] != 0).double() + (agreeing[1] != 0).double()
    return base + (agreeing[0].double() + agreeing[1]) / count.clamp(min=1)


def _largest(delta: torch.Tensor) -> torch.Tensor:
    order = delta.abs().flatten().argsort(descending=True, stable=True)
    out = torch.zeros(delta.numel())
    kept = order[: delta.numel() // 2]
    out[kept] = delta.flatten()[kept]
    return out.view(delta.shape)


def _said(one: Outcome) -> str:
    odd = "; ".join(f"{n} {why} ({name})" for why, (n, name) in one.differ.items())
    said = one.fails or f"{one.equal} equal{f'; {odd}' if odd else ''}"
    return f"{one.kind:16} {one.family:26} {one.method:7} {said[:300]}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return how many families of each kind are equal, and the table of all others."""
    by_family: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        by_family.setdefault((one.kind, one.family), []).append(one)
    equal: dict[str, list[str]] = {}
    odd: dict[tuple[str, str], list[str]] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    for (kind, family), found in by_family.items():
        if fails := [one.fails for one in found if one.fails]:
            failed.setdefault((kind, " ".join(fails[0].split())[:150]), []).append(
                family
            )
        elif any(one.differ for one in found):
            whys = sorted({why for one in found for why in one.differ})
            odd.setdefault((kind, "; ".join(whys)), []).append(family)
        else:
            equal.setdefault(kind, []).append(family)
    lines = ["| task | what came of it | families |", "| --- | --- | --- |"]
    rows = [((kind, "equal"), names) for kind, names in equal.items()]
    rows += [*odd.items(), *failed.items()]
    for (kind, what), names in sorted(rows, key=lambda r: list(KINDS).index(r[0][0])):
        named = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {kind} | {what.replace('|', '/')} | {len(names)}: {named} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
