"""Our operators against what mergekit 0.1.5 wrote, tensor by tensor.

``tests/golden/mergekit`` holds four random Llama models of four layers, the merge
files, and mergekit's results, all in fp32. Norms go through the operator itself, as
mergekit does it.
"""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.operator_checks import barely_outstanding
from support.thinning import keep_probabilities, masked

from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.merging.operators import apply
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.linear import summed
from evomerge.merging.operators.sums.ties import elected
from evomerge.merging.operators.thresholds.sparsify import keep_l1

GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit"
N_LAYERS = 4
ELEMENTWISE = 2 * 2.0**-23

OTHER_DEFAULTS = {
    "karcher": (("max_iter", 10), ("tol", 1e-5)),
    "ties": (("rounding", "int"),),
    "breadcrumbs": (("lambda", 1.0), ("rounding", "int")),
    "breadcrumbs_ties": (("lambda", 1.0), ("rounding", "int")),
    "model_stock": (("clamp", False),),
    "sce": (("select_topk", 1.0), ("mask_scope", "all"), ("rounding", "int")),
    "dare_linear": (("rescale", "l1"),),
    "dare_ties": (("rescale", "l1"),),
    "della": (("rescale", "l1"),),
    "della_linear": (("rescale", "l1"),),
}
"""What mergekit means where it says nothing, if we mean something else."""


def load(path):
    return load_file(GOLDEN / path / "model.safetensors")


def depth_of(key):
    parts = key.split(".")
    if "layers" in parts:
        return int(parts[parts.index("layers") + 1]) / (N_LAYERS - 1)
    return 0.0  # mergekit gives embedding, final norm and head the first value


def setting(value, key):
    """Read a mergekit setting for one tensor: filters first, then the gradient."""
    if isinstance(value, list) and isinstance(value[0], dict):
        chosen = next(v for v in value if v.get("filter", "") in key)
        return setting(chosen["value"], key)
    if not isinstance(value, list):
        return value
    position = depth_of(key) * (len(value) - 1)
    low = min(int(position), len(value) - 2)
    return value[low] + (position - low) * (value[low + 1] - value[low])


def operation_for(config, key):
    base = config.get("base_model")
    method = config["merge_method"]
    models = [m for m in config["models"] if method == "slerp" or m["model"] != base]
    names = tuple(Path(m["model"]).name for m in models)
    each = [
        (knob, tuple(float(setting(m["parameters"][knob], key)) for m in models))
        for knob in models[0].get("parameters", {})
    ]
    shared = [
        (knob, setting(value, key))
        for knob, value in config.get("parameters", {}).items()
        if knob != "int8_mask"
    ]
    uses_base = base is not None and method != "slerp"
    base_name = Path(base).name if uses_base else None
    shared += OTHER_DEFAULTS.get(method, ())
    if method.startswith("della"):
        each.append(("epsilon", (0.15,) * len(names)))
    return Operation(method, names, base_name, tuple(shared), tuple(each))


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        ("linear", ELEMENTWISE),
        ("task_arithmetic", ELEMENTWISE),
        ("ties", ELEMENTWISE),
        ("breadcrumbs", ELEMENTWISE),
        ("breadcrumbs_ties", ELEMENTWISE),
        ("model_stock", ELEMENTWISE),
        ("sce", ELEMENTWISE),
        ("ram", ELEMENTWISE),
        ("ramplus_tl", ELEMENTWISE),
        ("arcee_fusion", ELEMENTWISE),
        ("nearswap", ELEMENTWISE),
        ("slerp", 1e-6),
        ("nuslerp", 1e-6),
        ("multislerp", 1e-6),
        ("karcher", 1e-6),
    ],
)
def test_every_tensor_equals_what_mergekit_wrote(method, tolerance):
    config = yaml.safe_load((GOLDEN / "yaml" / f"{method}.yml").read_text())
    models = {name: load(f"models/{name}") for name in ("base", "m1", "m2", "m3")}
    reference = load(f"out/{method}")
    assert len(reference) == 39
    for key, expected in reference.items():
        operation = operation_for(config, key)
        tensors = [models[name][key] for name in operation.inputs]
        base = None if operation.base is None else models[operation.base][key]
        merged = apply(operation, tensors, base, key)
        largest = max(float(tensor.abs().max()) for tensor in tensors)
        if method == "arcee_fusion":
            undecided = barely_outstanding(base, tensors[0])
            expected = torch.where(undecided, merged, expected)
        torch.testing.assert_close(
            merged,
            expected,
            rtol=0,
            atol=tolerance * largest,
            msg=lambda m, k=key: k + m,
        )


def drawn(density, deltas, index, operation):
    """Draw a mask as mergekit does: from one global stream, in order of execution."""
    delta = deltas.read(
        index, slice(0, deltas.n), deltas.base(slice(0, deltas.n)), deltas.scratch()
    )
    if operation.operator.startswith("della"):
        keep = keep_probabilities(operation, deltas, index, delta)
    else:
        keep = torch.full_like(delta, density)
    return torch.bernoulli(keep)


@pytest.mark.parametrize(
    "method", ["dare_linear", "dare_ties", "della", "della_linear"]
)
def test_given_its_random_masks_every_tensor_equals_what_mergekit_wrote(method):
    config = yaml.safe_load((GOLDEN / "yaml" / f"{method}.yml").read_text())
    models = {name: load(f"models/{name}") for name in ("base", "m1", "m2")}
    reference = load(f"out/{method}")
    torch.manual_seed(0)
    for key in sorted(reference):
        operation = operation_for(config, key)
        knobs = resolve(operation)
        tensors = [models[name][key] for name in operation.inputs]
        base = models["base"][key]
        deltas = Deltas(tensors, base)
        masks = [
            drawn(density, deltas, index, operation)
            for index, density in enumerate(knobs.numbers("density"))
        ]

        thin = keep_l1(deltas, [masked(mask) for mask in masks])
        if method.endswith("linear"):
            form = summed(knobs, thin)
        else:
            assert knobs.flag("normalize") == (method == "della")
            form = elected(knobs, thin)._replace(scale=1.0)
        merged = LazyMerge(deltas, form, key).fresh()
        largest = max(float(tensor.abs().max()) for tensor in tensors)
        torch.testing.assert_close(
            merged, reference[key], rtol=0, atol=ELEMENTWISE * largest
        )


@pytest.mark.parametrize(
    "method", ["dare_linear", "dare_ties", "della", "della_linear"]
)
def test_as_many_entries_are_kept_as_mergekit_keeps(method):
    config = yaml.safe_load((GOLDEN / "yaml" / f"{method}.yml").read_text())
    models = {name: load(f"models/{name}") for name in ("base", "m1", "m2")}
    reference = load(f"out/{method}")
    theirs = ours = entries = 0
    for key, expected in reference.items():
        operation = operation_for(config, key)
        base = models["base"][key]
        merged = apply(operation, [models["m1"][key], models["m2"][key]], base, key)
        theirs += int((expected != base).sum())
        ours += int((merged != base).sum())
        entries += base.numel()
    assert entries == 45_344
    # Of two masks of 0.5 and 0.7 at least one keeps an entry: 0.85, give or take.
    assert abs(ours - theirs) < 6 * (2 * 0.85 * 0.15 * entries) ** 0.5
