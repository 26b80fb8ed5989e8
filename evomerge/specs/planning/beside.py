"""Parts beside the text decoder: what a file says becomes of them."""

from __future__ import annotations

from evomerge.checkpoints import Model
from evomerge.core.blueprint import PART_POLICIES
from evomerge.specs.planning.planned import Setting
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import MergeSpec

FROM_BASE = "from_base"


def parts_of(
    spec: MergeSpec, setting: Setting, key: str, mistakes: Mistakes
) -> tuple[tuple[str, str], ...]:
    """Return kind of part to how it is merged, or the source it is taken from.

    Args:
        spec: What was written, its experts filled in.
        setting: What it is planned for.
        key: Where it stands in the file.
        mistakes: Where to note what is wrong.
    """
    out = []
    for kind, how in sorted((spec.parts or {}).items()):
        where = f"{key}.parts.{kind}" if key else f"parts.{kind}"
        source = spec.base if how == FROM_BASE else how
        if source is None:
            mistakes.add(where, "expected linear, same or a source: there is no base.")
        elif source not in (*PART_POLICIES, *setting.inputs):
            known = ", ".join((FROM_BASE, *PART_POLICIES, *setting.inputs))
            mistakes.add(where, f"expected one of {known}, got {how!r}.")
        else:
            for said in _lacking(kind, source, spec, setting):
                mistakes.add(where, said)
            out.append((kind, source))
    return tuple(out)


def _lacking(kind: str, how: str, spec: MergeSpec, setting: Setting) -> list[str]:
    """Say which of the models that are read have no such part, or another one."""
    read = (*spec.experts, *([spec.base] if spec.base else []))
    names = dict.fromkeys((setting.frame, *(read if how in PART_POLICIES else (how,))))
    models = {name: setting.models[name] for name in names if name in setting.models}
    frame = models.get(setting.frame)
    if frame is None:
        return []
    wanted = _shapes(frame, kind)
    if not wanted:
        has = ", ".join(sorted(frame.beside)) or "none"
        return [
            f"expected a part of the frame {setting.frame!r}, which has no such part; "
            f"it has {has}. Make a source the frame that has it."
        ]
    return [
        f"expected sources with such a part, {len(wanted)} tensors as the frame "
        f"{setting.frame!r} has; {name!r} has "
        f"{'other ones' if _shapes(model, kind) else 'none'}. Name the source it is "
        "taken from."
        for name, model in models.items()
        if _shapes(model, kind) != wanted
    ]


def _shapes(model: Model, kind: str) -> dict[str, tuple[int, ...]]:
    return {name: model.tensors[name].shape for name in model.beside.get(kind, ())}
