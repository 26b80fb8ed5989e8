"""The adapter against lm-eval's own transformers model.

``tests/golden/lm_eval/hflm.json`` holds what ``lm_eval.models.huggingface.HFLM`` of
lm-eval 0.4.13 answers on a tiny model. To record it anew, install accelerate and run
with EVOMERGE_REWRITE_GOLDEN=1.
"""

import json
import os
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate

from evomerge.checkpoints.model import read_model
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.loading import FEWSHOT_SEED, load_task
from evomerge.testing.models import tiny_model

TASKS = Path(__file__).parent / "tasks"
GOLDEN = Path(__file__).parent.parent / "golden" / "lm_eval" / "hflm.json"
REWRITE = bool(os.environ.get("EVOMERGE_REWRITE_GOLDEN"))
MAX_LENGTH = 192
LONG = "The cat sat on the mat. " * 40
REQUESTS = {
    "too long to continue": Instance(
        "generate_until", {}, (LONG, {"until": ["zzz"], "max_gen_toks": 12}), 0
    ),
    "stops at a string": Instance(
        "generate_until", {}, ("the cat", {"until": ["e", "a"], "max_gen_toks": 30}), 0
    ),
    "no context": Instance("loglikelihood", {}, ("", "the cat"), 0),
    "begin token written": Instance("loglikelihood", {}, ("<s>the cat", " sat"), 0),
    "space at the end": Instance("loglikelihood", {}, ("the cat ", "sat"), 0),
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=3)


@pytest.fixture(scope="module")
def ours(model, tmp_path_factory):
    from evomerge.scoring.hf.engine import HfEngine

    settings = EngineSettings("hf", max_model_len=MAX_LENGTH)
    cache = str(tmp_path_factory.mktemp("cache"))
    name = read_model(model).fingerprint
    setup = WorkerSetup(settings, (), {name: str(model)}, name, None, cache)
    engine = HfEngine(setup)
    yield EngineLM(engine)
    engine.close()


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory):
    """Everything HFLM answers, by case."""
    if not REWRITE:
        return json.loads(GOLDEN.read_text())
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(
        pretrained=str(model),
        device="cpu",
        dtype="float32",
        batch_size=1,
        max_length=MAX_LENGTH,
    )
    cache = tmp_path_factory.mktemp("cache")
    found = {
        f"{name} chat={chat}": answers(lm, name, cache, chat=chat)
        for name in ("sums", "pets", "endings")
        for chat in (False, True)
    }
    found["requests"] = {
        name: getattr(lm, request.request_type)([request])[0]
        for name, request in REQUESTS.items()
    }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(GOLDEN.read_text())


def answers(lm, name, cache, *, chat):
    task = load_task(TaskSettings(name, name, include_path=str(TASKS)), str(cache))
    task.set_fewshot_seed(FEWSHOT_SEED)
    found = evaluate(
        lm,
        {"tasks": {name: task}},
        limit=12,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    return [
        {"prompt": sample["arguments"][0][0], "answers": sample["resps"]}
        for sample in found["samples"][name]
    ]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["sums", "pets", "endings"])
def test_golden_answers_to_tasks_are_those_of_lm_evals_own_model(
    name, chat, ours, theirs, tmp_path
):
    mine = answers(ours, name, tmp_path, chat=chat)
    for left, right in zip(mine, theirs[f"{name} chat={chat}"], strict=True):
        assert left["prompt"] == right["prompt"]
        for (answer,), (expected,) in zip(
            left["answers"], right["answers"], strict=True
        ):
            same(answer, expected)


@pytest.mark.parametrize("name", list(REQUESTS))
def test_golden_answers_to_odd_requests_are_those_of_lm_evals_own_model(
    name, ours, theirs
):
    request = REQUESTS[name]
    (answer,) = getattr(ours, request.request_type)([request])
    same(answer, theirs["requests"][name])


def same(answer, expected):
    if isinstance(answer, str):
        assert answer == expected
    else:
        assert answer[0] == pytest.approx(expected[0], abs=1e-4)
        assert answer[1] == expected[1]


def test_pair_too_long_for_the_engine_loses_its_beginning(ours):
    tokens, answer = ours.tok_encode(LONG), ours.tok_encode("hat")
    assert len(tokens) > MAX_LENGTH
    short = tokens[-(MAX_LENGTH - len(answer)) :]
    whole, cut = ours._loglikelihood_tokens(
        [(("", ""), tokens, answer), (("", ""), short, answer)]
    )
    assert whole == cut


def test_written_begin_token_is_not_doubled(ours):
    tokens = ours.tok_encode("<s>the cat")
    assert tokens.count(ours.tokenizer.bos_token_id) == 1
