"""Two adapters of one base, from hub and folder: searched, resumed and exported."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.adapters import tiny_adapter
from support.arc import REPO, write_arc
from support.commands import Commands
from support.hub import LoopbackHub
from support.study_files import write_study

from evomerge.testing.models import tiny_model

pytestmark = pytest.mark.slow


def test_adapters_are_searched_resumed_and_exported(
    hub: LoopbackHub, commands: Commands, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base", n_layers=2)
    local = tiny_adapter(tmp_path / "ja-lora", base, seed=1, lora_alpha=40)
    hub.commit("tiny/base", base)
    lora = tiny_adapter(tmp_path / "lora", base, lora_alpha=40)
    hub.commit("tiny/math-lora", lora)
    hub.commit(REPO, write_arc(tmp_path / "arc", 24), kind="datasets")
    study = {
        "sources": {
            "math": "tiny/base@main+tiny/math-lora",
            "ja": f"tiny/base+./{local.name}",
        },
        "space": {
            "operator": "rewarded_soups",
            "knobs": {"mu": "search", "lora_space": "factors"},
        },
        "tasks": {"arc": {"task": "arc_easy", "metric": "acc_norm"}},
        "strategy": {"kind": "random", "generation_size": 2},
        "engine": {"kind": "hf"},
        "workers": 1,
        "budget": {"trials": 2},
    }
    write_study(tmp_path / "arc.yaml", study)
    commands.call(tmp_path, "run", "arc.yaml", "--in-process")
    rows = json.loads(commands.call(tmp_path, "trials", "arc", "--json"))
    assert [row["state"] for row in rows] == ["scored"] * 5
    commands.call(tmp_path, "resume", "arc", "--trials", 3, "--in-process")
    commands.call(tmp_path, "export", "arc", "out", "--trial", 0, "--no-score")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"tiny/base + local folder {local}" in card  # the parent that trial 0 is
    assert "math-lora" not in card
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    (source,) = recipe["inputs"].values()
    assert source.keys() == {"checkpoint", "adapter"}
    stored = load_file(base / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in stored if not stored[name].equal(found[name])}
    assert changed == {n for n in stored if "q_proj" in n or "down_proj" in n}
