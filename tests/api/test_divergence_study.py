"""A study that stays as close to a reference as a bound on a task lets it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evomerge import api
from evomerge.errors import SpecError
from evomerge.testing.models import tiny_model

SKILL = [f"the number after {n} is {n + 1}." for n in range(20, 60)]
OTHER = [f"{one} and {other}" for one in "abcdef" for other in "uvwxyz"]


def taught(folder: Path, like: Path) -> None:
    """Write a model that was trained from another on the skill's texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(like)
    model = AutoModelForCausalLM.from_pretrained(like)
    rows = torch.tensor([tokenizer.encode(text) for text in SKILL])
    learn = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        loss = model(rows, labels=rows).loss
        loss.backward()
        learn.step()
        learn.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("close")
    tiny_model(folder / "base", n_layers=2)
    taught(folder / "taught", folder / "base")
    (folder / "tasks").mkdir()
    for name, lines in (("skill", SKILL), ("other", OTHER)):
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (folder / "tasks" / f"{name}.jsonl").write_text(rows)
    task = {
        "task": "skill",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "skill.jsonl"}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (folder / "tasks" / "skill.yaml").write_text(yaml.safe_dump(task))
    said: dict[str, Any] = {
        "name": "close",
        "sources": {"base": "base", "taught": "taught"},
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": {"low": 0.0, "high": 1.0, "by": {"groups": 1}}},
        },
        "tasks": {
            "drift": {
                "task": "kl",
                "include": "tasks",
                "options": {"data": "other.jsonl", "reference": "base"},
            },
            "skill": {"include": "tasks", "metric": "nll_per_byte"},
        },
        "objectives": [{"measure": "drift/kl"}],
        "constraints": [
            {"measure": "skill", "rise_at_most": 0.3, "relative_to": "taught"}
        ],
        "engine": {"kind": "hf", "dtype": "float32"},
        "strategy": {"kind": "cma", "generation_size": 6},
        "budget": {"trials": 24},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


def test_it_is_as_close_to_its_reference_as_the_bound_lets_it(
    study: Path, tmp_path: Path
) -> None:
    db = f"sqlite:///{tmp_path}/db"
    ran = api.run(study, db=db, in_process=True)
    base, taught, *searched = ran.trials()
    assert base["drift/kl"] == 0.0
    bound = taught["skill/nll_per_byte"] + 0.3
    kept = [one for one in searched if one["skill/nll_per_byte"] <= bound]
    assert base["skill/nll_per_byte"] > bound
    assert 0 < len(kept) < len(searched)
    closest = min(one["drift/kl"] for one in kept)
    (best,) = ran.front()
    assert best["drift/kl"] == closest < 0.7 * taught["drift/kl"]
    done = ran.export(tmp_path / "best")
    (told,) = done.rivals
    assert (told.objective.name, told.objective.direction) == ("drift/kl", "minimize")
    mine, of_base, of_taught = told.rows
    assert of_base.value.value == 0.0 < mine.value.value < of_taught.value.value
    assert mine.value.low < mine.value.value < mine.value.high
    assert [bound.said for bound in done.bounds] == ["kept"]


def test_a_reference_that_is_no_source_is_a_mistake_of_the_file(
    study: Path, tmp_path: Path
) -> None:
    said = yaml.safe_load(study.read_text())
    said["tasks"]["drift"]["options"]["reference"] = "bas"
    file = study.parent / "wrong.yaml"
    file.write_text(yaml.safe_dump(said))
    with pytest.raises(SpecError, match=r"reference: unknown source 'bas'.*'base'"):
        api.check(file, db=f"sqlite:///{tmp_path}/db", cache_dir=tmp_path)
