"""What a merge that cannot be carried out gets: a message, code 2, and no folder.

Own recipes and mergekit files alike, through the command a user types.
"""

import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import tiny_adapter
from support.study_files import NAMES, without_lines

from evomerge.merging import memory
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model

WEIGHTS = "model.safetensors"
NORM = "model.norm.weight"
QUERIES = "model.layers.1.self_attn.q_proj.weight"

Refused = Callable[..., str]
Recipe = dict[str, Any]


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """A copy of the models ``base``, ``math`` and ``ja`` that a test may spoil."""
    return shutil.copytree(models, tmp_path / "own")


@pytest.fixture
def assert_refused(call, here: Path) -> Refused:
    """Give a recipe to merge; it must be refused, in these words, and leave nothing."""

    def assert_refused(
        recipe: Recipe, *told: str, options: tuple[str, ...] = ()
    ) -> str:
        (here / "bad.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        ended = call("merge", "bad.yaml", "out", *options)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert ended.err.startswith("Error: ")
        for word in told:
            assert word in without_lines(ended.err), ended.err
        # Neither a folder nor a hidden part of one.
        assert [entry.name for entry in here.iterdir()] == ["bad.yaml"]
        return ended.err

    return assert_refused


def ours(folder: Path, operator: str = "task_arithmetic", **changes: Any) -> Recipe:
    """Return a recipe of our own over the three models."""
    recipe = {
        "sources": {name: str(folder / name) for name in NAMES},
        "operator": operator,
        "base": "base",
    }
    changed = {**recipe, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def theirs(folder: Path, method: str = "task_arithmetic", **changes: Any) -> Recipe:
    """Return a mergekit file over the three models."""
    recipe = {
        "merge_method": method,
        "base_model": str(folder / "base"),
        "models": [
            {"model": str(folder / name), "parameters": {"weight": 0.5}}
            for name in NAMES[1:]
        ],
        "dtype": "float32",
    }
    return {**recipe, **changes}


FORMS = pytest.mark.parametrize("form", [ours, theirs])
Form = Callable[..., Recipe]


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights of a model."""
    weights = {n: t.clone() for n, t in load_file(folder / WEIGHTS).items()}
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


# Files that are damaged


@FORMS
def test_a_truncated_shard_is_named(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    file = own / "math" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(form(own), str(file), "truncated", "Download it again")


@FORMS
def test_a_corrupt_shard_is_named(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    file = own / "math" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)
    assert_refused(form(own), str(file), "corrupt", "Download it again")


@FORMS
def test_an_empty_shard_is_named(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    file = own / "math" / WEIGHTS
    file.write_bytes(b"")
    assert_refused(form(own), str(file), "too short", "Download it again")


def sharded(folder: Path) -> dict[str, str]:
    """Cut a model's weights into two files with an index; return the index's map."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for i, (name, tensor) in enumerate(sorted(weights.items())):
        part = parts.setdefault(f"model-0000{i % 2 + 1}-of-00002.safetensors", {})
        part[name] = tensor.clone()
    for name, part in parts.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    places = {tensor: name for name, part in parts.items() for tensor in part}
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return places


@FORMS
def test_one_damaged_shard_of_several_is_named(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    file = own / "math" / sorted(set(sharded(own / "math").values()))[1]
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused(form(own), str(file), "truncated")
    file.unlink()
    assert_refused(form(own), file.name, "is missing", "Download it again")


# Models that do not fit


@FORMS
@pytest.mark.parametrize("name", [QUERIES, NORM, "model.embed_tokens.weight"])
def test_a_missing_tensor_is_named(
    assert_refused: Refused, own: Path, form: Form, name: str
) -> None:
    edit(own / "math", lambda weights: weights.__delitem__(name))
    assert_refused(form(own), "math", name)


@FORMS
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.layers.1.self_attn.rotor.weight", "self_attn.rotor.weight"),
        ("model.layers.2.norm.weight", "layers [2]"),
    ],
)
def test_an_extra_tensor_is_named(
    assert_refused: Refused, own: Path, form: Form, name: str, told: str
) -> None:
    edit(own / "math", lambda weights: weights.update({name: torch.ones(32)}))
    assert_refused(form(own), "math", told)


@pytest.mark.parametrize(
    ("size", "told", "told_of_mergekit"),
    [
        (
            {"hidden": 64, "n_layers": 2},
            ("hidden size 64", "32"),
            ("[64]", "[32]", "Merge models of one shape"),
        ),
        (
            {"n_layers": 3},
            ("number of layers 3", "2"),
            ("math: 3", "base: 2", "Say which layers"),
        ),
        (
            {"vocab": 300, "n_layers": 2},
            ("vocabulary size 300", "288"),
            ("[300, 32]", "[288, 32]", "tokenizer section"),
        ),
    ],
    ids=["width", "layers", "vocabulary"],
)
def test_models_of_different_sizes_are_refused_with_both(
    assert_refused: Refused,
    own: Path,
    size: dict[str, int],
    told: tuple[str, ...],
    told_of_mergekit: tuple[str, ...],
) -> None:
    shutil.rmtree(own / "math")
    tiny_model(own / "math", **size)  # type: ignore[arg-type]
    assert_refused(ours(own), "math", *told)
    assert_refused(theirs(own), "math", *told_of_mergekit)


@FORMS
def test_a_tensor_of_another_shape_is_named_with_both_shapes(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights[QUERIES] = torch.cat([weights[QUERIES]] * 2)

    edit(own / "math", widen)
    assert_refused(form(own), "math", QUERIES, "[64, 32]")


@FORMS
def test_layers_of_different_types_are_refused(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    for name, kinds in (("base", "full"), ("math", "sliding")):
        file = own / name / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["layer_types"] = ["full_attention", f"{kinds}_attention"]
        file.write_text(json.dumps(config | {"sliding_window": 16}), encoding="utf-8")
    assert_refused(form(own), "math", "layer 1", "sliding", "full")


# Numbers that are none


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("form", "operator"),
    [
        (form, operator)
        for form, operators in (
            (ours, ("task_arithmetic", "ties", "magmax", "multislerp", "tsv")),
            (theirs, ("task_arithmetic", "ties", "della", "breadcrumbs")),
        )
        for operator in operators
    ],
)
@pytest.mark.parametrize("name", ["base", "math"])
def test_a_weight_that_is_no_number_is_named_with_its_source(
    assert_refused: Refused, own: Path, form: Form, operator: str, name: str, bad: float
) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights[QUERIES][3, 4] = bad

    edit(own / name, spoil)
    told = (QUERIES, "not finite", f"{own / name} holds NaN", "Repair")
    said = assert_refused(form(own, operator), *told)
    for other in set(NAMES) - {name}:
        assert str(own / other) not in said


def test_a_number_that_is_none_in_an_adapter_is_named(
    assert_refused: Refused, own: Path
) -> None:
    folder = tiny_adapter(own / "lora", own / "base")
    file = folder / "adapter_model.safetensors"
    weights = {n: t.clone() for n, t in load_file(file).items()}
    name = sorted(weights)[0]
    weights[name][0, 0] = math.nan
    save_file(weights, file)
    sources = {"base": str(own / "base"), "math": f"{own / 'base'}+{folder}"}
    assert_refused(ours(own, sources=sources), str(folder), name, "NaN or infinity")


def test_a_merge_too_large_for_its_type_is_named(
    assert_refused: Refused, own: Path
) -> None:
    knobs = {"weight": 1e9}
    said = assert_refused(
        ours(own, knobs=knobs, dtype="float16"), "too large for float16"
    )
    assert "Repair" not in said  # no source is at fault


# Knobs out of their ranges


@pytest.mark.parametrize(
    ("operator", "knobs", "told"),
    [
        ("ties", {"density": 1.5}, ("knobs.density", "at most 1", "1.5")),
        ("ties", {"density": {"math": -0.1}}, ("density", "math", "at least 0")),
        ("dare_ties", {"density": 0.0}, ("knobs.density", "at least", "0")),
        ("della", {"eps_frac": 1.5}, ("knobs.eps_frac", "at most 0.99", "1.5")),
        ("della", {"density": 0.5, "epsilon": 0.6}, ("epsilon", "0.6")),
        ("breadcrumbs", {"gamma": -1}, ("knobs.gamma", "at least 0")),
    ],
)
def test_a_knob_out_of_its_range_is_told_with_the_range(
    assert_refused: Refused,
    models: Path,
    operator: str,
    knobs: Any,
    told: tuple[str, ...],
) -> None:
    assert_refused(ours(models, operator, knobs=knobs), "bad.yaml", *told)


@pytest.mark.parametrize(
    ("method", "knobs", "told"),
    [
        ("ties", {"density": 1.5}, ("density", "1.5", "at most 1")),
        ("dare_ties", {"density": -0.5}, ("density", "-0.5", "at least")),
        ("della", {"density": 0.5, "epsilon": 0.6}, ("epsilon", "0.6")),
        ("della_linear", {"density": 0.5, "epsilon": 1.5}, ("epsilon", "1.5")),
        ("breadcrumbs", {"density": 0.5, "gamma": 2.0}, ("gamma", "2.0")),
    ],
)
def test_a_knob_of_mergekit_out_of_its_range_is_told(
    assert_refused: Refused,
    models: Path,
    method: str,
    knobs: Any,
    told: tuple[str, ...],
) -> None:
    assert_refused(theirs(models, method, parameters=knobs), "bad.yaml", *told)


@FORMS
def test_opposite_inputs_have_no_karcher_mean(
    assert_refused: Refused, own: Path, form: Form
) -> None:
    shutil.rmtree(own / "math")
    shutil.copytree(own / "ja", own / "math")

    def turn(weights: dict[str, torch.Tensor]) -> None:
        weights[QUERIES].neg_()

    edit(own / "math", turn)
    recipe = form(own, "karcher", base=None)
    if form is theirs:
        models = [{"model": str(own / name)} for name in NAMES[1:]]
        recipe = {"merge_method": "karcher", "models": models}
    assert_refused(recipe, QUERIES, "'math'", "'ja'", "opposite")


# Layers outside the model


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ({"slices": [{"source": "math", "layers": [0, 3]}]}, ("layers 0 to 1", "2")),
        ({"slices": [{"source": "math", "layers": [1, 1]}]}, ("math", "empty")),
        ({"slices": [{"source": "math", "layers": [-1, 1]}]}, ("slices.0", "-1")),
        ({"upscale": {"source": "math", "n": 5, "overlap": 1}}, ("0 to 1", "math")),
        ({"upscale": {"source": "math", "overlap": 2}}, ("overlap",)),
        ({"shuffle": {"donors": {"math": 1, "ja": 1}, "points": [7]}}, ("7",)),
    ],
)
def test_layers_that_a_stack_cannot_have_are_told(
    assert_refused: Refused, models: Path, stack: Any, told: tuple[str, ...]
) -> None:
    sources = {name: str(models / name) for name in NAMES}
    assert_refused({"sources": sources, "stack": stack}, "bad.yaml: stack", *told)


