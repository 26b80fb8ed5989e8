"""Which slot of a living engine holds which layer, and what must be written.

An engine of the stack profile has a number of slots; each holds one layer's weights
and a key-value cache. The order in which slots run is free, so a candidate's layers
stay wherever they are held already: a neighbour of the last candidate writes only the
layers that are new. A layer that repeats is held once; its further places borrow the
caches of slots that are not running. Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import CandidateError


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a running stack.

    Attributes:
        slot: Whose weights it runs.
        cache: Whose key-value cache it uses; no other place uses it.
        scale: Factor on the hidden state that enters.
    """

    slot: int
    cache: int
    scale: float = 1.0


class SlotCache:
    """The slots of an engine, each of a kind, and what they hold."""

    def __init__(self, kinds: Sequence[str]) -> None:
        """Begin with nothing held.

        Args:
            kinds: The kind of each slot: a layer only fits into a slot of its kind.
        """
        self.kinds = tuple(kinds)
        self._held: list[str | None] = [None] * len(self.kinds)
        self._used = [0] * len(self.kinds)
        self._clock = 0

    def missing(self, contents: Sequence[str]) -> list[int]:
        """Return the places whose layers are held nowhere, each layer once."""
        held = set(self._held)
        first = {key: place for place, key in reversed(list(enumerate(contents)))}
        return sorted(place for key, place in first.items() if key not in held)

    def choose(
        self, contents: Sequence[str], kinds: Mapping[int, str]
    ) -> dict[int, int]:
        """Choose slots for the layers that are held nowhere.

        Args:
            contents: The key of each place's layer.
            kinds: For each missing place, the kind of its layer.

        Returns:
            Place to slot. The slots' old layers are the longest unused ones.

        Raises:
            CandidateError: The stack has more layers of a kind than the engine has
                slots.
        """
        wanted = set(contents)
        free = [i for i, key in enumerate(self._held) if key not in wanted]
        free.sort(key=lambda i: (self._held[i] is not None, self._used[i], i))
        out: dict[int, int] = {}
        for place, kind in kinds.items():
            slot = next((i for i in free if self.kinds[i] == kind), None)
            if slot is None:
                raise CandidateError(self._full(contents, kind))
            free.remove(slot)
            out[place] = slot
        return out

    def forget(self, slots: Sequence[int]) -> None:
        """Note that these slots are about to be overwritten."""
        for slot in slots:
            self._held[slot] = None

    def hold(self, slot: int, key: str) -> None:
        """Note that a slot was written."""
        self._held[slot] = key

    def arrange(
        self, contents: Sequence[str], scales: Sequence[float]
    ) -> tuple[Place, ...]:
        """Say where each place of a stack runs; every layer must be held.

        Raises:
            CandidateError: The stack has more layers of a kind than the engine has
                slots.
        """
        self._clock += 1
        where = {key: i for i, key in enumerate(self._held) if key is not None}
        first = {where[key] for key in contents}
        spare = [i for i in range(len(self.kinds)) if i not in first]
        places = []
        for key, scale in zip(contents, scales, strict=True):
            slot = cache = where[key]
            self._used[slot] = self._clock
            if slot in first:
                first.remove(slot)
            else:
                cache = self._borrow(spare, contents, self.kinds[slot])
            places.append(Place(slot, cache, scale))
        return tuple(places)

    def _borrow(self, spare: list[int], contents: Sequence[str], kind: str) -> int:
        cache = next((i for i in spare if self.kinds[i] == kind), None)
        if cache is None:
            raise CandidateError(self._full(contents, kind))
        spare.remove(cache)
        return cache

    def _full(self, contents: Sequence[str], kind: str) -> str:
        return (
            f"A stack of {len(contents)} layers does not fit: the engine has "
            f"{Counter(self.kinds)[kind]} slots for layers of the kind {kind!r}, and "
            f"{len(self.kinds)} in all. Raise engine.slots."
        )
