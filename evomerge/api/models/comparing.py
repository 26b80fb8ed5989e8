"""Models compared before anything is searched: do they fit, and how do they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoints import Model, compatibility, remarks, remembered
from evomerge.errors import Problem, SpecError
from evomerge.specs.sources import folders_of, open_source
from evomerge.steps import step

if TYPE_CHECKING:  # it loads torch
    from evomerge.merging.differences import Differences, Sums


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model beside the base.

    Attributes:
        norm: Of its difference from the base.
        relative: That over the norm of the base; None where the base is zero.
        sparsity: Share of entries that are the base's.
    """

    name: str
    path: str
    norm: float
    relative: float | None
    sparsity: float


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two models' differences from the base, over some part of the weights.

    Attributes:
        part: ``all``, a role such as ``role attn``, or a place such as ``layer 3``.
        cosine: Of the two differences; None where one is zero.
        agreement: Of the entries that both changed, the share with one sign.
    """

    part: str
    one: str
    other: str
    cosine: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What there is to know of models before merging them.

    Attributes:
        problems: Why they cannot be merged layer by layer; nothing else is told then.
        remarks: What must be seen although nothing is refused.
        models: Over all weights.
        pairs: Over all weights, then by role, then by place.
        left_out: Tensors that are not compared.
        verdict: What the differences promise, in a sentence; None of one model.
    """

    base: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    models: tuple[ModelRow, ...]
    pairs: tuple[PairRow, ...]
    left_out: tuple[str, ...]
    verdict: str | None


def compare(
    base: str,
    models: Sequence[str],
    *,
    cache_dir: Path | None = None,
    most: int | None = None,
) -> Compared:
    """Compare models with the base they began from.

    Args:
        base: A folder or hub id.
        models: The same, one or more.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        most: Entries of each tensor that are looked at; None for every one.

    Raises:
        SpecError: One is no model, or has an adapter beside it.
    """
    with step("reading the models"), remembered(cache_dir):
        opened = _opened([base, *models], cache_dir)
    (name, first), *others = opened.items()
    problems = compatibility(opened)
    noted = tuple(remarks(opened)) if not problems else ()
    if problems:
        return Compared(name, tuple(problems), noted, (), (), (), None)
    with step("loading torch"):
        from evomerge.merging.differences import differences, verdict
        from evomerge.merging.sources import Sources

    with Sources(folders_of(opened.values()), cache_dir=cache_dir) as sources:
        found = differences(first, dict(others), sources, most=most)
    total = found.total()
    return Compared(
        base=name,
        problems=(),
        remarks=noted,
        models=tuple(
            ModelRow(
                one,
                str(model.path),
                total.norm(i),
                total.relative(i),
                total.sparsity(i),
            )
            for i, (one, model) in enumerate(others)
        ),
        pairs=tuple(_pairs(found, total)),
        left_out=found.left_out,
        verdict=verdict(found),
    )


def _opened(written: Sequence[str], cache_dir: Path | None) -> dict[str, Model]:
    found: dict[str, Model] = {}
    wrong: list[Problem] = []
    for text in written:
        model = open_source(text, Path.cwd(), cache_dir=cache_dir)
        name = Path(text).name if Path(text).name not in found else text
        if model.adapter is not None:
            wrong.append(
                Problem(text, "expected a whole model; merge its adapter first")
            )
        if any(model.path == other.path for other in found.values()):
            wrong.append(Problem(text, "expected each model once"))
        found[name] = model
    if wrong:
        raise SpecError(wrong)
    return found


def _pairs(found: Differences, total: Sums) -> list[PairRow]:
    places, roles = (dict.fromkeys(of) for of in zip(*found.by_place, strict=True))
    parts = {
        "all": total,
        **{f"role {role}": found.total(role=role) for role in roles},
        **{where: found.total(where=where) for where in places},
    }
    names = found.names
    return [
        PairRow(part, names[j], names[i], sums.cosine(i, j), sums.agreement(i, j))
        for part, sums in parts.items()
        for i in range(len(names))
        for j in range(i)
    ]
