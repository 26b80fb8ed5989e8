"""TIES whose trim orders the differences of all layers together."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.operations import operation

from evomerge.checkpoints import read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Checkpoint, Nested, Operation, Recipe, Slot
from evomerge.merging.materialise import materialise
from evomerge.merging.operators import apply
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.thresholds.model_thresholds import (
    Share,
    model_cuts,
)
from evomerge.merging.operators.thresholds.sparsify import keep_count
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model

N_LAYERS = 2
NAMES = ("base", "a", "b")


def reads(deltas):
    """Give differences as inputs over bases of zero."""
    return [lambda d=d: Deltas([d], torch.zeros_like(d)) for d in deltas]


def trimmed(deltas, keep):
    """Keep the largest of all tensors, by a plain sort of the flattened model."""
    flat = torch.cat([delta.flatten() for delta in deltas])
    order = torch.argsort(flat.abs(), descending=True, stable=True)
    mask = torch.zeros_like(flat)
    mask[order[:keep]] = 1.0
    parts = (flat * mask).split([delta.numel() for delta in deltas])
    return [part.view(d.shape) for part, d in zip(parts, deltas, strict=True)]


def test_one_threshold_for_two_tensors_by_hand():
    # Of the eight entries the four largest are 9, -8, 7 and the first 2.
    deltas = [torch.tensor([9.0, -8.0, 7.0, 2.0]), torch.tensor([2.0, -1.0, 2.0, 0.5])]
    cuts = model_cuts(reads(deltas), [4])
    merge = operation("ties", 1, density=(0.5,), scope="model")
    kept = [
        apply(
            merge,
            [delta],
            torch.zeros(4),
            "w",
            in_model=lambda name, s=start: Share(8, s, cuts),
        ).tolist()
        for start, delta in zip((0, 4), deltas, strict=True)
    ]
    assert kept == [[9.0, -8.0, 7.0, 2.0], [0.0, 0.0, 0.0, 0.0]]


def test_a_tensor_alone_is_the_whole_model():
    delta = torch.tensor([3.0, -1.0, 2.0, 0.5])
    merge = operation("ties", 1, density=(0.5,), scope="model")
    assert apply(merge, [delta], torch.zeros(4), "w").tolist() == [3.0, 0.0, 2.0, 0.0]


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    step=st.sampled_from([0.5, 0.01, 1e-6]),
    seed=st.integers(0, 99),
)
def test_cuts_are_those_of_a_stable_sort_of_everything(lengths, step, seed):
    generator = torch.Generator().manual_seed(seed)
    deltas = [
        (torch.randn(n, generator=generator) / step).round_() * step for n in lengths
    ]
    total = sum(lengths)
    keeps = range(1, total)
    cuts = model_cuts(reads(deltas), keeps)
    for keep in keeps:
        start = 0
        for delta, wanted in zip(deltas, trimmed(deltas, keep), strict=True):
            cut = Share(total, start, cuts).cut(keep, len(delta))
            places = torch.arange(len(delta))
            sizes = delta.abs()
            stays = (sizes > cut.threshold) | (
                (sizes == cut.threshold) & (places <= cut.last)
            )
            assert torch.equal(delta * stays, wanted)
            start += len(delta)


def test_tensors_longer_than_a_span_are_counted_whole():
    generator = torch.Generator().manual_seed(1)
    deltas = [
        torch.randn(n, generator=generator).bfloat16().float()
        for n in (1_100_000, 7, 1_060_000)
    ]
    total = sum(len(delta) for delta in deltas)
    keeps = [keep_count(part / 10, total) for part in (2, 5, 9)]
    cuts = model_cuts(reads(deltas), keeps)
    for keep in keeps:
        cut = cuts.find(keep)
        flat = torch.cat(deltas).abs()
        places = torch.arange(total)
        stays = (flat > cut.threshold) | (
            (flat == cut.threshold) & (places <= cut.last)
        )
        assert int(stays.sum()) == keep


def test_everything_or_nothing_needs_no_cut():
    share = Share(10, 4, model_cuts([], []))
    assert share.cut(10, 3) is None
    assert share.cut(0, 3).threshold == math.inf


class Models:
    """Three tiny models whose differences are coarse, so that many are equal."""

    def __init__(self, root: Path) -> None:
        self.states: dict[str, dict[str, torch.Tensor]] = {}
        self.prints: dict[str, str] = {}
        self.cache = root / "cache"
        paths = {}
        for seed, name in enumerate(NAMES):
            folder = tiny_model(root / name, n_layers=N_LAYERS, seed=seed)
            file = folder / "model.safetensors"
            # Layers differ in size, or each of them would keep its part.
            state = {
                key: (tensor * 64).round() / 64 * (4.0 if ".1." in key else 1.0)
                for key, tensor in load_file(file).items()
            }
            save_file(state, file, metadata={"format": "pt"})
            model = read_model(folder)
            self.states[name], self.prints[name] = state, model.fingerprint
            paths[model.fingerprint] = folder
        self.paths = paths

    def recipe(
        self, densities: tuple[float, ...], layers: tuple[int, ...] = (0, 1)
    ) -> Recipe:
        experts = NAMES[1 : 1 + len(densities)]
        trim = Operation(
            "ties",
            experts,
            "base",
            shared=(("scope", "model"),),
            each=(("density", densities),),
        )
        whole = Operation("task_arithmetic", experts, "base")
        roles = (("*", trim), ("norm", whole))
        names = ("base", *experts)
        return Recipe(
            frame="base",
            dtype="float32",
            inputs=tuple((n, Checkpoint(self.prints[n])) for n in names),
            embed=Slot(roles),
            slots=tuple(Slot(roles, tuple((n, i) for n in names)) for i in layers),
            head=Slot(roles),
        )

    def merge(self, recipe: Recipe, *, kept: bool = False) -> dict[str, torch.Tensor]:
        with Sources(self.paths, cache_dir=self.cache if kept else None) as sources:
            return dict(materialise(recipe, sources))

    def matrices(self) -> list[str]:
        found = [n for n, t in self.states["base"].items() if t.dim() == 2]
        return [name for name in found if ".layers." in name]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("density", [0.2, 0.375, 0.9])
def test_the_layers_of_a_model_are_trimmed_as_one(models, density: float) -> None:
    found = models.merge(models.recipe((density,)))
    base, a = models.states["base"], models.states["a"]
    # Layer by layer, by name: this order decides between equals.
    names = sorted(models.matrices())
    deltas = [a[name] - base[name] for name in names]
    keep = keep_count(density, sum(delta.numel() for delta in deltas))
    for name, delta in zip(names, trimmed(deltas, keep), strict=True):
        assert torch.equal(found[name], base[name] + delta), name
    shares = [
        int((found[n] != base[n]).sum()) / base[n].numel()
        for n in (names[0], names[-1])
    ]
    assert shares[0] < density < shares[1]


def test_embedding_and_head_are_trimmed_by_themselves(models) -> None:
    found = models.merge(models.recipe((0.2,)))
    base, a = models.states["base"], models.states["a"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        (delta,) = trimmed([a[name] - base[name]], keep_count(0.2, base[name].numel()))
        assert torch.equal(found[name], base[name] + delta)


def test_a_layer_that_runs_twice_counts_once(models) -> None:
    once = models.merge(models.recipe((0.3, 0.6)))
    twice = models.merge(models.recipe((0.3, 0.6), layers=(0, 1, 0)))
    for name in models.matrices():
        assert torch.equal(twice[name], once[name])
        if ".layers.0." in name:
            assert torch.equal(twice[name.replace(".0.", ".2.")], once[name])


def test_cuts_are_found_once_for_all_candidates(models) -> None:
    first = models.merge(models.recipe((0.3, 0.6)), kept=True)
    files = {str(file) for file in models.cache.rglob("*.safetensors")}
    second = models.merge(models.recipe((0.8, 0.1)), kept=True)
    assert {str(file) for file in models.cache.rglob("*.safetensors")} == files != set()
    plain = [models.merge(models.recipe(d)) for d in ((0.3, 0.6), (0.8, 0.1))]
    for found, wanted in zip((first, second), plain, strict=True):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_input_merged_on_the_fly_is_trimmed_the_same(models) -> None:
    recipe = models.recipe((0.3, 0.6))
    inner = Nested(passthrough("a", models.prints["a"], N_LAYERS, "float32"))
    inputs = tuple((n, inner if n == "a" else one) for n, one in recipe.inputs)
    nested = Recipe(
        recipe.frame, recipe.dtype, inputs, recipe.embed, recipe.slots, recipe.head
    )
    found, plain = models.merge(nested, kept=True), models.merge(recipe)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
