"""Averages of adapters' factors, A and B each on their own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import (
    WEIGHTS,
    WRAPPER,
    adapter_tensors,
    tiny_adapter,
    write_adapter,
)

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.core.presets import expand
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Nested,
    Operation,
    Recipe,
    Slot,
)
from evomerge.errors import CandidateError, CheckpointError, RecipeError
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.merging.views.adapted import LowRank
from evomerge.merging.views.averaged_factors import average_factors
from evomerge.merging.views.merged import Merged
from evomerge.testing.families import family_config, family_model, save_family
from evomerge.testing.models import tiny_model

LAYERS = 2
MODULE = "model.layers.1.self_attn.q_proj"
NAME = f"{MODULE}.weight"


def soup(*weights: float) -> Operation:
    names = tuple(f"m{i + 1}" for i in range(len(weights)))
    return Operation("lora_linear", names, each=(("weight", weights),))


def recipe_of(
    operation: Operation, inputs: Mapping[str, Input], dtype: str = "float32"
) -> Recipe:
    roles = (("*", operation),)
    layers = [tuple((name, i) for name in inputs) for i in range(LAYERS)]
    return Recipe(
        frame="m1",
        dtype=dtype,
        inputs=tuple(inputs.items()),
        embed=Slot(roles),
        slots=tuple(Slot(roles, layers=fed) for fed in layers),
        head=Slot(roles),
    )


class Bench:
    """A base, adapters of it, and what becomes of them."""

    def __init__(self, folder: Path, base: Path | None = None, **model: Any) -> None:
        self.folder = folder
        self.base = base or tiny_model(folder / "base", n_layers=LAYERS, **model)
        self.own = read_model(self.base).fingerprint
        self.paths: dict[str, str | Path] = {self.own: self.base}
        self.inputs: dict[str, Input] = {}

    def add(self, adapter: Path, *, base: Path | None = None) -> Path:
        """Name the next input ``m1``, ``m2``, ..."""
        under = self.own if base is None else read_model(base).fingerprint
        known = read_adapter(adapter).fingerprint
        self.paths |= {under: base or self.base, known: adapter}
        self.inputs[f"m{len(self.inputs) + 1}"] = Adapted(under, known)
        return adapter

    def random(self, seed: int, **options: Any) -> Path:
        folder = self.folder / f"adapter{len(self.inputs)}"
        return self.add(tiny_adapter(folder, self.base, seed=seed, **options))

    def written(self, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
        folder = self.folder / f"adapter{len(self.inputs)}"
        return self.add(write_adapter(folder, tensors, config))

    def merge(
        self, operation: Operation, dtype: str = "float32"
    ) -> dict[str, torch.Tensor]:
        with Sources(self.paths) as sources:
            recipe = recipe_of(operation, self.inputs, dtype)
            return {name: t.clone() for name, t in materialise(recipe, sources)}

    def stored(self) -> dict[str, torch.Tensor]:
        return load_file(self.base / "model.safetensors")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def halves(adapter: Path, module: str = MODULE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B."""
    tensors = adapter_tensors(adapter)
    a, b = (tensors[f"{WRAPPER}{module}.lora_{half}.weight"] for half in "AB")
    return a, b


def axis(size: int, at: int, *, rows: bool) -> torch.Tensor:
    unit = torch.zeros(1, size)
    unit[0, at] = 1.0
    return unit.T if rows else unit


def diagonals(bench: Bench) -> None:
    """Add adapters that add 1 to the first entry of the diagonal, and to the second."""
    out, width = bench.stored()[NAME].shape
    for at in (0, 1):
        factors = {
            f"{WRAPPER}{MODULE}.lora_A.weight": axis(width, at, rows=False),
            f"{WRAPPER}{MODULE}.lora_B.weight": axis(out, at, rows=True),
        }
        bench.written(factors, r=1, lora_alpha=1)


