"""How models differ from a base: norms, zeros, cosines and signs of what was changed.

Every entry is read once, in blocks; products are summed in float64. What is told of a
model is what parameter-space methods work on, the task vector (Ilharco et al. 2023,
2212.04089); sign agreement is what TIES elects by (Yadav et al. 2023, 2306.01708).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from evomerge.checkpoints import BUFFER, Model
from evomerge.merging.sources import Sources
from evomerge.steps import through

_BLOCK = 1 << 20
"""Entries read together, of every model."""

Floats = npt.NDArray[np.float64]
Place = tuple[str, str]
"""Embedding, layer or head in words, and the role of a tensor."""


@dataclass(slots=True)
class Sums:
    """Sums over entries of the models' differences ``d`` from the base ``b``.

    Attributes:
        n: Entries.
        base: Sum of ``b ** 2``.
        products: Sum of ``d[i] * d[j]``, shape ``(n_models, n_models)``, float64.
        zeros: Entries of each model that are the base's, shape ``(n_models,)``.
        both: Entries where both of a pair differ from the base, shape as ``products``.
        alike: Of these, where both have one sign.
    """

    n: int
    base: float
    products: Floats
    zeros: Floats
    both: Floats
    alike: Floats

    @classmethod
    def none(cls, n_models: int) -> Sums:
        """Return the sums over no entry."""
        pairs = (n_models, n_models)
        return cls(
            0,
            0.0,
            np.zeros(pairs),
            np.zeros(n_models),
            np.zeros(pairs),
            np.zeros(pairs),
        )

    def add(self, other: Sums) -> None:
        """Add the sums over other entries."""
        self.n += other.n
        self.base += other.base
        for name in ("products", "zeros", "both", "alike"):
            mine: Floats = getattr(self, name)
            mine += getattr(other, name)

    def norm(self, i: int) -> float:
        """Return the norm of a model's difference."""
        return math.sqrt(float(self.products[i, i]))

    def relative(self, i: int) -> float | None:
        """Return that norm over the base's; None where the base is zero."""
        return self.norm(i) / math.sqrt(self.base) if self.base else None

    def sparsity(self, i: int) -> float:
        """Return the share of entries where a model is the base."""
        return float(self.zeros[i]) / self.n if self.n else 1.0

    def cosine(self, i: int, j: int) -> float | None:
        """Return the cosine of two differences; None where one is zero."""
        length = self.norm(i) * self.norm(j)
        return float(self.products[i, j]) / length if length else None

    def agreement(self, i: int, j: int) -> float | None:
        """Return the share of entries that both changed which have one sign."""
        both = float(self.both[i, j])
        return float(self.alike[i, j]) / both if both else None


@dataclass(slots=True)
class Differences:
    """The sums of every place.

    Attributes:
        names: The models, in order.
        by_place: Place to its sums, in the order of the layers.
        left_out: Tensors that not every model has in the base's shape, or that are
            worked out anew, and so are not compared.
    """

    names: tuple[str, ...]
    by_place: dict[Place, Sums]
    left_out: tuple[str, ...] = field(default_factory=tuple)

    def total(self, *, where: str | None = None, role: str | None = None) -> Sums:
        """Return the sums over all entries, of one place or role if that is given."""
        found = Sums.none(len(self.names))
        for place, sums in self.by_place.items():
            if where in (None, place[0]) and role in (None, place[1]):
                found.add(sums)
        return found


