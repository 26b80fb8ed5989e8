"""Two experts whose skills sit in different depths, in layers that only they have.

Each is the zoo's base with two new layers that change nothing at first and are then
trained, all else frozen (block expansion, Wu et al. 2024, 2401.02415, section 3). The
new layers of ``early`` follow the base's first and learn addition with a carry; those
of ``late`` precede its last but one and learn to sort five digits. Layer by layer the
two experts do not correspond: merged in parameter space, new layers meet old ones. A
stack that has both pairs of new layers, each in its depth, has both skills.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evomerge.core.digest import digest
from evomerge.errors import Problem, SpecError
from evomerge.zoo.build import locked, one_thread
from evomerge.zoo.folder import read_weights, write_model
from evomerge.zoo.model import EMBED, State, n_layers
from evomerge.zoo.recipes import Course, Drill, Shape
from evomerge.zoo.training import OnStep, fit

EARLY, LATE = "early", "late"
CODE_VERSION = 1
"""Raised whenever the same base and recipe would give other files."""

_RECORD = "depths.json"
_LOCK = ".lock"
_FROM_ZERO = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True, slots=True)
class Expansion:
    """One expert.

    Attributes:
        at: Its new layers come before this layer of the base.
        blocks: How many there are.
        course: What they learn; embedding and head are frozen.
    """

    at: int
    blocks: int
    course: Course


@dataclass(frozen=True, slots=True)
class DepthPair:
    """Both experts, and how they are trained."""

    early: Expansion
    late: Expansion
    drill: Drill = field(default_factory=Drill)
    seed: int = 1

    @property
    def experts(self) -> dict[str, Expansion]:
        """Name to expansion."""
        return {EARLY: self.early, LATE: self.late}


def _course(mix: tuple[tuple[str, float], ...], steps: int) -> Course:
    return Course(mix, steps=steps, lr=2e-3, embed_lr=None, muon_lr=0.02)


_CARRY = (
    ("en_hard", 1.0),
    ("en_nc", 0.3),
    ("en_sort4", 0.3),
    ("en_sort3", 0.1),
    ("en_copy5", 0.2),
)
_FIVE = (("en_sort5", 1.0), ("en_sort4", 0.6), ("en_nc", 0.4), ("en_copy5", 0.2))

PAIR = DepthPair(
    Expansion(1, 2, _course(_CARRY, 120)), Expansion(4, 2, _course(_FIVE, 120))
)
"""On the base of P128: about a minute and a half on one core."""


def make_depth_pair(
    out: Path,
    base: Path,
    *,
    pair: DepthPair = PAIR,
    progress: OnStep | None = None,
) -> dict[str, Path]:
    """Train the two experts, or find them already made.

    The same base and recipe give the same bits on the same kind of processor.

    Args:
        out: Their folder: missing, empty, or of an earlier call, which is made anew if
            it was interrupted or of another base or recipe.
        base: The base of a zoo.
        pair: What is trained.
        progress: Told of finished steps.

    Returns:
        ``early`` and ``late`` to their folders.

    Raises:
        SpecError: ``out`` holds something else.
        CheckpointError: ``base`` is no model of a zoo.
    """
    state = dict(sorted(read_weights(base).items()))
    record = _record(state, pair)
    folders = {name: out / name for name in pair.experts}
    with locked(out):
        if _found(out) == record:
            return folders
        _clear(out)
        for name, expansion in pair.experts.items():
            with one_thread():
                expert = _trained(name, expansion, state, pair, progress)
            write_model(folders[name], expert, _shape(expert))
        (out / _RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return folders


def expand(base: Mapping[str, Any], expansion: Expansion) -> tuple[State, set[str]]:
    """Return a base with new layers that pass on what they get, and their tensors.

    A new layer is a copy of the one that follows it; what it would write to the
    hidden state is zero.
    """
    new = range(expansion.at, expansion.at + expansion.blocks)
    state: State = {n: t.clone() for n, t in base.items() if ".layers." not in n}
    trained: set[str] = set()
    for layer in range(n_layers(base) + expansion.blocks):
        skipped = layer if layer < new.start else max(layer - len(new), new.start)
        for name, tensor in base.items():
            head, _, part = name.partition(f".layers.{skipped}.")
            if not part:
                continue
            here = f"{head}.layers.{layer}.{part}"
            is_zero = layer in new and part in _FROM_ZERO
            state[here] = tensor.new_zeros(tensor.shape) if is_zero else tensor.clone()
            if layer in new:
                trained.add(here)
    return dict(sorted(state.items())), trained


def _trained(
    name: str,
    expansion: Expansion,
    base: State,
    pair: DepthPair,
    progress: OnStep | None,
) -> State:
    state, new = expand(base, expansion)
    for tensor in new:
        state[tensor].requires_grad_()
    total = expansion.course.steps

    def on_step(done: int) -> None:
        if progress is not None:
            progress(name, done, total)

    fit(state, expansion.course, pair.drill, pair.seed, on_step)
    return {key: value.detach() for key, value in state.items()}


def _shape(state: State) -> Shape:
    gate = state["model.layers.0.mlp.gate_proj.weight"]
    return Shape(state[EMBED].shape[1], gate.shape[0], n_layers(state))


def _record(base: State, pair: DepthPair) -> dict[str, str]:
    """Name everything that decides the pair."""
    sums = {name: _name(tensor.numpy().tobytes()) for name, tensor in base.items()}
    plain = {"version": CODE_VERSION, "pair": asdict(pair), "base": sums}
    return {"digest": digest(plain)}


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _found(out: Path) -> Any:
    try:
        return json.loads((out / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear(out: Path) -> None:
    """Remove what an earlier call left; refuse anything else."""
    foreign = sorted(
        {path.name for path in out.iterdir()} - {EARLY, LATE, _RECORD, _LOCK}
    )
    if foreign:
        raise SpecError(
            [
                Problem(
                    str(out),
                    f"Expected a new or empty folder or an earlier pair, but found "
                    f"{', '.join(map(repr, foreign))}; choose another folder.",
                )
            ]
        )
    (out / _RECORD).unlink(missing_ok=True)
    for name in (EARLY, LATE):
        shutil.rmtree(out / name, ignore_errors=True)
