"""What must hold on a GPU exactly as on a CPU."""

from pathlib import Path

import pytest
import torch
from support.single_steps import single_steps

from evomerge.checkpoints import read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Operation
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.merging.operators import apply
from evomerge.scoring.engines import open_engine
from evomerge.testing.models import tiny_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "operator", ["dare_linear", "dare_ties", "della", "della_linear"]
)
def test_random_masks_are_the_same_on_both_devices(operator: str) -> None:
    rng = torch.Generator().manual_seed(1)
    base, a, b = (torch.randn(513, 257, generator=rng) for _ in range(3))
    operation = Operation(
        operator,
        ("a", "b"),
        base="base",
        each=(("density", (0.5, 0.3)), ("weight", (1.0, 0.5))),
    )
    with single_steps():
        here = apply(operation, [a, b], base, "model.layers.0.mlp.up_proj.weight")
    there = apply(
        operation,
        [a.cuda(), b.cuda()],
        base.cuda(),
        "model.layers.0.mlp.up_proj.weight",
    )
    assert torch.equal(there.cpu() == base, here == base)
    assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "operator", ["linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"]
)
def test_deterministic_operators_agree_with_the_cpu(operator: str) -> None:
    rng = torch.Generator().manual_seed(2)
    base, a, b = (torch.randn(257, 129, generator=rng) for _ in range(3))
    needs_base = operator != "linear"
    operation = Operation(
        operator,
        ("a", "b"),
        base="base" if needs_base else None,
        each=(("weight", (1.0, 0.5)),),
    )
    with single_steps():
        here = apply(operation, [a, b], base if needs_base else None, "w")
    there = apply(
        operation, [a.cuda(), b.cuda()], base.cuda() if needs_base else None, "w"
    )
    assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_swapped_model_equals_a_cold_loaded_one(
    tied: bool, dtype: str, tmp_path: Path
) -> None:
    folders = [
        tiny_model(tmp_path / name, tied=tied, dtype=dtype, seed=seed)
        for seed, name in enumerate("ab")
    ]
    a, b = (read_model(folder) for folder in folders)
    engine = open_engine(
        WorkerSetup(
            engine=EngineSettings("hf", dtype),
            tasks=(),
            sources={m.fingerprint: str(m.path) for m in (a, b)},
            frame=a.fingerprint,
            probe=b.fingerprint,
            cache_dir=str(tmp_path / "cache"),
        )
    )
    try:
        test = engine.self_test()
        assert (test.probe_difference, test.return_difference) == (0.0, 0.0)
        report = engine.swap(passthrough("b", b.fingerprint, b.n_layers, dtype))
        assert report.size_bytes > 0
    finally:
        engine.close()
