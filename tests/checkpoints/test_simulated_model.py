"""Made-up models: a study of made-up tasks runs where there is no model at all."""

from pathlib import Path

import pytest
import yaml

from evomerge.checkpoints import compatibility, read_model
from evomerge.checkpoints.simulated_model import simulated_folder
from evomerge.errors import CheckpointError
from evomerge.specs.sources import open_source, whereabouts

STUDY = Path(__file__).parents[2] / "search_spaces" / "simulated.yaml"


def test_made_up_models_are_ordinary_ones_that_fit_each_other(tmp_path: Path) -> None:
    models = {
        name: open_source(f"simulated:{name}/6", tmp_path, cache_dir=tmp_path)
        for name in ("base", "math")
    }
    assert compatibility(models) == []
    assert {model.n_layers for model in models.values()} == {6}
    assert len({model.fingerprint for model in models.values()}) == 2
    assert whereabouts(models["base"]) == "simulated:base/6"


def test_equal_names_give_equal_bytes_in_every_cache(tmp_path: Path) -> None:
    prints = [
        read_model(simulated_folder("simulated:base", tmp_path / where)).fingerprint
        for where in "ab"
    ]
    # Recorded with studies, so it must not change from version to version.
    assert prints == ["fb5f4dfbd90b4ff64082415fae421ac7"] * 2


def test_transformers_loads_a_made_up_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = simulated_folder("simulated:base/2", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Größe", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "Größe"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model(ids).logits.isfinite().all()


@pytest.mark.parametrize("written", ["simulated:", "simulated:a/b", "simulated:a/0"])
def test_what_is_no_name_is_refused_with_the_form(written: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected simulated:NAME"):
        simulated_folder(written, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_dry_run_names_no_model_that_somebody_must_have() -> None:
    study = yaml.safe_load(STUDY.read_text())
    assert all(s.startswith("simulated:") for s in study["sources"].values())
    assert {task["task"] for task in study["tasks"].values()} == {"simulated"}
    assert study["engine"] == {"kind": "simulated"}
