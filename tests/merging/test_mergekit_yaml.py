"""mergekit's files through the reader and the materialiser, against what it wrote.

``tests/golden/mergekit`` holds the files, four random Llama models of four layers, and
the results of mergekit 0.1.5, all in fp32.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.operator_checks import barely_outstanding
from support.thinning import keep_probabilities

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Operation, Recipe
from evomerge.core.recipes.settings import resolve
from evomerge.merging.materialise import materialise
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe

GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit"
ELEMENTWISE = 2 * 2.0**-23
SPHERICAL = ("slerp", "nuslerp", "multislerp", "karcher")
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
REFERENCES = sorted(file.stem for file in (GOLDEN / "yaml").glob("*.yml"))
EXACT = [name for name in REFERENCES if name not in RANDOM]

Tensors = dict[str, torch.Tensor]


def read(name, tmp_path, profile="identical"):
    """Read a reference file as it was written, its models beside it."""
    text = (GOLDEN / "yaml" / f"{name}.yml").read_text(encoding="utf-8")
    file = tmp_path / f"{name}.yml"
    file.write_text(text.replace("MODELS", str(GOLDEN / "models")), encoding="utf-8")
    return load_recipe(file, profile=profile)


def merged(recipe: Recipe, folders: dict[str, str]) -> Tensors:
    with Sources(folders) as sources:
        return dict(materialise(recipe, sources))


def operation_of(recipe: Recipe, key: str) -> Operation:
    """Return what the recipe says of one tensor of the result."""
    place = read_model(GOLDEN / "models" / "base").places[key]
    slot = {"embed": recipe.embed, "head": recipe.head}.get(place.section)
    if place.layer is not None:
        slot = recipe.slots[place.layer]
    assert slot is not None
    return slot.operation(place.role, place.suffix)


def largest_input(tensors: Tensors) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors.values())


def test_there_are_twenty_references():
    assert len(REFERENCES) == 20
    assert {path.name for path in (GOLDEN / "out").iterdir()} == set(REFERENCES)


@pytest.mark.parametrize("name", EXACT)
def test_a_file_gives_every_tensor_that_mergekit_wrote(name, tmp_path):
    recipe, folders = read(name, tmp_path)
    ours = merged(recipe, folders)
    theirs = load_file(GOLDEN / "out" / name / "model.safetensors")
    models = [load_file(Path(f) / "model.safetensors") for f in folders.values()]
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        inputs = [model[key] for model in models if key in model]
        largest = max((float(t.abs().max()) for t in inputs), default=1.0)
        bound = 1e-6 if name in SPHERICAL else ELEMENTWISE * largest
        if name == "arcee_fusion":
            undecided = barely_outstanding(*(model[key] for model in models[:2]))
            expected = torch.where(undecided, ours[key], expected)
        torch.testing.assert_close(
            ours[key], expected, rtol=0, atol=bound, msg=lambda m, k=key: k + m
        )


def kept_by(operation: Operation, models: dict[str, Tensors], key: str):
    """Draw mergekit's masks, from one stream in order of execution, and thin by them.

    Returns:
        Each input's kept differences, scaled as the operation says.
    """
    knobs = resolve(operation)
    base = models[operation.base][key]
    tensors = [models[name][key] for name in operation.inputs]
    deltas = Deltas(tensors, base)
    out = []
    for index, density in enumerate(knobs.numbers("density")):
        delta = tensors[index] - base
        keep = torch.full_like(delta, density)
        if operation.operator.startswith("della"):
            keep = keep_probabilities(operation, deltas, index, delta).view_as(delta)
        mask = torch.bernoulli(keep)
        assert knobs.choice("rescale") == "l1"
        out.append(delta * mask * (delta.abs().sum() / (delta * mask).abs().sum()))
    return out


def combined(operation: Operation, kept: list[torch.Tensor]) -> torch.Tensor:
    """Combine thinned differences as the operation's knobs say, in plain arithmetic."""
    knobs = resolve(operation)
    weights = torch.tensor(knobs.numbers("weight"))
    stack = torch.stack([w * delta for w, delta in zip(weights, kept, strict=True)])
    agree = torch.ones_like(stack)
    if operation.operator in ("dare_ties", "della"):
        majority = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
        agree = (stack.sign() == majority).to(torch.float32)
    total = (stack * agree).sum(0)
    if knobs.flag("normalize"):
        shape = (-1, *[1] * (stack.dim() - 1))
        divisor = (weights.view(shape) * agree).sum(0)
        total = total / torch.where(divisor == 0, 1.0, divisor)
    return knobs.number("lambda") * total


