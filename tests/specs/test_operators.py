"""Every operator of the catalogue can be searched as it stands there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.adapters import tiny_adapter

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.settings import resolve
from evomerge.errors import SpecError
from evomerge.specs.studies.study_file import read_study


def measured(file: Path, folder: str) -> str:
    """Write statistics of a model: its own weights, squared."""
    weights = load_file(Path(folder) / "model.safetensors")
    save_file({name: one.square() for name, one in weights.items()}, file)
    return str(file)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_knob_of_every_operator_can_be_searched(
    name: str, minimal: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    operator = CATALOGUE[name]
    spare = operator.either[1] if operator.either else None
    knobs = [k.name for k in operator.knobs if k.searchable and k.name != spare]
    space: dict[str, Any] = {
        "operator": name,
        "experts": ["math", "ja"][: operator.n_inputs],
        "knobs": dict.fromkeys(knobs, "search"),
    }
    used = space["experts"]
    if operator.needs_base:
        space["base"] = "base"
    sources = dict(minimal["sources"])
    if operator.factors_with == ():
        base = sources["base"]
        for one in ("math", "ja"):
            sources[one] = f"{base}+{tiny_adapter(tmp_path / one, base)}"
    if operator.statistics:
        minimal["statistics"] = {
            kind: {n: measured(tmp_path / f"{n}.safetensors", sources[n]) for n in used}
            for kind in operator.statistics
        }
    changes = {"space": space, "sources": sources, "strategy": {"kind": "tpe"}}
    study = read_study(write(minimal | changes))
    assert {axis.name.split(".")[0] for axis in study.space.axes} == set(knobs)
    for seed in range(5):
        point = study.space.random(np.random.default_rng(seed))
        recipe = study.blueprint.recipe(point)
        for _, slot in recipe.places():
            for _, operation in slot.roles:
                resolve(operation)


def test_the_absolute_spread_of_della_may_be_written_instead_of_its_part(
    minimal: dict[str, Any], write: Callable[..., Path]
) -> None:
    knobs: dict[str, Any] = {"epsilon": 0.1, "weight": "search"}
    minimal["space"] |= {"operator": "della", "knobs": knobs}
    study = read_study(write(minimal))
    recipe = study.blueprint.recipe(study.space.start())
    written = dict(recipe.slots[0].operation("attn").each)
    assert written["epsilon"] == (0.1, 0.1)
    assert "eps_frac" not in written
    knobs["eps_frac"] = 0.5
    with pytest.raises(SpecError, match="expected eps_frac or epsilon for 'della'"):
        read_study(write(minimal))


def test_a_model_stock_of_one_is_refused(
    minimal: dict[str, Any], write: Callable[..., Path]
) -> None:
    knobs = {"t_scale": "search"}
    minimal["space"] |= {"operator": "model_stock", "experts": ["ja"], "knobs": knobs}
    with pytest.raises(SpecError, match="expected at least two for 'model_stock'"):
        read_study(write(minimal))