@pytest.mark.parametrize(
    ("lora_space", "corner"),
    [
        ("factors", [[0.25, 0.25], [0.25, 0.25]]),
        ("delta", [[0.5, 0.0], [0.0, 0.5]]),
    ],
)
def test_two_diagonals_average_to_quarters_by_factors_and_to_halves_by_differences(
    bench: Bench, lora_space: str, corner: list[list[float]]
) -> None:
    diagonals(bench)
    written = Operation(
        "rewarded_soups",
        ("m1", "m2"),
        shared=(("lora_space", lora_space),),
        each=(("mu", (0.5, 0.5)),),
    )
    added = bench.merge(expand(written))[NAME] - bench.stored()[NAME]
    expected = torch.zeros_like(added)
    expected[:2, :2] = torch.tensor(corner)
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-7)


def test_the_halves_are_averaged_by_weight_and_multiplied(bench: Bench) -> None:
    adapters = [bench.random(seed, lora_alpha=6) for seed in range(3)]
    found = bench.merge(soup(2.0, 1.0, 5.0))
    for module in (MODULE, "model.layers.0.mlp.down_proj"):
        a, b = (
            sum(w * half for w, half in zip((0.25, 0.125, 0.625), each, strict=True))
            for each in zip(*(halves(one, module) for one in adapters), strict=True)
        )
        expected = bench.stored()[f"{module}.weight"] + 6 / 4 * (b @ a)
        torch.testing.assert_close(
            found[f"{module}.weight"], expected, rtol=0, atol=3e-7
        )


def test_what_no_adapter_changes_is_the_bases_own_in_every_bit(bench: Bench) -> None:
    bench.random(0)
    bench.random(1)
    found, stored = bench.merge(soup(0.3, 0.4)), bench.stored()
    changed = {name for name in stored if not torch.equal(stored[name], found[name])}
    assert changed == {n for n in stored if "q_proj" in n or "down_proj" in n}


def test_one_adapter_is_that_adapter_folded_in(bench: Bench) -> None:
    bench.random(0, lora_alpha=4)
    alone = Operation("linear", ("m1",), each=(("weight", (1.0,)),))
    found, expected = bench.merge(soup(0.7)), bench.merge(alone)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


def test_equal_adapters_give_themselves_back(bench: Bench) -> None:
    adapter = bench.random(0)
    for _ in range(2):
        bench.add(adapter)
    alone = Operation("linear", ("m1",), each=(("weight", (1.0,)),))
    found, expected = bench.merge(soup(0.2, 0.3, 0.5)), bench.merge(alone)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_all_weight_on_one_gives_that_one(bench: Bench) -> None:
    bench.random(0, lora_alpha=4)
    bench.random(1, lora_alpha=4)
    second = Operation("linear", ("m2",), each=(("weight", (1.0,)),))
    found, expected = bench.merge(soup(0.0, 1.0)), bench.merge(second)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scales", [(2.0, 0.5), (2.0, -0.5)])
def test_each_half_takes_the_root_of_its_own_scale(scales: tuple[float, float]) -> None:
    base, draw = torch.zeros(3, 4), torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(3, 2, generator=draw), torch.randn(2, 4, generator=draw))
        for _ in scales
    ]
    changes = [LowRank(base, p, s) for p, s in zip(pairs, scales, strict=True)]
    sign = scales[1] / abs(scales[1])
    left = 0.75 * 2**0.5 * pairs[0][0] + sign * 0.25 * 0.5**0.5 * pairs[1][0]
    right = 0.75 * 2**0.5 * pairs[0][1] + 0.25 * 0.5**0.5 * pairs[1][1]
    found = average_factors(changes, (0.75, 0.25))
    torch.testing.assert_close(found, left @ right, rtol=1e-6, atol=1e-6)


