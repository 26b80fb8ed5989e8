"""Preference accuracy of reward models, equal to transformers' own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge import api
from evomerge.checkpoints import Model, read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import ItemRole
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import RequestError, SpecError
from evomerge.scoring.engine import GenerateRequest
from evomerge.scoring.engines import open_engine
from evomerge.scoring.task_kinds import own_task
from evomerge.testing.models import tiny_model

ANSWERS = [(f"here is {n}", f"no {n * n} for you") for n in range(24)]
PAIRS = [
    dict(zip(("prompt", "chosen", "rejected"), (f"say {n}. ", *told), strict=True))
    for n, (one, other) in enumerate(ANSWERS)
    for told in [(one, other) if n % 2 else (other, one)]
]


def reward_model(folder: Path, seed: int) -> Path:
    """Write a tiny Llama with one output."""
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    like = tiny_model(folder.with_name(f"{folder.name}-like"), n_layers=2)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(like, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


def pairs(folder: Path, **options: Any) -> TaskSettings:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    options = {"data": "pairs.jsonl"} | options
    return TaskSettings(
        "liked", "preference", str(folder), search_fraction=1.0, options=options
    )


def alone(model: Model) -> Recipe:
    return passthrough("m", model.fingerprint, model.n_layers, "float32")


@contextmanager
def opened(folder: Path, *models: Model, **settings: Any) -> Iterator[Any]:
    engine = open_engine(
        WorkerSetup(
            engine=EngineSettings("hf", "float32", **settings),
            tasks=(),
            sources={one.fingerprint: str(one.path) for one in models},
            frame=models[0].fingerprint,
            probe=models[-1].fingerprint,
            cache_dir=str(folder / "cache"),
        )
    )
    try:
        yield engine
    finally:
        engine.close()


@torch.inference_mode()
def by_transformers(folder: Path) -> list[float]:
    """The difference of rewards of every pair."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def reward(text: str) -> float:
        return float(model(**tokenizer(text, return_tensors="pt")).logits)

    return [
        reward(one["prompt"] + one["chosen"]) - reward(one["prompt"] + one["rejected"])
        for one in PAIRS
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("rewards")
    return [
        read_model(reward_model(folder / name, seed)) for seed, name in enumerate("ab")
    ]


def test_margins_are_those_of_transformers_and_swaps_are_exact(
    models: list[Model], tmp_path: Path
) -> None:
    with opened(tmp_path, *models) as engine:
        proof = engine.self_test()
        assert (proof.probe_difference, proof.return_difference) == (0.0, 0.0)
        task = own_task(pairs(tmp_path / "tasks"), engine, str(tmp_path))
        assert task is not None
        (block,) = task.describe().manifest.blocks(ItemRole.SEARCH)
        for model in models:
            engine.swap(alone(model))
            found = [one.metrics for one in task.score(alone(model), block)]
            wanted = by_transformers(model.path)
            margins = [one["margin"] for one in found]
            assert sorted(margins) == pytest.approx(sorted(wanted), abs=1e-5)
            right = [one["accuracy"] for one in found]
            assert right == [float(margin > 0) for margin in margins]
            assert {0.0, 1.0} == set(right)


def test_a_reward_model_gives_no_tokens(models: list[Model], tmp_path: Path) -> None:
    with opened(tmp_path, *models, max_model_len=16) as engine:
        with pytest.raises(RequestError, match="is a reward model"):
            engine.generate([GenerateRequest((1, 2), 3)])
        with pytest.raises(RequestError, match="Text 1 has 17 tokens"):
            engine.rewards([(1,), (1,) * 17])
        with pytest.raises(SpecError, match="texts of 1 to 16 tokens, got"):
            own_task(pairs(tmp_path / "tasks"), engine, str(tmp_path))
        chat = pairs(tmp_path / "tasks", chat=True)
        if engine.tokenizer.chat_template is None:
            with pytest.raises(SpecError, match="with a chat template, got none"):
                own_task(chat, engine, str(tmp_path))


def study(models: list[Model], folder: Path, **changes: Any) -> Path:
    pairs(folder / "tasks")
    said: dict[str, Any] = {
        "name": "warm",
        "sources": {
            name: str(one.path) for name, one in zip("ab", models, strict=True)
        },
        "space": {
            "operator": "linear",
            "knobs": {"weight": "search"},
            "parts": {"classifier": "linear"},
        },
        "tasks": {
            "liked": {
                "task": "preference",
                "include": "tasks",
                "metric": "accuracy",
                "options": {"data": "pairs.jsonl"},
            }
        },
        "engine": {"kind": "hf"},
        "strategy": {"kind": "random"},
        "budget": {"trials": 4},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(said | changes))
    return file


def test_averages_of_reward_models_are_searched_and_exported(
    models: list[Model], tmp_path: Path
) -> None:
    db = f"sqlite:///{tmp_path}/db"
    ran = api.run(study(models, tmp_path), db=db, in_process=True)
    trials = ran.trials()
    assert len({trial["liked/margin"] for trial in trials}) > 4
    assert all(0.0 <= trial["liked/accuracy"] <= 1.0 for trial in trials)
    done = ran.export(tmp_path / "best", trial=trials[-1]["number"])
    margins = by_transformers(Path(done.path))
    (told,) = done.rivals
    assert 0.0 <= told.chosen.value.value <= 1.0
    assert len(set(margins)) == len(PAIRS)
    heads = [
        load_file(folder / "model.safetensors")["score.weight"]
        for folder in (*(one.path for one in models), Path(done.path))
    ]
    low, high = torch.minimum(*heads[:2]), torch.maximum(*heads[:2])
    assert bool(((low <= heads[2]) & (heads[2] <= high)).all())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": {"kind": "vllm"}}, "got a reward model .*set engine: {kind: hf}"),
        (
            {
                "tasks": {
                    "liked": {
                        "task": "kl",
                        "include": "tasks",
                        "metric": "kl",
                        "options": {"data": "texts.jsonl", "reference": "a"},
                    }
                }
            },
            "tasks.liked: expected a task of rewards, as `preference`: sources.a is a",
        ),
    ],
)
def test_what_does_not_go_with_a_reward_model_is_a_mistake_of_the_file(
    changes: dict[str, Any], says: str, models: list[Model], tmp_path: Path
) -> None:
    file = study(models, tmp_path, **changes)
    (tmp_path / "tasks" / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": f"text {n}"}) for n in range(12))
    )
    with pytest.raises(SpecError, match=says):
        api.check(file, db=f"sqlite:///{tmp_path}/db", cache_dir=tmp_path)