@pytest.mark.parametrize("layers", [[0, 3], [2, 4], [1, 1], [-1, 1], [1, 0]], ids=str)
@pytest.mark.parametrize("method", ["passthrough", "linear"])
def test_layers_that_a_slice_of_mergekit_cannot_have_are_told(
    assert_refused: Refused, models: Path, method: str, layers: list[int]
) -> None:
    parts = [
        {
            "model": str(models / name),
            "layer_range": layers,
            "parameters": {"weight": 0.5},
        }
        for name in (NAMES[1:] if method == "linear" else NAMES[1:2])
    ]
    recipe = {
        "merge_method": method,
        "slices": [{"sources": parts}],
        "dtype": "float32",
    }
    assert_refused(recipe, "bad.yaml: slices.0", "layer_range")


def test_a_recipe_of_a_layer_that_is_not_there_is_refused(
    call, assert_refused: Refused, here: Path, models: Path
) -> None:
    (here / "good.yaml").write_text(json.dumps(ours(models)), encoding="utf-8")
    assert call("merge", "good.yaml", "good").code == 0
    recipe = json.loads((here / "good" / "recipe.json").read_text(encoding="utf-8"))
    shutil.rmtree(here / "good")
    (here / "good.yaml").unlink()
    recipe["slots"][1]["layers"]["math"] = 2
    recipe["paths"] = {name: str(models / name) for name in NAMES}
    assert_refused(recipe, "slots.1.layers.math", "0 to 1, got 2")


