"""A recipe: one fully decided merge, in the one form that covers all merges.

A slot is an operator over source layers. Parameter-space merging is "slot i merges
layer i of every input"; data flow is "slot i is layer l of input s, scaled"; both
together is "slot i merges layer l_i of every input". A recipe knows no paths and no
tensors: inputs are named by the fingerprint of their content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from evomerge.core.digest import canonical_json, digest_of_text
from evomerge.core.operators import known
from evomerge.core.recipes.canonical import canonical
from evomerge.core.recipes.inputs import (
    Adapted,
    Checkpoint,
    Input,
    Nested,
    Transformed,
    contents,
    with_statistics,
)
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.slot import ANY_ROLE, Slot
from evomerge.errors import RecipeError

VERSION = 2
"""What new recipes are: carried out, and named, by the one form of all that are one
merge."""
VERSIONS = (1, VERSION)
"""Those that are read and merged; of version 1 each as it is written."""
DTYPES = ("float32", "bfloat16", "float16")
MAX_NESTING = 10
"""Most recipes in each other: whoever reads the text of one bounds its nesting too."""
STORED = "stored"
"""Each tensor has the type that holds all that it is merged from, as it is stored."""

__all__ = [
    "ANY_ROLE",
    "Adapted",
    "Checkpoint",
    "DTYPES",
    "Input",
    "Nested",
    "Operation",
    "Recipe",
    "Slot",
    "Transformed",
    "STORED",
    "VERSION",
    "contents",
    "with_statistics",
]


@dataclass(frozen=True)
class Recipe:
    """One fully decided merge; frozen, with a canonical JSON form and a digest.

    Attributes:
        frame: Name of the input that gives config, tokenizer and special tokens.
        dtype: Element type of the merged weights; ``stored`` keeps those of the inputs,
            tensor by tensor.
        inputs: Name to input, in name order.
        embed: How the token embedding is merged.
        slots: The layers of the merged model, first to last.
        head: How the final norm and the output head are merged.
        fused: What transformers holds as one tensor is merged as one: all experts of a
            layer, or query, key and value; otherwise each by itself.
        parts: Kind of part beside the text decoder to how it is merged; the frame's are
            taken over where none is said.
    """

    frame: str
    dtype: str
    inputs: tuple[tuple[str, Input], ...]
    embed: Slot
    slots: tuple[Slot, ...]
    head: Slot
    version: int = field(default=VERSION)
    fused: bool = False
    parts: tuple[tuple[str, Operation], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "inputs", tuple(sorted(self.inputs, key=lambda i: i[0]))
        )
        object.__setattr__(self, "parts", tuple(sorted(self.parts, key=lambda p: p[0])))
        self._check()

    def _check(self) -> None:
        names = dict(self.inputs)
        if type(self.version) is not int or self.version not in VERSIONS:
            known = " or ".join(str(version) for version in VERSIONS)
            raise RecipeError(f"Recipe version {self.version!r} is not {known}.")
        if self.dtype not in (*DTYPES, STORED):
            raise RecipeError(
                f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}, {STORED}."
            )
        if self.frame not in names:
            raise RecipeError(f"frame {self.frame!r} is not an input: {sorted(names)}.")
        if not self.slots:
            raise RecipeError("A recipe needs at least one slot.")
        if self.nesting > MAX_NESTING:
            raise RecipeError(
                f"Expected at most {MAX_NESTING} recipes in each other, got "
                f"{self.nesting}. Merge the inner ones to a folder, and take that as a "
                "source."
            )
        self._check_reads(names)

    def _check_reads(self, names: Collection[str]) -> None:
        for where, slot in self.places():
            fed = dict(slot.layers)
            for _, operation in slot.roles:
                for name in operation.reads:
                    if name not in names:
                        raise RecipeError(f"{where} reads {name!r}, which is no input.")
                    if where.startswith("slot") and name not in fed:
                        raise RecipeError(f"{where} names no layer of input {name!r}.")

    def places(self) -> Iterator[tuple[str, Slot]]:
        """Yield the embedding, every slot and the head, each with a readable name.

        Behind them comes what is merged of parts beside the decoder, if anything is.
        """
        yield "embed", self.embed
        for index, slot in enumerate(self.slots):
            yield f"slot {index}", slot
        yield "head", self.head
        if self.parts:
            yield "beside", self.beside

    @property
    def beside(self) -> Slot:
        """How parts beside the text decoder are merged."""
        return Slot(self.parts)

    @cached_property
    def nesting(self) -> int:
        """Recipes in each other, with this one."""
        return 1 + max(_nesting(source) for _, source in self.inputs)

    def input(self, name: str) -> Input:
        """Return the input of this name."""
        return dict(self.inputs)[name]

    @cached_property
    def digest(self) -> str:
        """The recipe's name: equal for equal merges, on every machine."""
        return digest_of_text(self.computed.text)

    @property
    def computed(self) -> Recipe:
        """The recipe as it is carried out: every operation in its one form.

        What nothing reads is left out. Of version 1 as it is written.
        """
        return self._computed[0]

    @property
    def also(self) -> tuple[str, ...]:
        """Digests under which other versions know this merge, bit for bit."""
        computed, is_same = self._computed
        if self.version > 1:
            forms = (self, computed) if is_same else (computed,)
            return tuple(dict.fromkeys(form.in_version(1).digest for form in forms))
        latest = self.in_version(VERSION)
        return (latest.digest,) if latest._computed[1] else ()

    def in_version(self, version: int) -> Recipe:
        """Return what is written here as a recipe of another version, nested ones too.

        It may be rounded otherwise.
        """
        inputs = tuple(
            (
                n,
                Nested(one.recipe.in_version(version))
                if isinstance(one, Nested)
                else one,
            )
            for n, one in self.inputs
        )
        return replace(self, inputs=inputs, version=version)

    @cached_property
    def _computed(self) -> tuple[Recipe, bool]:
        """The recipe as it is carried out, and whether that keeps every bit."""
        if self.version == 1:
            return self, True
        embed = self.embed.canonical("embed", self.frame)
        slots = [slot.canonical("attn", self.frame) for slot in self.slots]
        head = self.head.canonical("head", self.frame)
        places = [embed, *slots, head]
        steps = {kind: canonical(operation) for kind, operation in self.parts}
        parts = tuple((kind, step.operation) for kind, step in steps.items())
        read = {self.frame}.union(*(p.reads for p, _ in (*places, (Slot(parts), 0))))
        asked = _asked(slot for slot in (*(p for p, _ in places), Slot(parts)))
        inputs = [
            (n, *_computed_input(with_statistics(one, asked.get(n, ()))))
            for n, one in self.inputs
            if n in read
        ]
        made = replace(
            self,
            inputs=tuple((name, source) for name, source, _ in inputs),
            embed=embed[0],
            slots=tuple(slot for slot, _ in slots),
            head=head[0],
            parts=parts,
        )
        made.__dict__["_computed"] = made, True
        exact = (
            *(e for *_, e in (*places, *inputs)),
            *(s.exact for s in steps.values()),
        )
        return made, all(exact)

    @cached_property
    def text(self) -> str:
        """The recipe as canonical JSON: what it is kept as."""
        return canonical_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "version": self.version,
            **({"fused": True} if self.fused else {}),
            "frame": self.frame,
            "dtype": self.dtype,
            "inputs": {name: source.to_json() for name, source in self.inputs},
            "embed": self.embed.to_json(),
            "slots": [slot.to_json() for slot in self.slots],
            "head": self.head.to_json(),
            **({"parts": self.beside.to_json()["roles"]} if self.parts else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Read the plain form.

        Raises:
            RecipeError: A part is missing, of another version, or contradicts another.
        """
        try:
            return cls(
                version=data["version"],
                frame=data["frame"],
                dtype=data["dtype"],
                inputs=tuple((n, _input(i)) for n, i in data["inputs"].items()),
                embed=Slot.from_json(data["embed"]),
                slots=tuple(Slot.from_json(slot) for slot in data["slots"]),
                head=Slot.from_json(data["head"]),
                fused=bool(data.get("fused", False)),
                parts=Slot.from_json({"roles": data.get("parts", {})}).roles,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RecipeError(
                f"Not a recipe: {error!r} is missing or malformed."
            ) from error


def _nesting(source: Input) -> int:
    if isinstance(source, Nested):
        return source.recipe.nesting
    if isinstance(source, Transformed):
        return max(map(_nesting, (source.of, *(one for _, one in source.among))))
    return 0


def parents_of(recipe: Recipe) -> tuple[Checkpoint | Adapted, ...]:
    """Return every model whose weights are part of a merge, each once.

    An input that gives only the frame, or that the merge does not feel, is none.
    """
    computed = recipe.computed
    read = {name for _, slot in computed.places() for name in slot.reads}
    found = [_leaves(source) for name, source in computed.inputs if name in read]
    return tuple(dict.fromkeys(leaf for leaves in found for leaf in leaves))


def _leaves(source: Input) -> tuple[Checkpoint | Adapted, ...]:
    if isinstance(source, Nested):
        return parents_of(source.recipe)
    if isinstance(source, Transformed):
        within = (source.of, *(one for _, one in source.among))
        return tuple(leaf for one in within for leaf in _leaves(one))
    return (replace(source, statistics=()),)


def copied(recipe: Recipe) -> Input | None:
    """Return the input that a recipe copies layer by layer, from the first on.

    None if it merges, scales or moves anything.
    """
    computed = recipe.computed
    first = computed.embed.roles[0][1]
    if len(first.reads) > 1:
        return None
    roles, (name,) = Slot(((ANY_ROLE, first),)).roles, first.reads
    keeps = first.operator == "linear" and first.knobs("weight") in (None, (1.0,))
    in_order = all(
        (slot.roles, slot.layers, slot.scale) == (roles, ((name, i),), 1.0)
        for i, slot in enumerate(computed.slots)
    )
    ends = (computed.embed.roles, computed.head.roles) == (roles, roles)
    ends &= not computed.parts
    return computed.input(name) if keeps and in_order and ends else None


def _asked(slots: Iterable[Slot]) -> dict[str, set[str]]:
    """Return the kinds of statistics that are asked for of each input."""
    asked: dict[str, set[str]] = {}
    operations = {operation for slot in slots for _, operation in slot.roles}
    for operation in operations:
        row = known(operation.operator)
        for name in operation.inputs if row is not None and row.statistics else ():
            asked.setdefault(name, set()).update(row.statistics if row else ())
    return asked


def _computed_input(source: Input) -> tuple[Input, bool]:
    """Return an input with a nested recipe in its one form, and whether bits are kept.

    A nested one of version 1 stays what it is, unless it has the same bits.
    """
    if not isinstance(source, Nested):
        return source, True
    latest, is_same = source.recipe.in_version(VERSION)._computed
    if source.recipe.version == 1 and not is_same:
        return source, True
    return Nested(latest), is_same


def _input(data: Mapping[str, Any]) -> Input:
    if "recipe" in data:
        return Nested(Recipe.from_json(data["recipe"]))
    if "of" in data:
        return Transformed(
            _input(data["of"]),
            data["transform"],
            data["statistics"],
            tuple(data.get("settings", {}).items()),
            tuple((n, _input(i)) for n, i in data.get("among", {}).items()),
        )
    measured = tuple(sorted(data.get("statistics", {}).items()))
    if "adapter" in data:
        return Adapted(data["checkpoint"], data["adapter"], measured)
    return Checkpoint(data["checkpoint"], measured)