@pytest.mark.parametrize("name", RANDOM)
def test_given_its_masks_a_file_gives_every_tensor_that_mergekit_wrote(name, tmp_path):
    recipe, folders = read(name, tmp_path)
    models = {
        Path(f).name: load_file(Path(f) / "model.safetensors") for f in folders.values()
    }
    theirs = load_file(GOLDEN / "out" / name / "model.safetensors")
    torch.manual_seed(0)
    for key in sorted(theirs):
        operation = operation_of(recipe, key)
        assert operation.operator == name
        base = models["base"][key]
        expected = base + combined(operation, kept_by(operation, models, key))
        largest = max(float(model[key].abs().max()) for model in models.values())
        torch.testing.assert_close(
            theirs[key], expected, rtol=0, atol=4 * ELEMENTWISE * largest
        )


@pytest.mark.parametrize("name", RANDOM)
def test_masks_of_ours_are_as_dense_and_as_strong_as_mergekits(name, tmp_path):
    recipe, folders = read(name, tmp_path)
    ours = merged(recipe, folders)
    theirs = load_file(GOLDEN / "out" / name / "model.safetensors")
    base = load_file(GOLDEN / "models" / "base" / "model.safetensors")
    for key, expected in theirs.items():
        n = expected.numel()
        changed = [(t[key] != base[key]).float().mean() for t in (ours, theirs)]
        # Of two masks of 0.5 and 0.7 at least one keeps an entry: 0.85, give or take.
        spread = 6 * (2 * 0.85 * 0.15 / n) ** 0.5
        assert abs(changed[0] - changed[1]) < spread + 1e-6, key
        if n >= 1024:
            sizes = [(t[key] - base[key]).abs().sum() for t in (ours, theirs)]
            assert sizes[0] / sizes[1] == pytest.approx(1.0, abs=0.15), key


@pytest.mark.parametrize("name", REFERENCES)
def test_the_default_profile_leaves_vectors_to_the_role_policies(name, tmp_path):
    identical, folders = read(name, tmp_path)
    ours, _ = read(name, tmp_path, profile="default")
    assert len(ours.slots) == len(identical.slots)
    matrix = ours.slots[0].operation("attn", "self_attn.q_proj.weight")
    vector = ours.slots[0].operation("norm", "input_layernorm.weight")
    operator = "linear" if name == "passthrough" else name
    assert matrix.operator == operator
    plain = ("linear", "task_arithmetic", "passthrough")
    is_left = vector.operator != matrix.operator
    assert is_left == (name not in plain)
    assert dict(matrix.shared).get("rescale") in (None, "none", "inverse")
    assert dict(matrix.shared).get("rounding") in (None, "safe")
    result = merged(ours, folders)
    assert all(bool(torch.isfinite(t).all()) for t in result.values())


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "passthrough"])
def test_both_profiles_agree_where_we_differ_in_nothing(name, tmp_path):
    identical, _ = read(name, tmp_path)
    ours, _ = read(name, tmp_path, profile="default")
    assert ours.digest == identical.digest


def test_what_the_file_says_counts_in_the_default_profile_too(tmp_path):
    ours, _ = read("ties", tmp_path, profile="default")
    matrix = ours.slots[3].operation("attn", "self_attn.q_proj.weight")
    assert matrix.knobs("density") == (0.5, 0.8)
    assert matrix.knobs("weight") == (0.6, 0.4)
