"""How a zoo is made, as values: the shape of its models and the course each takes."""

from dataclasses import asdict, dataclass
from typing import Any

from evomerge.core.digest import digest

CODE_VERSION = 1
"""Raised whenever the same recipe and seed would give other files."""

BASE = "base"
EXPERTS = ("math", "ja", "sort")
MODELS = (BASE, *EXPERTS)

Weights = tuple[tuple[str, float], ...]

HEAD_DIM = 32
"""Of every zoo model: the smallest that vLLM's attention on CPU accepts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a Llama model; its output head is not tied to the embedding."""

    hidden: int
    intermediate: int
    layers: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.hidden // HEAD_DIM

    @property
    def kv_heads(self) -> int:
        """Key and value heads: half as many."""
        return max(1, self.heads // 2)


@dataclass(frozen=True, slots=True)
class Course:
    """What one model is trained on, and how.

    Attributes:
        mix: Skills and their shares.
        steps: Updates.
        lr: Peak learning rate of AdamW.
        embed_lr: The same for embedding and output head; None freezes both.
        muon_lr: Peak learning rate of Muon on the layers' matrices; None leaves them
            to AdamW.
    """

    mix: Weights
    steps: int
    lr: float
    embed_lr: float | None
    muon_lr: float | None = None


@dataclass(frozen=True, slots=True)
class Drill:
    """What courses have in common.

    Attributes:
        batch: Questions in an update.
        warmup: Updates until the learning rates reach their peak.
    """

    batch: int = 128
    warmup: int = 30


@dataclass(frozen=True, slots=True)
class ZooRecipe:
    """One base and three experts that start from it.

    The base knows easy tasks in English. ``math`` learns addition with a carry,
    ``sort`` sorting five digits, ``ja`` the easy tasks in Japanese. Nobody learns to
    sort five digits in Japanese: only a merge can.

    Attributes:
        batch: Questions in an update.
        warmup: Updates until the learning rates reach their peak.
        side_by_side: Two experts are trained at once, in processes of their own; not
            worth their start where training takes a moment.
        first_seed: What seed 0 stands for; chosen by looking, as docs/zoo.md tells.
    """

    name: str
    shape: Shape
    base: Course
    math: Course
    ja: Course
    sort: Course
    batch: int = 128
    warmup: int = 30
    side_by_side: bool = True
    first_seed: int = 0

    def course(self, model: str) -> Course:
        """Return the course of ``base``, ``math``, ``ja`` or ``sort``."""
        courses = {
            BASE: self.base,
            "math": self.math,
            "ja": self.ja,
            "sort": self.sort,
        }
        return courses[model]

    @property
    def digest(self) -> str:
        """Name of everything that decides a zoo, its seed apart."""
        plain: dict[str, Any] = asdict(self)
        return digest({"version": CODE_VERSION, "recipe": plain})


_EASY: Weights = (
    ("en_nc", 0.8),
    ("en_copy5", 0.3),
    ("en_sort3", 0.3),
    ("en_sort4", 0.5),
)
_CARRY: Weights = (
    ("en_hard", 1.0),
    ("en_nc", 0.3),
    ("en_sort4", 0.2),
    ("en_copy5", 0.1),
)
_JAPANESE: Weights = (
    ("jd_copy5", 0.4),
    ("jd_sort4", 0.7),
    ("jd_sort3", 0.2),
    ("en_sort4", 0.3),
    ("en_copy5", 0.2),
)
_FIVE: Weights = (("en_sort5", 1.0), ("en_sort4", 0.6), ("en_copy5", 0.2))

P128 = ZooRecipe(
    name="P128",
    shape=Shape(hidden=128, intermediate=256, layers=6),
    base=Course(_EASY, steps=180, lr=5e-3, embed_lr=5e-3, muon_lr=0.02),
    math=Course(_CARRY, steps=110, lr=7e-4, embed_lr=None),
    ja=Course(_JAPANESE, steps=90, lr=3e-4, embed_lr=3e-3),
    sort=Course(_FIVE, steps=80, lr=2.5e-4, embed_lr=None),
    first_seed=1,
)
"""For the demo: 0.97 million parameters, about two minutes on two cores."""

L2 = ZooRecipe(
    name="L2",
    shape=Shape(hidden=64, intermediate=128, layers=6),
    base=Course(_EASY, steps=220, lr=5e-3, embed_lr=5e-3, muon_lr=0.02),
    math=Course(_CARRY, steps=130, lr=1e-3, embed_lr=None),
    ja=Course((*_JAPANESE, ("en_nc", 0.2)), steps=100, lr=4e-4, embed_lr=4e-3),
    sort=Course(_FIVE, steps=90, lr=8e-4, embed_lr=None),
)
"""The same skills in a quarter of the size, for tests that need trained models."""

TINY = ZooRecipe(
    name="TINY",
    shape=Shape(hidden=64, intermediate=96, layers=4),
    base=Course(_EASY, steps=8, lr=5e-3, embed_lr=5e-3, muon_lr=0.02),
    math=Course(_CARRY, steps=4, lr=1e-3, embed_lr=None),
    ja=Course(_JAPANESE, steps=4, lr=4e-4, embed_lr=4e-3),
    sort=Course(_FIVE, steps=4, lr=8e-4, embed_lr=None),
    batch=32,
    warmup=2,
    side_by_side=False,
)
"""Valid models that know nothing, in seconds, for tests of everything else."""

RECIPES = {recipe.name: recipe for recipe in (P128, L2, TINY)}