def differences(
    base: Model,
    models: Mapping[str, Model],
    sources: Sources,
    *,
    most: int | None = None,
) -> Differences:
    """Compare models with a base, tensor by tensor.

    Args:
        base: What the models began from.
        models: Name to model; none has an adapter.
        sources: Where all of them are read.
        most: Entries of each tensor that are looked at, evenly spread blocks; None for
            every one.
    """
    by_place: dict[Place, Sums] = {}
    called = [_called_as(base, model) for model in models.values()]
    left_out = sorted({n for names in called for n in names} - base.tensors.keys())
    for name, info in through("comparing", base.tensors.items(), "tensors"):
        place = base.places.get(name)
        fits = all(
            name in names and m.tensors[names[name]].shape == info.shape
            for m, names in zip(models.values(), called, strict=True)
        )
        if place is None or place.role == BUFFER or not fits:
            left_out.append(name)
            continue
        where = place.section if place.layer is None else f"layer {place.layer}"
        sums = by_place.setdefault((where, place.role), Sums.none(len(models)))
        every = [(base, name)]
        every += [
            (m, names[name]) for m, names in zip(models.values(), called, strict=True)
        ]
        tensors = [sources.tensor(m.fingerprint, own).flatten() for m, own in every]
        for block in _blocks(tensors[0].numel(), most):
            sums.add(_sums(*(tensor[block].float() for tensor in tensors)))
    return Differences(
        tuple(models), dict(sorted(by_place.items(), key=_depth)), tuple(left_out)
    )


def _called_as(base: Model, model: Model) -> dict[str, str]:
    """Return what a base calls a model's tensors, to what they are stored as.

    A text decoder has other names where it is part of a model that sees.
    """
    found: dict[str, str] = {}
    for name in model.tensors:
        place = model.places[name]
        if place.layer is not None:
            found[base.layout.full_name(place.layer, place.suffix)] = name
        elif place.section == "beside":
            found[name] = name
        else:
            found[model.layout.name_in(base.layout, name)] = name
    return found


def _depth(entry: tuple[Place, Sums]) -> tuple[int, int, str]:
    (where, role), _ = entry
    layer = where.removeprefix("layer ")
    if layer.isdecimal():
        return 1, int(layer), role
    return (0 if where == "embed" else 2), 0, role


def _blocks(n: int, most: int | None) -> Iterator[slice]:
    size = _BLOCK if most is None else min(_BLOCK, max(most // 8, 1))
    n_blocks = math.ceil(n / size)
    wanted = n_blocks if most is None else min(n_blocks, math.ceil(most / size))
    for k in range(wanted):
        first = (k * n_blocks // wanted) * size
        yield slice(first, min(first + size, n))


def _sums(base: torch.Tensor, *models: torch.Tensor) -> Sums:
    changes = torch.stack([model - base for model in models])
    signs = changes.sign()
    changed = signs.abs()
    both = _products(changed)
    wide = changes.double()
    return Sums(
        n=base.numel(),
        base=float(base.double().square().sum()),
        products=_numbers(wide @ wide.T),
        zeros=_numbers((changes == 0).sum(dim=1).double()),
        both=both,
        alike=(both + _products(signs)) / 2,  # products are 1 or -1 where both changed
    )


def _products(rows: torch.Tensor) -> Floats:
    # Sums of at most 2**20 ones are exact in float32.
    return _numbers((rows @ rows.T).double())


def _numbers(values: torch.Tensor) -> Floats:
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


ORTHOGONAL = 0.05
"""Cosines below this are those of differences that share nothing."""


def verdict(found: Differences) -> str | None:
    """Say in a sentence what differences promise; None of fewer than two models."""
    n = len(found.names)
    total = found.total()
    pairs = [(i, j) for i in range(n) for j in range(i)]
    if not total.n:
        return None
    if unchanged := [found.names[i] for i in range(n) if not total.norm(i)]:
        return f"no difference from the base was found in {' and '.join(unchanged)}"
    if not pairs:
        return None
    cosines = [total.cosine(i, j) or 0.0 for i, j in pairs]
    if max(map(abs, cosines)) < ORTHOGONAL:
        return (
            "the differences are orthogonal (largest cosine "
            f"{max(cosines, key=abs):.3f}): they hardly touch each other, and how much "
            "of each is added is what there is to find"
        )
    if min(cosines) > 1 - ORTHOGONAL:
        return (
            f"the differences are nearly one (least cosine {min(cosines):.3f}): "
            "merging these models can give little that one of them has not"
        )
    if min(cosines) < -ORTHOGONAL:
        return (
            f"some differences undo each other (least cosine {min(cosines):.3f}): "
            "methods that elect signs may help"
        )
    return (
        f"the differences share a part (cosines {min(cosines):.3f} to "
        f"{max(cosines):.3f}): adding all of each counts that part several times"
    )
