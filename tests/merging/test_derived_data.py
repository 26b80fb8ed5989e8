"""What was computed from a source is found again, by content, in any process."""

import resource
from pathlib import Path

import pytest
import torch

from evomerge.checkpoints import read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.operators.derived import ONE_MAGNITUDE, ROW_RANKS, SVD
from evomerge.core.recipes.recipe import Checkpoint, Nested, Operation, Recipe, Slot
from evomerge.merging.derived_data import FOLDER, DerivedData
from evomerge.merging.materialise import materialise
from evomerge.merging.operators.directions.knots import Shared
from evomerge.merging.operators.directions.singular_vectors import Svd
from evomerge.merging.operators.inputs import Cut
from evomerge.merging.operators.thresholds.magnitude_thresholds import Cuts
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model

N_LAYERS = 2
VALUES = {
    "a tensor": torch.arange(6).to(torch.uint16).view(2, 3),
    "a number and nothing": (0.5, None, "word"),
    "cuts": Cuts(torch.tensor([1, 5]), torch.tensor([0.5, 0.25]), torch.tensor([3, 2])),
    "a cut": Cut(0.25, 7),
    "a decomposition": Svd(torch.eye(3), torch.ones(3), torch.eye(3).T),
    "shared bases": Shared(torch.eye(2), (torch.ones(2, 3), torch.zeros(2, 3)), None),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    what = (name, None)
    value = VALUES[name]
    assert DerivedData(tmp_path).recall(SVD, what, lambda: value) is value
    again = DerivedData(tmp_path).recall(SVD, what, lambda: pytest.fail("was there"))
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_what_holds_for_one_value_of_a_knob_is_not_written(tmp_path: Path) -> None:
    what = ("w", None)
    DerivedData(tmp_path).recall(ONE_MAGNITUDE.at(77), what, lambda: torch.ones(1))
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_large_values_lie_in_their_files_and_stay_at_hand(tmp_path: Path) -> None:
    derived = DerivedData(tmp_path, ram_bytes=1)
    names = [(str(k), None) for k in range(3)]

    def computed_twice() -> torch.Tensor:
        pytest.fail("gone")

    for k, name in enumerate(names):
        derived.recall(ROW_RANKS, name, lambda k=k: torch.full((1 << 20,), k))
    first = [
        derived.recall(ROW_RANKS, name, lambda: pytest.fail("gone")) for name in names
    ]
    again = [
        derived.recall(ROW_RANKS, name, lambda: pytest.fail("gone")) for name in names
    ]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert [int(value[-1]) for value in first] == [0, 1, 2]


def test_memory_holds_what_was_used_last(tmp_path: Path) -> None:
    derived = DerivedData(None, ram_bytes=10_000)
    computed = []

    def ask(name: str) -> None:
        def compute() -> torch.Tensor:
            computed.append(name)
            return torch.zeros(1000)

        derived.recall(SVD, (name, None), compute)

    for name in "abacab":
        ask(name)
    assert computed == ["a", "b", "c", "b"]


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_file_is_computed_again(damage: bytes | None, tmp_path: Path) -> None:
    what = ("w", None)
    DerivedData(tmp_path).recall(SVD, what, lambda: torch.ones(3))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-2] if damage is None else damage)
    found = DerivedData(tmp_path).recall(SVD, what, lambda: torch.zeros(3))
    assert torch.equal(found, torch.zeros(3))


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    found = DerivedData(blocked).recall(SVD, ("w", None), lambda: torch.ones(3))
    assert torch.equal(found, torch.ones(3))


def test_a_disk_that_becomes_full_costs_nothing_but_time(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # To a writer, a limit on file size is a disk that takes no more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        kept = DerivedData(tmp_path)
        found = kept.recall(SVD, ("w", None), lambda: torch.ones(1_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(found, torch.ones(1_000))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Study:
    """Three tiny models, and recipes over them."""

    def __init__(self, root: Path) -> None:
        models = {
            name: read_model(tiny_model(root / name, n_layers=N_LAYERS, seed=seed))
            for seed, name in enumerate(("base", "a", "b"))
        }
        self.paths = {model.fingerprint: model.path for model in models.values()}
        self.prints = {name: model.fingerprint for name, model in models.items()}
        self.cache = root / "cache"

    def recipe(self, density: float, operator: str = "ties") -> Recipe:
        each = (("density", (density, 0.5)),)
        operation = Operation(operator, ("a", "b"), "base", each=each)
        roles = (("*", operation),)
        return Recipe(
            frame="base",
            dtype="float32",
            inputs=tuple((n, Checkpoint(p)) for n, p in self.prints.items()),
            embed=Slot(roles),
            slots=tuple(
                Slot(roles, tuple((name, layer) for name in self.prints))
                for layer in range(N_LAYERS)
            ),
            head=Slot(roles),
        )

    def merge(self, recipe: Recipe, *, kept: bool) -> dict[str, torch.Tensor]:
        cache = self.cache if kept else None
        with Sources(self.paths, cache_dir=cache) as sources:
            return dict(materialise(recipe, sources))

    def files(self) -> set[str]:
        found = (self.cache / FOLDER).rglob("*.safetensors")
        return {str(file) for file in found}


def test_candidates_find_what_earlier_ones_computed(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for operator in ("ties", "della"):
        study.merge(study.recipe(0.3, operator), kept=True)
        known = study.files()
        assert known
        for density in (0.6, 0.25, 0.5):
            recipe = study.recipe(density, operator)
            found, plain = (
                study.merge(recipe, kept=True),
                study.merge(recipe, kept=False),
            )
            assert all(torch.equal(found[name], plain[name]) for name in plain)
        assert study.files() == known


def test_what_is_merged_on_the_fly_leaves_nothing_behind(tmp_path: Path) -> None:
    study = Study(tmp_path)
    recipe = study.recipe(0.3)
    inner = Nested(passthrough("a", study.prints["a"], N_LAYERS, "float32"))
    inputs = tuple((n, inner if n == "a" else one) for n, one in recipe.inputs)
    nested = Recipe(
        recipe.frame, recipe.dtype, inputs, recipe.embed, recipe.slots, recipe.head
    )
    found, plain = study.merge(nested, kept=True), study.merge(recipe, kept=False)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert study.files() == set()
