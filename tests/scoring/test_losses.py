"""Losses of whole texts: negative log-likelihoods, equal to transformers' own."""

import json
import math
from operator import mul
from pathlib import Path

import pytest
import torch
import yaml

from evomerge.checkpoints import read_model
from evomerge.core.aggregates import score_of
from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import ItemRole
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import SpecError
from evomerge.scoring.engines import open_engine
from evomerge.scoring.harness.loading import load_task
from evomerge.scoring.harness.losses import LOSSES
from evomerge.scoring.harness.scored_tasks import LmEvalTasks
from evomerge.scoring.harness.task_protocol import facts_of
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.testing.models import tiny_model

TEXTS = ["a short one", "zwei Wörter mehr", "a text of many words " * 30]
"""The last is several times as long as what the model is let read at once."""
MOST = 64


def texts(folder: Path, *lines: str) -> TaskSettings:
    folder.mkdir(exist_ok=True)
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text(rows)
    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "texts.jsonl"}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (folder / "texts.yaml").write_text(yaml.safe_dump(task))
    return TaskSettings(
        "texts",
        "texts",
        include_path=str(folder),
        search_fraction=1.0,
        asked=("bits_per_byte",),
    )


def by_transformers(folder: Path, text: str) -> float:
    """The sum of a text's losses, window by window, in nats."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.encode(text)
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    total, size = 0.0, MOST - 1
    for low in range(0, len(tokens), size):
        window = tokens[low : low + size]
        # The last window looks back as far as it may.
        before = [start, *tokens][max(low + len(window) - size, 0) : low + 1]
        inputs = torch.tensor([before + window])
        with torch.inference_mode():
            logits = model(inputs).logits[0, :-1]
        picked = logits.log_softmax(-1).gather(1, inputs[0, 1:, None])
        total -= float(picked[-len(window) :].sum())
    return total


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=pytest.mark.engine)])
def test_losses_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    a, b = (
        read_model(tiny_model(tmp_path / name, seed=seed, n_layers=2))
        for seed, name in enumerate("ab")
    )
    task = texts(tmp_path / "tasks", *TEXTS)
    engine = open_engine(
        WorkerSetup(
            engine=EngineSettings(
                kind, "float32", max_model_len=MOST, kv_cache_bytes=16 << 20
            ),
            tasks=(task,),
            sources={one.fingerprint: str(one.path) for one in (a, b)},
            frame=a.fingerprint,
            probe=b.fingerprint,
            cache_dir=str(tmp_path / "cache"),
        )
    )
    try:
        tasks = LmEvalTasks([task], engine, str(tmp_path / "cache"))
        (told,) = tasks.describe()
        assert told.metrics == (*LOSSES, "bits_per_byte")
        for model in (a, b):
            recipe = passthrough("m", model.fingerprint, model.n_layers, "float32")
            engine.swap(recipe)
            outcomes = tasks.score_first("texts", len(TEXTS))
            found = {round(one.metrics["nll_per_byte"], 9) for one in outcomes}
            wanted = [
                by_transformers(model.path, text) / len(text.encode()) for text in TEXTS
            ]
            lengths = [len(text.encode()) for text in TEXTS]
            bits = sum(map(mul, wanted, lengths)) / sum(lengths) / math.log(2)
            together = score_of("bits_per_byte", [one.metrics for one in outcomes])
            assert together == pytest.approx(bits, abs=1e-5)
            for one in wanted:
                assert min(abs(one - value) for value in found) < 1e-5
            assert len(found) == len(TEXTS)
            for one, text in zip(outcomes, TEXTS, strict=False):
                ratio = one.metrics["nll_per_word"] / one.metrics["nll_per_byte"]
                assert ratio > 1.0, text
    finally:
        engine.close()
    assert told.manifest.ids_of(ItemRole.SEARCH)


def test_smaller_is_better_and_the_direction_is_known(tmp_path: Path) -> None:
    settings = texts(tmp_path / "tasks", *TEXTS)
    task = load_task(settings, str(tmp_path))
    measures = (*LOSSES, "bits_per_byte")
    assert facts_of(task, settings).senses == dict.fromkeys(measures, False)


def test_an_empty_text_has_no_loss_and_is_named(tmp_path: Path) -> None:
    settings = texts(tmp_path / "tasks", "a text", " ")
    setup = WorkerSetup(EngineSettings("simulated"), (), {}, "fa", None, str(tmp_path))
    engine = SimulatedEngine(setup)
    with pytest.raises(SpecError, match=r"document 1 \(doc_to_target\) is empty"):
        LmEvalTasks([settings], engine, str(tmp_path))
