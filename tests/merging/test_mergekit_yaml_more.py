"""Gradients, filters, precedence, slices and every parameter, against mergekit 0.1.5.

``tests/golden/mergekit_more`` holds tiny random models, merge files, and what mergekit
made of them with ``mergekit-yaml FILE OUT --random-seed 0``.
"""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.operator_checks import barely_outstanding

from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe

GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit_more"
FILES = sorted((GOLDEN / "yaml").glob("*.yml"))
SPHERICAL = ("slerp", "nuslerp", "multislerp", "karcher")
ELEMENTWISE = 2 * 2.0**-23
WITH_A_POLE = 8
"""Model Stock's factor has a pole, near which rounding grows."""


def bound(method: str, dtype: torch.dtype, stored: set[torch.dtype], largest: float):
    """How far a tensor may be from mergekit's."""
    if dtype != torch.float32 or torch.bfloat16 in stored:
        return 2.0**-7 * largest  # one rounding to bfloat16, which mergekit does early
    if method in SPHERICAL:
        return 1e-6
    return ELEMENTWISE * largest * (WITH_A_POLE if method == "model_stock" else 1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_gives_what_mergekit_gave(file):
    recipe, folders = load_recipe(file)
    with Sources(folders) as sources:
        ours = dict(materialise(recipe, sources))
    theirs = load_file(GOLDEN / "out" / f"{file.stem}.safetensors")
    models = [load_file(Path(f) / "model.safetensors") for f in folders.values()]
    stored = {tensor.dtype for model in models for tensor in model.values()}
    method = yaml.safe_load(file.read_text(encoding="utf-8"))["merge_method"]
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert ours[key].dtype == expected.dtype
        suffix = key.partition("layers.")[2].partition(".")[2] or key
        inputs = [t for m in models for k, t in m.items() if k.endswith(suffix)]
        largest = max(float(tensor.abs().max()) for tensor in inputs)
        if method == "arcee_fusion":
            undecided = barely_outstanding(*(model[key] for model in models[:2]))
            expected = torch.where(undecided, ours[key], expected)
        torch.testing.assert_close(
            ours[key].to(torch.float32),
            expected.to(torch.float32),
            rtol=0,
            atol=bound(method, expected.dtype, stored, largest),
            msg=lambda m, k=key: k + m,
        )


def test_there_are_results_for_all_files():
    stems = {path.stem for path in (GOLDEN / "out").iterdir()}
    assert stems == {file.stem for file in FILES}
    assert len(stems) >= 80
