"""The divergence from a reference model, equal to transformers' own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evomerge.checkpoints import Model, read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey, ItemRole, Outcome
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import CandidateError, SpecError, WorkerError
from evomerge.scoring.divergence import divergence
from evomerge.scoring.engine import Engine
from evomerge.scoring.engines import open_engine
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.scoring.survey import Surveyor
from evomerge.scoring.task_kinds import own_task
from evomerge.testing.models import tiny_model

TEXTS = ["a short one", "zwei Wörter mehr", "a text of many words " * 30]
MOST = 64


def texts(folder: Path, *lines: str, **options: object) -> TaskSettings:
    folder.mkdir(exist_ok=True)
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text(rows)
    options = {"data": "texts.jsonl", "reference": "a"} | options
    return TaskSettings(
        "drift", "kl", str(folder), search_fraction=1.0, options=options
    )


def alone(model: Model) -> Recipe:
    return passthrough("m", model.fingerprint, model.n_layers, "float32")


@contextmanager
def opened(kind: str, folder: Path, *models: Model) -> Iterator[Engine]:
    engine = open_engine(
        WorkerSetup(
            engine=EngineSettings(
                kind, "float32", max_model_len=MOST, kv_cache_bytes=16 << 20
            ),
            tasks=(),
            sources={one.fingerprint: str(one.path) for one in models},
            frame=models[0].fingerprint,
            probe=None,
            cache_dir=str(folder / "cache"),
        )
    )
    try:
        yield engine
    finally:
        engine.close()


@torch.inference_mode()
def by_transformers(reference: Path, other: Path, text: str, most: int) -> float:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference)
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    tokens = tokenizer.encode(text, add_special_tokens=False)[:most]
    inputs = torch.tensor([[start, *tokens]])
    p, q = (
        AutoModelForCausalLM.from_pretrained(folder)
        .double()
        .eval()(inputs)
        .logits[0, :-1]
        .log_softmax(-1)
        for folder in (reference, other)
    )
    return float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)) / (
        len(tokens)
    )


def two(folder: Path) -> list[Model]:
    return [
        read_model(tiny_model(folder / name, seed=seed, n_layers=2))
        for seed, name in enumerate("ab")
    ]


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=pytest.mark.engine)])
def test_it_is_that_of_transformers_over_the_whole_vocabulary(
    kind: str, tmp_path: Path
) -> None:
    a, b = two(tmp_path)
    settings = texts(tmp_path / "tasks", *TEXTS, max_tokens=40)
    settings = replace(settings, reference=alone(a))
    with opened(kind, tmp_path, b, a) as engine:
        task = own_task(settings, engine, str(tmp_path))
        assert task is not None
        manifest = task.describe().manifest
        (block,) = manifest.blocks(ItemRole.SEARCH)

        def of(model: Model) -> list[float]:
            engine.swap(alone(model))
            return [one.metrics["kl"] for one in task.score(alone(model), block)]

        found, itself = of(b), of(a)
        again = of(b)
    wanted = [by_transformers(a.path, b.path, text, 40) for text in TEXTS]
    assert sorted(found) == pytest.approx(sorted(wanted), abs=1e-5)
    assert min(wanted) > 0.001
    assert itself == [0.0] * len(TEXTS)
    assert again == found


def test_smaller_is_better_and_texts_are_counted(tmp_path: Path) -> None:
    settings = texts(tmp_path / "tasks", *TEXTS)
    found = Surveyor(tmp_path)([settings])
    assert not found.problems
    assert found.facts["drift"].senses == {"kl": False}
    assert found.items == {"drift": (3, 0)}


def test_what_the_reference_never_says_adds_nothing() -> None:
    half = np.array([[np.log(0.5), np.log(0.5), -np.inf]], dtype=np.float32)
    even = np.log(np.array([[0.25, 0.25, 0.5]], dtype=np.float32))
    assert divergence(half, even) == pytest.approx(np.log(2))
    with pytest.raises(CandidateError, match="not finite"):
        divergence(even, half)


@pytest.mark.parametrize(
    ("options", "line", "says"),
    [
        ({"max_token": 3}, "{}", r"options.max_token: no such option; known: data, "),
        ({"reference": None}, '{"text": "x"}', "name of a source of the study"),
        ({"max_tokens": 0}, '{"text": "x"}', "expected a number from 1, got 0"),
        ({"data": "../texts.jsonl"}, "{}", "expected a file's name"),
        ({"data": "none.jsonl"}, "{}", "there is no file"),
        ({}, '{"txt": "x"}', "texts.jsonl:1: expected an object whose text are texts"),
        ({}, "text", "texts.jsonl:1: no JSON"),
        ({}, "", "no items are left"),
    ],
)
def test_what_is_wrong_with_such_a_task_is_said_where(
    options: dict[str, object], line: str, says: str, tmp_path: Path
) -> None:
    settings = texts(tmp_path / "tasks", **options)
    (tmp_path / "tasks" / "texts.jsonl").write_text(line)
    a, b = two(tmp_path)
    if options.get("reference", "a") is not None:
        settings = replace(settings, reference=alone(a))
    with opened("hf", tmp_path, a, b) as engine, pytest.raises(SpecError, match=says):
        own_task(settings, engine, str(tmp_path))


def test_an_engine_without_a_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    setup = WorkerSetup(EngineSettings("simulated"), (), {}, "f", None, str(tmp_path))
    with pytest.raises(SpecError, match="whole vocabulary, got 'simulated'"):
        own_task(texts(tmp_path / "t", "x"), SimulatedEngine(setup), str(tmp_path))


def test_a_reference_that_takes_too_much_disk_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two(tmp_path)
    settings = replace(texts(tmp_path / "tasks", *TEXTS), reference=alone(a))
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Disk(1000))
    with opened("hf", tmp_path, b, a) as engine:
        task = own_task(settings, engine, str(tmp_path))
        assert task is not None
        with pytest.raises(WorkerError, match=r"keeps of its reference takes 0\.0 GB"):
            scored(task.score(alone(b), BlockKey("drift", ItemRole.SEARCH, 0)))


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free


def scored(outcomes: tuple[Outcome, ...]) -> None:
    raise AssertionError(outcomes)