# Adapters


@pytest.mark.parametrize("form", ["own", "mergekit"])
@pytest.mark.parametrize(
    ("size", "told"),
    [({"hidden": 64, "n_layers": 2}, "shape"), ({"n_layers": 3}, "layers.2")],
    ids=["width", "layers"],
)
def test_an_adapter_for_another_base_is_refused(
    assert_refused: Refused, own: Path, form: str, size: dict[str, int], told: str
) -> None:
    other = tiny_model(own / "other", **size)  # type: ignore[arg-type]
    lora = tiny_adapter(own / "lora", other)
    written = f"{own / 'base'}+{lora}"
    recipe = ours(own, sources={"base": str(own / "base"), "math": written})
    if form == "mergekit":
        recipe = theirs(own, models=[{"model": written, "parameters": {"weight": 1}}])
    assert_refused(recipe, str(lora), told, "another base")


# What the machine lacks


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 100 kB: to a writer, a disk that takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@FORMS
def test_too_small_a_disk_is_told_before_anything_is_written(
    assert_refused: Refused, models: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(models)._replace(free=1_050_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert_refused(
        form(models), "No disk space for out", "1.1 MB are free", "another disk"
    )


@FORMS
@pytest.mark.usefixtures("small_files")
def test_a_disk_that_becomes_full_leaves_nothing(
    assert_refused: Refused, models: Path, form: Form
) -> None:
    assert_refused(form(models), "became full", "is removed", "another disk")


@FORMS
@pytest.mark.parametrize("options", [("--memory", "0.01"), ()], ids=["limit", "free"])
def test_too_little_memory_is_told_before_anything_is_written(
    assert_refused: Refused,
    models: Path,
    form: Form,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    told = ("Not enough memory", "0.27 GB", "0.01 GB", "--memory")
    assert_refused(form(models), *told, options=options)


@FORMS
def test_memory_that_runs_out_during_a_merge_leaves_nothing(
    assert_refused: Refused, models: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(1 << 60, dtype=dtype)

    monkeypatch.setattr(Sources, "space", too_much)
    assert_refused(form(models), "Memory ran out", "is removed", "Free some memory")


def test_what_is_there_already_is_not_overwritten(
    call, here: Path, models: Path
) -> None:
    (here / "good.yaml").write_text(json.dumps(ours(models)), encoding="utf-8")
    (here / "out").mkdir()
    (here / "out" / "precious").write_text("mine")
    ended = call("merge", "good.yaml", "out")
    assert ended.code == 2
    assert "exists already" in ended.err
    assert [file.name for file in (here / "out").iterdir()] == ["precious"]
    assert {file.name for file in here.iterdir()} == {"good.yaml", "out"}