def test_a_scale_in_the_adapter_is_a_scale_in_its_factors(bench: Bench) -> None:
    """Alpha over the root of the rank, or halves that hold it: one sum."""
    one = bench.random(0, lora_alpha=8, use_rslora=True)
    bench.random(1, lora_alpha=8, use_rslora=True)
    by_alpha = bench.merge(soup(0.4, 0.6))[NAME]
    rest = Bench(bench.folder / "scaled")
    for adapter in (one, bench.folder / "adapter1"):
        halved = {name: 2 * t for name, t in adapter_tensors(adapter).items()}
        rest.written(halved, lora_alpha=4)
    torch.testing.assert_close(
        rest.merge(soup(0.4, 0.6))[NAME], by_alpha, rtol=0, atol=2e-6
    )


def test_an_adapter_that_leaves_a_tensor_alone_adds_a_pair_of_zeros(
    bench: Bench,
) -> None:
    first = bench.random(0)
    bench.random(1, targets=("down_proj",))
    a, b = halves(first)
    expected = bench.stored()[NAME] + 2 * 0.25**2 * (b @ a)
    found = bench.merge(soup(0.25, 0.75))[NAME]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)


def test_tensors_that_adapters_replace_are_averaged(bench: Bench) -> None:
    norm = bench.stored()["model.norm.weight"]
    for seed, change in ((0, 1.0), (1, 3.0)):
        plain = adapter_tensors(tiny_adapter(bench.folder / str(seed), bench.base))
        name = f"{WRAPPER}model.norm.modules_to_save.default.weight"
        bench.written(plain | {name: norm + change}, modules_to_save=["norm"])
    found = bench.merge(soup(0.25, 0.75))["model.norm.weight"]
    torch.testing.assert_close(found, norm + 2.5, rtol=1e-6, atol=0)


@pytest.mark.slow  # transformers makes the model
@pytest.mark.timeout(300)
def test_a_fused_tensor_has_its_factors_averaged_whole_and_its_pieces_chosen(
    tmp_path: Path,
) -> None:
    config = family_config("phi3", num_hidden_layers=LAYERS)
    save_family(tmp_path / "phi3", family_model(config))
    bench = Bench(tmp_path, tmp_path / "phi3")
    adapters = [bench.random(seed, targets=("qkv_proj",)) for seed in (0, 1)]
    module = "model.layers.1.self_attn.qkv_proj"
    found = bench.merge(soup(0.5, 0.5))[f"{module}.weight"]
    (a1, b1), (a2, b2) = (halves(one, module) for one in adapters)
    stored = bench.stored()[f"{module}.weight"]
    expected = stored + 2 * ((b1 + b2) / 2) @ ((a1 + a2) / 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-7)
    mean = Operation("linear", ("m1", "m2"))
    recipe = recipe_of(soup(0.5, 0.5), bench.inputs)
    slots = tuple(
        replace(slot, roles=(("*", mean), ("self_attn.q_proj.weight", soup(0.5, 0.5))))
        for slot in recipe.slots
    )
    with Sources(bench.paths) as sources:
        mixed = dict(materialise(replace(recipe, slots=slots), sources))
    rows = bench.stored()["model.layers.0.self_attn.o_proj.weight"].shape[1]
    half = stored + (b1 @ a1 + b2 @ a2)
    torch.testing.assert_close(
        mixed[f"{module}.weight"],
        torch.cat([expected[:rows], half[rows:]]),
        rtol=0,
        atol=5e-7,
    )


def test_a_tied_base_is_untied_by_the_adapter_that_trained_one_end(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, tied=True)
    ends = bench.random(0, targets=("embed_tokens", "q_proj"))
    bench.random(1)
    found = bench.merge(soup(0.5, 0.5))
    embed = bench.stored()["model.embed_tokens.weight"]
    tensors = adapter_tensors(ends)
    a, b = (
        tensors[f"{WRAPPER}model.embed_tokens.lora_embedding_{half}"] for half in "AB"
    )
    assert torch.equal(found["lm_head.weight"], embed)
    torch.testing.assert_close(
        found["model.embed_tokens.weight"], embed + 0.5 * (b @ a).T, rtol=0, atol=2e-7
    )


