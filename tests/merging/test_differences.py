"""How models differ from their base: sums by hand, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.api import compare
from evomerge.checkpoints import read_model
from evomerge.errors import SpecError
from evomerge.merging.differences import Differences, Sums, differences, verdict
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


def changed(base: Path, out: Path, change: dict[str, torch.Tensor]) -> Path:
    """Write a model that is its base but for what is added to some tensors."""
    tiny_model(out, seed=1)
    tensors = load_file(base / "model.safetensors")
    for name, more in change.items():
        tensors[name] = tensors[name] + more
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


UP = "model.layers.1.mlp.up_proj.weight"
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base", seed=1)


def found(base: Path, *models: Path, most: int | None = None) -> Differences:
    first, *others = (read_model(path) for path in (base, *models))
    folders = {model.fingerprint: str(model.path) for model in (first, *others)}
    with Sources(folders) as sources:
        named = {model.path.name: model for model in others}
        return differences(first, named, sources, most=most)


def test_norms_cosines_zeros_and_signs_are_those_of_every_entry(
    base: Path, tmp_path: Path
) -> None:
    rng = torch.Generator().manual_seed(0)
    shape = load_file(base / "model.safetensors")[UP].shape
    one, other = (torch.randn(shape, generator=rng) for _ in range(2))
    one[0] = 0.0
    a = changed(base, tmp_path / "a", {UP: one})
    b = changed(base, tmp_path / "b", {UP: other})
    tensors = [load_file(p / "model.safetensors")[UP].double() for p in (base, a, b)]
    da, db = (tensor - tensors[0] for tensor in tensors[1:])
    sums = found(base, a, b).by_place["layer 1", "mlp"]
    assert sums.norm(0) == pytest.approx(da.norm().item(), rel=1e-6)
    assert sums.cosine(0, 1) == pytest.approx(
        (da * db).sum().item() / (da.norm() * db.norm()).item(), rel=1e-6
    )
    both = (da != 0) & (db != 0)
    assert sums.both[0, 1] == both.sum()
    assert sums.alike[0, 1] == (both & (da.sign() == db.sign())).sum()
    assert sums.zeros[0] >= shape[1]
    assert sums.agreement(0, 1) == pytest.approx(0.5, abs=0.05)


def test_a_change_is_told_where_it_is(base: Path, tmp_path: Path) -> None:
    a = changed(base, tmp_path / "a", {Q: torch.tensor(0.1)})
    by_place = found(base, a).by_place
    assert [place for place, sums in by_place.items() if sums.norm(0)] == [
        ("layer 0", "attn")
    ]
    assert by_place["layer 1", "attn"].sparsity(0) == 1.0
    assert by_place["layer 1", "attn"].cosine(0, 0) is None


def test_a_sample_of_many_entries_tells_about_the_same(
    base: Path, tmp_path: Path
) -> None:
    rng = torch.Generator().manual_seed(0)
    shape = load_file(base / "model.safetensors")[UP].shape
    more = torch.randn(shape, generator=rng)
    a = changed(base, tmp_path / "a", {UP: more})
    b = changed(base, tmp_path / "b", {UP: -more})
    part = found(base, a, b, most=512).by_place["layer 1", "mlp"]
    whole = found(base, a, b).by_place["layer 1", "mlp"]
    assert 0 < part.n < whole.n
    assert part.cosine(0, 1) == pytest.approx(-1.0, rel=1e-6)
    assert whole.relative(0) is not None


def sums(products: list[list[float]]) -> Differences:
    n = len(products)
    ones = np.ones((n, n))
    total = Sums(9, 1.0, np.array(products), np.zeros(n), ones, ones)
    return Differences(tuple("abc"[:n]), {("layer 0", "mlp"): total})


@pytest.mark.parametrize(
    ("products", "said"),
    [
        ([[1.0, 0.01], [0.01, 1.0]], "orthogonal"),
        ([[1.0, 0.99], [0.99, 1.0]], "nearly one"),
        ([[1.0, -0.5], [-0.5, 1.0]], "undo each other"),
        ([[1.0, 0.5], [0.5, 1.0]], "share a part"),
        ([[1.0, 0.0], [0.0, 0.0]], "no difference from the base was found in b"),
    ],
)
def test_the_verdict_follows_the_cosines(
    products: list[list[float]], said: str
) -> None:
    assert said in (verdict(sums(products)) or "")


def test_of_one_model_or_of_nothing_there_is_no_verdict() -> None:
    assert verdict(sums([[1.0]])) is None
    assert verdict(Differences(("a", "b"), {})) is None


def test_models_that_do_not_fit_are_told_why_and_no_more(
    base: Path, tmp_path: Path
) -> None:
    deep = tiny_model(tmp_path / "deep", seed=5, n_layers=6)
    said = compare(str(base), [str(deep)])
    assert "layers" in said.problems[0]
    assert said.models == ()
    with pytest.raises(SpecError, match="each model once"):
        compare(str(base), [str(base)])
