"""Studies whose tasks show images: refused in time, searched, exported, reloaded."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures.table import stored
from support.commands import Commands
from support.image_models import (
    IMAGE_TASK,
    solid_rows,
    write_image_task,
    write_seeing_models,
)
from support.seeing_experts import rows, write_experts
from support.study_files import write_study

from evomerge import api
from evomerge.errors import SpecError
from evomerge.scoring.hf.processor import Processor
from evomerge.scoring.images import ImagePrompt, RgbImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def study(*experts: str, **changes: Any) -> dict[str, Any]:
    """Return a study of models that see, and a task that shows them images."""
    return {
        "sources": {name: name for name in ("base", *experts)},
        "dtype": "float32",
        "seed": 3,
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "experts": list(experts),
            "knobs": {"weight": {"low": 0.0, "high": 1.0}},
            "parts": {"vision": "linear", "projector": "linear"},
        },
        "tasks": {
            "seen": {"task": "colours", "include": "tasks", "metric": "exact_match"}
        },
        "strategy": {"kind": "cma", "generation_size": 6},
        "engine": {"kind": "hf", "max_model_len": 64},
        "workers": 1,
        "budget": {"trials": 36},
        **changes,
    }


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    write_seeing_models(folder, "gemma3")
    write_image_task(folder / "tasks", solid_rows(8))
    return folder


def refusal(folder: Path, cache: Path, **changes: Any) -> str:
    """Return what ``check`` says of a study, before any engine."""
    write_study(folder / "study.yaml", study("a", "b", **changes))
    with pytest.raises(SpecError) as caught:
        api.check(
            folder / "study.yaml",
            db=f"sqlite:///{cache}/no.db",
            cache_dir=cache,
            dry_run=False,
        )
    return str(caught.value)


def test_a_task_with_images_is_refused_for_vllm_before_anything_starts(
    seeing: Path, tmp_path: Path
) -> None:
    said = refusal(seeing, tmp_path, engine={"kind": "vllm"})
    assert "tasks.seen" in said
    assert "engine vllm shows none" in said
    assert "engine: {kind: hf}" in said


def test_a_frame_without_processor_is_refused_before_anything_starts(
    seeing: Path, tmp_path: Path
) -> None:
    file = seeing / "base" / "processor_config.json"
    kept = file.read_text()
    file.unlink()
    try:
        said = refusal(seeing, tmp_path)
    finally:
        file.write_text(kept)
    assert "tasks.seen" in said
    assert "copy them from the published model" in said


def test_a_dry_run_of_a_task_with_images_scores_one(
    seeing: Path, tmp_path: Path
) -> None:
    write_study(seeing / "study.yaml", study("a", "b"))
    report = api.check(
        seeing / "study.yaml", db=f"sqlite:///{tmp_path}/no.db", cache_dir=tmp_path
    )
    assert sum(report.items["seen"]) == 8
    assert report.trial_s is not None


@pytest.mark.long
def test_a_merge_of_two_experts_that_see_beats_both_and_is_reloaded_with_its_tower(
    commands: Commands, tmp_path: Path
) -> None:
    from transformers import LlavaForConditionalGeneration

    write_experts(tmp_path)
    task = IMAGE_TASK.replace("max_gen_toks: 4", "max_gen_toks: 1")
    write_image_task(tmp_path / "tasks", rows(7, 400), task)
    write_study(tmp_path / "sight.yaml", study("colour", "place"))
    db, cache = f"sqlite:///{tmp_path}/sight.db", tmp_path / "cache"
    commands.call(tmp_path, "run", "sight.yaml", "--in-process", "--db", db)

    trials = api.trials("sight", db=db)
    assert [row.failure for row in trials if row.state != "scored"] == []
    score = {row.label or row.number: row.scores["seen/exact_match"] for row in trials}
    number = max((n for n in score if isinstance(n, int)), key=lambda n: score[n])
    assert score[number] > max(score["colour"], score["place"]) + 0.1
    assert score[number] > score["base"]

    out = tmp_path / "out"
    done = api.export("sight", api.Export(number, out), db=db, cache_dir=cache)
    assert "AutoModelForImageTextToText" in (out / "README.md").read_text()
    loaded = subprocess.run(
        done.command, shell=True, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    base, merged = stored(tmp_path / "base"), stored(out)
    tower = [name for name in base if "vision_tower" in name]
    assert len(tower) > 30
    assert any(not torch.equal(merged[name], base[name]) for name in tower)
    model, told = LlavaForConditionalGeneration.from_pretrained(
        out, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    right = [correct(model.eval(), out, kind) for kind in ("colour", "place")]
    assert min(right) > 50  # of 100 that nobody searched on, where chance is 25


def correct(model: Any, folder: Path, kind: str) -> int:
    """Count right answers among 100 new items, by transformers alone."""
    processor, n = Processor(str(folder)), 0
    tokenizer = processor._inner.tokenizer
    for image, question, answer in rows(99, 100, (kind,)):
        text = f"w5 <image> w6 {question}"
        prompt = ImagePrompt(text, (RgbImage.read(image, Path()),))
        given = processor.encode(prompt).tensors
        said = model.generate(**given, max_new_tokens=1, do_sample=False)[0, -1:]
        n += tokenizer.decode(said).strip() == answer
    return n
