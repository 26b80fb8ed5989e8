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

from evomerge.core.recipe import Operation
from evomerge.merging.operators import apply

GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit"
N_LAYERS = 4
ELEMENTWISE = 2 * 2.0**-23

OTHER_DEFAULTS = {"karcher": (("max_iter", 10), ("tol", 1e-5))}
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
    return Operation(method, names, base_name, tuple(shared), tuple(each))


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        ("linear", ELEMENTWISE),
        ("task_arithmetic", ELEMENTWISE),
        ("ties", ELEMENTWISE),
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
        torch.testing.assert_close(
            merged,
            expected,
            rtol=0,
            atol=tolerance * largest,
            msg=lambda m, k=key: k + m,
        )
