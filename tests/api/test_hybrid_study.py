"""A hybrid that sees and predicts further tokens: searched and exported."""

import json
from pathlib import Path

import pytest
import torch
from architectures.built import IMAGE_TEXT, N_LAYERS, build
from architectures.table import stored
from safetensors.torch import load_file, save_file
from support.commands import Commands
from support.real_study import SUMS_TASK
from support.study_files import write_study

from evomerge import api
from evomerge.checkpoints.documents import read_json
from evomerge.testing.models import write_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("base", "a", "b")


def write_parents(folder: Path) -> None:
    """Write three models like Qwen3.5: recurrent layers, full attention, a tower."""
    image = {"image_token_id": 290, "video_token_id": 291}
    ends = {"vision_start_token_id": 292, "vision_end_token_id": 293}
    text = {"vocab_size": 300}
    build(folder, IMAGE_TEXT, "qwen3_5", text_config=text, **image, **ends)
    for seed, name in enumerate(NAMES):
        write_tokenizer(folder / name, 288)
        file = folder / name / "model.safetensors"
        tensors = load_file(file)
        random = torch.Generator().manual_seed(seed)
        tensors |= {
            "mtp.fc.weight": torch.randn(32, 64, generator=random),
            "mtp.norm.weight": torch.randn(32, generator=random),
        }
        save_file(tensors, file, metadata={"format": "pt"})


def write_task(folder: Path) -> None:
    """Write a task of sums to choose between."""
    folder.mkdir()
    (folder / "sums.yaml").write_text(SUMS_TASK)
    rows = [
        {"q": f"{k}+{k}", "choices": [str(2 * k), str(3 * k + 1)], "answer": k % 2}
        for k in range(20)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "sums.jsonl").write_text(lines)


def test_stacks_of_a_hybrid_are_searched_and_exported_with_its_tower(
    commands: Commands, tmp_path: Path
) -> None:
    from transformers import Qwen3_5ForConditionalGeneration

    write_parents(tmp_path)
    write_task(tmp_path / "tasks")
    study = {
        "sources": {name: name for name in NAMES},
        "dtype": "float32",
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "experts": ["a", "b"],
            "knobs": {"weight": "search"},
            "flow": {"kind": "slices", "sources": ["merge", "a"]},
        },
        "tasks": {"sums": {"task": "sums", "include": "tasks", "metric": "acc"}},
        "strategy": {"kind": "nsga2", "generation_size": 4},
        "engine": {"kind": "hf", "max_model_len": 64},
        "workers": 1,
        "budget": {"trials": 4},
    }
    write_study(tmp_path / "hybrid.yaml", study)
    db, cache = f"sqlite:///{tmp_path}/hybrid.db", tmp_path / "cache"
    commands.call(tmp_path, "run", "hybrid.yaml", "--in-process", "--db", db)
    rows = api.trials("hybrid", db=db)
    assert [row.failure for row in rows if row.state != "scored"] == []
    searched = [row.number for row in rows if row.label is None]
    assert len(searched) == 4
    depths = {n: len(api.show("hybrid", n, db=db).recipe["slots"]) for n in searched}
    others = [number for number, depth in depths.items() if depth != N_LAYERS]
    assert others, depths
    out, number = tmp_path / "out", others[0]
    api.export(
        "hybrid", api.Export(number, out, is_scored=False), db=db, cache_dir=cache
    )

    base, found = stored(tmp_path / "base"), stored(out)
    beside = [n for n in base if n.startswith(("model.visual.", "mtp."))]
    assert len(beside) > 30
    assert all(torch.equal(found[name], base[name]) for name in beside)
    model, told = Qwen3_5ForConditionalGeneration.from_pretrained(
        out, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    recipe = json.loads((out / "recipe.json").read_text())
    assert len(recipe["slots"]) == depths[number] != N_LAYERS
    layers = model.model.language_model.layers
    assert len(layers) == depths[number]
    # Every layer keeps its kind: a recurrence, or full attention.
    kinds = read_json(tmp_path / "base" / "config.json")["text_config"]["layer_types"]
    wanted = [kinds[next(iter(slot["layers"].values()))] for slot in recipe["slots"]]
    assert model.config.text_config.layer_types == wanted
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()
    for name, tensor in model.state_dict().items():
        if name.startswith("model.visual."):
            assert torch.equal(tensor, base[name])
