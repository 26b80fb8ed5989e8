"""Tensors, by the names that a folder has them under, written into a loaded model.

transformers loads many families into other tensors than they are stored as: names
change, matrices of experts are put together, fused ones are cut, some are turned. What
becomes of each stored tensor is asked of transformers' own rules, so a family needs no
word here. A tensor that only moves is copied once, to where it is computed with; one of
an expert into its part of the whole. The others wait, in memory of their own, until all
members of their whole have come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from evomerge.errors import CandidateError, CheckpointError

Shape = tuple[int, ...]


@dataclass
class _Whole:
    """Stored tensors that transformers makes others of together.

    Attributes:
        name: What the loader calls the first result.
        converter: transformers' rule.
        patterns: Stored name to the rule's pattern that it matched, in the order in
            which the loader gives them to the rule.
        held: Members that have come.
    """

    name: str
    converter: Any
    patterns: dict[str, str] = field(default_factory=dict)
    held: dict[str, torch.Tensor] = field(default_factory=dict)

    def convert(
        self, model: _Known, tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Apply the rule to all members; results by the model's names."""
        rule = deepcopy(self.converter)
        for name, pattern in self.patterns.items():
            rule.add_tensor(self.name, name, pattern, tensors[name])
        made = rule.convert(self.name, model=model, config=model.config)
        return {
            name: one[0] if isinstance(one, list) else one for name, one in made.items()
        }


@dataclass(frozen=True)
class _Known:
    """What rules ask of a model; it knows layers too that are not running."""

    config: Any
    state: Mapping[str, torch.Tensor]

    def get_parameter(self, name: str) -> torch.Tensor:
        """Return a parameter."""
        return self.state[name]


