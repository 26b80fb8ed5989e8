"""What a merge was made of: parents and their licences; and if it is one at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.export.markup import file_name, markdown, table, yaml_string


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that was merged.

    Attributes:
        name: As the recipe calls it.
        fingerprint: Of its content.
        hub_id: Its repository on a model hub, if it has one.
        adapter: The low-rank adapter folded into it, if any; nameless.
        folder: Where it lies, if it came from no hub.
        licence: What it names as its licence, if anything.
    """

    name: str
    fingerprint: str
    hub_id: str | None = None
    adapter: Parent | None = None
    folder: str | None = None
    licence: str | None = None

    @property
    def parts(self) -> tuple[Parent, ...]:
        """The model itself, and its adapter."""
        return (self,) if self.adapter is None else (self, self.adapter)

    @property
    def place(self) -> str:
        """Where it is from, as Markdown."""
        if self.hub_id is not None:
            return markdown(self.hub_id)
        return f"local folder {markdown(self.folder or '')}".rstrip()


@dataclass(frozen=True, slots=True)
class Standing:
    """What an exported trial was before any search: none of its finds.

    Attributes:
        kind: One of the parents unchanged, another baseline, or a start of the user's.
        label: Its name in the study.
        is_best: The search found nothing better on the items it searched on.
    """

    kind: Literal["parent", "baseline", "start"]
    label: str
    is_best: bool

    def said(self, label: str) -> str:
        """Say so, with the label as it is to be shown."""
        what = {
            "parent": f"the parent {label} as it is, no merge",
            "baseline": f"the baseline {label}, not found by the search",
            "start": f"the start {label} that the study was given, not found by it",
        }[self.kind]
        if not self.is_best:
            return what
        return f"{what}: no candidate was better on the items searched on"


def front_matter(
    parents: Sequence[Parent], standing: Standing | None, *, sees: bool = False
) -> str:
    """Return the metadata that a hub reads; it knows repositories and nothing else."""
    parts = [part for parent in parents for part in parent.parts]
    bases = dict.fromkeys(part.hub_id for part in parts if part.hub_id is not None)
    merged = standing is None or standing.kind != "parent"
    task = "image-text-to-text" if sees else "text-generation"
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}"]
    if bases:
        lines += ["base_model:", *(f"- {yaml_string(base)}" for base in bases)]
        lines += ["base_model_relation: merge"] if merged else []
    lines += ["tags:", *(["- merge"] if merged else []), "- evomerge", "---"]
    return "\n".join(lines)


def parents_table(parents: Sequence[Parent]) -> str:
    """Return the parents as a Markdown table."""
    rows = [
        (
            markdown(parent.name),
            " + ".join(part.place for part in parent.parts),
            " + ".join(markdown(part.licence or "unknown") for part in parent.parts),
            " + ".join(f"`{file_name(part.fingerprint)}`" for part in parent.parts),
        )
        for parent in parents
    ]
    return table(("name", "from", "licence", "fingerprint of its content"), rows)


def licences(parents: Sequence[Parent]) -> str:
    """Say what the parents' licences leave open."""
    said = list(_open_questions(parents))
    return " ".join(said) or "All parents name the same licence."


def _open_questions(parents: Sequence[Parent]) -> Iterator[str]:
    parts = [(parent.name, part.licence) for parent in parents for part in parent.parts]
    unknown = dict.fromkeys(name for name, licence in parts if licence is None)
    known = {licence.lower(): licence for _, licence in parts if licence is not None}
    if unknown:
        names = ", ".join(markdown(name) for name in unknown)
        yield f"Unknown: the licence of {names}; no file of it names one."
    if len(known) > 1:
        listed = ", ".join(markdown(licence) for licence in known.values())
        yield (
            f"The parents' licences differ ({listed}), so none of them alone says what "
            "holds for this model: read all of them before it is passed on."
        )
    for mark, what in (("-nd", "no changed copies"), ("-nc", "no commercial use")):
        strict = [shown for name, shown in known.items() if mark in name]
        if strict:
            listed = ", ".join(markdown(licence) for licence in strict)
            yield f"By its name {listed} allows {what}."
