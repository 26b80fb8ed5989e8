"""The stream of merged tensors on its way into an engine: checked, counted, timed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter

import torch

from evomerge.checkpoints import HEAD_WEIGHT
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources

Named = tuple[str, torch.Tensor]


class WeightStream:
    """Passes merged tensors on, one at a time, and remembers what went through.

    Attributes:
        names: Checkpoint names seen so far.
        materialise_s: Seconds spent waiting for the merge arithmetic.
        size_bytes: Bytes as they arrive in the engine's element type.
    """

    def __init__(
        self,
        stream: Iterable[Named],
        dtype: torch.dtype,
        *,
        tied: bool,
        head: str = HEAD_WEIGHT,
    ) -> None:
        """Wrap a stream that goes into an engine.

        Args:
            stream: Names and tensors, each read once.
            dtype: The engine's element type.
            tied: The engine's head is its embedding.
            head: Name of an output head in the stream.
        """
        self.names: set[str] = set()
        self.materialise_s = 0.0
        self.size_bytes = 0
        self._stream = stream
        self._dtype = dtype
        self._tied = tied
        self._head = head

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        sources: Sources,
        frame: str,
        dtype: torch.dtype,
        *,
        reuse: bool = False,
    ) -> WeightStream:
        """Merge a recipe for an engine that was started from ``frame``.

        Args:
            recipe: What to merge.
            sources: Where its inputs lie.
            frame: Fingerprint of what the engine was started from.
            dtype: The engine's element type.
            reuse: The engine is done with a tensor when it asks for the next one.
        """
        model = sources.model(frame)
        untie = not model.tied
        stream = materialise(recipe, sources, untie=untie, reuse=reuse)
        return cls(stream, dtype, tied=model.tied, head=model.layout.head)

    def __iter__(self) -> Iterator[Named]:
        """Yield each tensor once.

        Raises:
            CandidateError: A value does not survive the engine's element type, or the
                engine has no place for a head of its own.
        """
        stream = iter(self._stream)
        while True:
            started = perf_counter()
            item = next(stream, None)
            self.materialise_s += perf_counter() - started
            if item is None:
                return
            name, tensor = item
            self._check(name, tensor)
            self.names.add(name)
            self.size_bytes += tensor.numel() * self._dtype.itemsize
            yield name, tensor

    def _check(self, name: str, tensor: torch.Tensor) -> None:
        if self._tied and name == self._head:
            raise CandidateError(
                "The merge has an output head of its own, but the frame's is tied to "
                "its embedding; choose an untied parent as frame."
            )
        # The materialiser answers for its own element type; only float16 is narrower.
        if self._dtype != torch.float16 or tensor.dtype == torch.float16:
            return
        if not bool(torch.isfinite(tensor.to(torch.float16)).all()):
            raise CandidateError(
                f"Tensor {name!r} holds values beyond float16's range; use bfloat16."
            )