class InPlaceLoader:
    """Knows where every stored tensor of a folder belongs in a loaded model.

    Attributes:
        needed: Names of stored tensors that the model computes with.
    """

    def __init__(
        self,
        model: Any,
        stored: Mapping[str, Shape],
        key_mapping: Mapping[str, str] | None = None,
    ) -> None:
        """Find every stored tensor's place.

        Args:
            model: As transformers loaded it.
            stored: Names and shapes in the folder.
            key_mapping: The user's own changes of names, as ``from_pretrained`` had it.

        Raises:
            CheckpointError: A parameter of the model gets nothing from the folder, or
                transformers' rules do not fit what is stored.
        """
        self._model = model
        self._state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
        self._known = _Known(model.config, self._state)
        self._direct: dict[str, torch.Tensor] = {}
        self._wholes: dict[str, _Whole] = {}
        self._unused: set[str] = set()
        targets, wholes = self._match(stored, key_mapping)
        reached = set(targets.values())
        for name, target in targets.items():
            if self._is_twin(target, reached):
                self._unused.add(name)
            else:
                self._direct[name] = self._state[target]
        for whole in wholes:
            reached |= self._open(whole, stored)
        self._check_reached(reached)
        self.needed = frozenset(self._direct.keys() | self._wholes.keys())

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, or keep a copy until its whole can be made.

        Raises:
            CandidateError: The frame has no such tensor, or one of another shape.
        """
        target = self._direct.get(name)
        if target is not None:
            _copy(name, tensor, target)
        elif (whole := self._wholes.get(name)) is not None:
            self._collect(whole, name, tensor)
        elif name not in self._unused:
            raise CandidateError(
                f"The merge gives a tensor {name!r} that the frame does not have."
            )

    def finish(self) -> None:
        """Say that no more tensors come.

        Raises:
            CandidateError: Of some whole only a part has come.
        """
        for whole in self._wholes.values():
            lacking = [name for name in whole.patterns if name not in whole.held]
            if whole.held and lacking:
                whole.held.clear()
                raise CandidateError(
                    f"The merge gives no {lacking[0]!r}, which belongs to "
                    f"{whole.name!r}: its layers do not match the frame's."
                )

    def begin(self) -> None:
        """Forget what a load that failed has left."""
        for whole in self._wholes.values():
            whole.held.clear()

    def _collect(self, whole: _Whole, name: str, tensor: torch.Tensor) -> None:
        like = self._state.get(whole.name)
        dtype = tensor.dtype if like is None else like.dtype
        whole.held[name] = tensor.to(dtype, copy=True)
        if len(whole.held) < len(whole.patterns):
            return
        held, whole.held = whole.held, {}
        try:
            made = whole.convert(self._known, held)
        except (RuntimeError, ValueError) as error:
            raise CandidateError(
                f"The merged {name!r} does not fit the frame: {error}"
            ) from error
        for target, value in made.items():
            _copy(target, value, self._state[target])

    def _match(
        self, stored: Mapping[str, Shape], key_mapping: Mapping[str, str] | None
    ) -> tuple[dict[str, str], list[_Whole]]:
        """Name the target of every stored tensor that moves, and the wholes."""
        from transformers import conversion_mapping
        from transformers import core_model_loading as loading

        rules = conversion_mapping.get_model_conversion_mapping(
            self._model, key_mapping and dict(key_mapping)
        )
        renamings = [r for r in rules if isinstance(r, loading.WeightRenaming)]
        converters = [r for r in rules if isinstance(r, loading.WeightConverter)]
        by_pattern = {p: rule for rule in converters for p in rule.source_patterns}
        ends = self._model.base_model_prefix, self._state
        targets: dict[str, str] = {}
        wholes: dict[str, _Whole] = {}
        # Some rules wait for a first name, and lists of experts keep this order.
        for name in sorted(stored, key=loading.dot_natural_key):
            found = loading.rename_source_key(name, renamings, converters, *ends)
            if found[0] not in self._state and name in self._state:
                found = loading.rename_source_key(name, [], [], *ends)
            target, pattern = found
            if target not in self._state:
                self._unused.add(name)
            elif pattern is None:
                targets[name] = target
            else:
                new = _Whole(target, by_pattern[pattern])
                wholes.setdefault(target, new).patterns[name] = pattern
        return targets, list(wholes.values())

    def _is_twin(self, target: str, reached: set[str]) -> bool:
        """A tied tensor is written by the name of the one that it is tied to."""
        ties: Mapping[str, str] = getattr(self._model, "all_tied_weights_keys", {})
        source = ties.get(target)
        is_one = source is not None and self._state[source] is self._state[target]
        return is_one and source in reached

    def _open(self, whole: _Whole, stored: Mapping[str, Shape]) -> set[str]:
        """Find where a whole's members go; return the parameters they make."""
        if (parts := _parts(whole, self._state[whole.name])) is not None:
            self._direct |= parts
            return {whole.name}
        self._wholes |= dict.fromkeys(whole.patterns, whole)
        like = self._state[whole.name]
        empty = {
            name: torch.empty(stored[name], dtype=like.dtype, device="meta")
            for name in whole.patterns
        }
        try:
            made = whole.convert(self._known, empty)
            odd = [n for n, one in made.items() if self._state[n].shape != one.shape]
        except Exception as error:
            raise _misfit(whole, str(error)) from error
        if odd:
            shapes = f"{tuple(made[odd[0]].shape)}, not {self._state[odd[0]].shape}"
            raise _misfit(whole, f"{odd[0]} would be {shapes}")
        return set(made)

    def _check_reached(self, reached: set[str]) -> None:
        """Random numbers must not be scored: every parameter needs a stored tensor."""
        have = {self._state[name].data_ptr() for name in reached}
        may_lack = getattr(self._model, "_keys_to_ignore_on_load_missing", None) or ()
        lacking = [
            name
            for name, one in self._model.named_parameters()
            if one.data_ptr() not in have and one.numel()
            if not any(re.search(pattern, name) for pattern in may_lack)
        ]
        if lacking:
            odd = sorted(self._unused)
            other = f" The class has no place for the stored {odd[0]!r}." if odd else ""
            raise CheckpointError(
                f"The frame's folder has nothing for {lacking[0]!r} ({len(lacking)} in "
                f"all) of transformers' {type(self._model).__name__}, which draws it "
                f"at random.{other} Give a folder that is whole, by the names that "
                "class stores."
            )


def _parts(whole: _Whole, target: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Return each member's part of a whole of experts, where that is all there is."""
    operations = [
        (type(one).__name__, getattr(one, "dim", None))
        for one in whole.converter.operations
    ]
    if operations not in (_STACKED, [*_STACKED, ("Concatenate", 1)]):
        return None
    patterns = [
        p for p in whole.converter.source_patterns if p in whole.patterns.values()
    ]
    members = {
        p: [n for n, found in whole.patterns.items() if found == p] for p in patterns
    }
    if any(len(names) != len(target) for names in members.values()):
        return None
    if len(operations) < 2:
        return dict(zip(members[patterns[0]], target, strict=True))
    if target.shape[1] % len(patterns):
        return None
    cut = [expert.chunk(len(patterns)) for expert in target]
    return {
        name: cut[e][place]
        for place, pattern in enumerate(patterns)
        for e, name in enumerate(members[pattern])
    }


_STACKED = [("MergeModulelist", 0)]


def _copy(name: str, tensor: torch.Tensor, target: torch.Tensor) -> None:
    if target.shape != tensor.shape:
        raise CandidateError(
            f"Tensor {name!r} is {tuple(tensor.shape)} in the merge, but "
            f"{tuple(target.shape)} in the frame."
        )
    target.copy_(tensor)


def _misfit(whole: _Whole, said: str) -> CheckpointError:
    members = list(whole.patterns)
    return CheckpointError(
        f"transformers cannot make {whole.name!r} of {members[0]!r} ({len(members)} "
        f"tensors): {said}. Compare the folder's config.json with that of the model "
        "it was made from."
    )