def test_a_narrow_result_is_rounded_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dtype="bfloat16")
    bench.random(0)
    bench.random(1)
    wide, narrow = bench.merge(soup(1, 3)), bench.merge(soup(1, 3), "bfloat16")
    assert all(torch.equal(narrow[name], wide[name].bfloat16()) for name in wide)


def test_the_result_does_not_depend_on_how_many_threads_multiply() -> None:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(1111, 777, generator=draw)  # enough for several threads
    changes = [
        LowRank(
            base,
            (torch.randn(1111, 7, generator=draw), torch.randn(7, 777, generator=draw)),
            scale,
        )
        for scale in (2.0, 0.3)
    ]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(average_factors(changes, (0.3, 0.7)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def refused(bench: Bench, said: str) -> None:
    with (
        Sources(bench.paths) as sources,
        pytest.raises(RecipeError, match=said),
    ):
        Merged(recipe_of(soup(0.5, 0.5), bench.inputs), sources)


def test_a_model_without_an_adapter_is_refused(bench: Bench) -> None:
    bench.random(0)
    bench.inputs["m2"] = Checkpoint(bench.own)
    refused(bench, r"'m2': no model\+adapter.*with 'linear'")


def test_a_merge_of_adapters_is_no_adapter(bench: Bench) -> None:
    bench.random(0)
    within = recipe_of(Operation("linear", ("m1",)), dict(bench.inputs))
    bench.inputs["m2"] = Nested(within)
    refused(bench, r"'m2': no model\+adapter")


def test_adapters_of_two_models_are_refused(bench: Bench) -> None:
    bench.random(0)
    other = tiny_model(bench.folder / "other", n_layers=LAYERS, seed=1)
    bench.add(tiny_adapter(bench.folder / "a", other), base=other)
    refused(bench, "'m2': another model than that of 'm1'")


def test_factors_of_two_layers_are_refused(bench: Bench) -> None:
    bench.random(0)
    bench.random(1)
    recipe = recipe_of(soup(0.5, 0.5), bench.inputs)
    crossed = replace(recipe.slots[0], layers=(("m1", 0), ("m2", 1)))
    with (
        Sources(bench.paths) as sources,
        pytest.raises(RecipeError, match=r"factors of one layer.*\[0, 1\]"),
    ):
        Merged(replace(recipe, slots=(crossed, *recipe.slots[1:])), sources)


def test_factors_of_two_ranks_are_refused(bench: Bench) -> None:
    bench.random(0)
    bench.random(1, rank=6)
    refused(
        bench,
        r"'m2': A \[6, 32\] and B \[32, 6\] for 'model\.layers\.0\.\S+', for which "
        r"'m1' has A \[4, .* \(3 more\)",
    )


def test_a_tensor_replaced_by_one_and_factored_by_another_is_refused(
    bench: Bench,
) -> None:
    bench.random(0)
    bench.written({f"{WRAPPER}{MODULE}.base_layer.weight": bench.stored()[NAME] + 1.0})
    refused(bench, f"'m2': replaces '{NAME}', for which 'm1' has factors")


def test_weights_without_a_sum_are_refused(bench: Bench) -> None:
    bench.random(0)
    bench.random(1)
    with pytest.raises(CandidateError, match=r"sum to zero.*Change one"):
        bench.merge(soup(0.5, -0.5))


def test_factors_that_are_no_numbers_are_named(bench: Bench) -> None:
    adapter = bench.random(0)
    tensors = adapter_tensors(adapter)
    name = f"{WRAPPER}{MODULE}.lora_B.weight"
    tensors[name][1, 1] = float("nan")
    save_file(tensors, adapter / WEIGHTS)
    bench.inputs.clear()
    bench.add(adapter)
    with pytest.raises(CheckpointError, match=name):
        bench.merge(soup(1.0))
