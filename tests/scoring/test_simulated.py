import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.scoring_protocol import ItemRole
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import CandidateError, SpecError, WorkerError
from evomerge.scoring.engine import GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.scoring.simulated.landscape import SimulatedTask


def recipe(a=0.5, b=0.5):
    slot = Slot(
        (("*", Operation("linear", ("a", "b"), each=(("weight", (a, b)),))),),
        layers=(("a", 0), ("b", 0)),
    )
    ends = Slot(slot.roles)
    inputs = (("a", Checkpoint("fa")), ("b", Checkpoint("fb")))
    return Recipe("a", "float32", inputs, ends, (slot,), ends)


def task(tmp_path, **options):
    settings = TaskSettings("sums", "simulated", search_fraction=1.0, options=options)
    return SimulatedTask(settings, {"kind": "simulated"}, str(tmp_path))


def block(task):
    return task.describe().manifest.blocks(ItemRole.SEARCH)[0]


def scores(task, recipe):
    return np.array([o.metrics["acc"] for o in task.score(recipe, block(task))])


@pytest.fixture
def engine(tmp_path):
    settings = EngineSettings(kind="simulated")
    return SimulatedEngine(WorkerSetup(settings, (), {}, "fa", None, str(tmp_path)))


def test_recipe_at_the_optimum_scores_best(tmp_path):
    made_up = task(tmp_path, items=400, optimum=0.7, width=0.2)
    best, near, far = (scores(made_up, recipe(w, w)).mean() for w in (0.7, 0.55, 0.0))
    assert best == pytest.approx(0.95, abs=0.03)
    assert best > near > far


def test_better_recipe_answers_all_that_a_worse_one_answers(tmp_path):
    made_up = task(tmp_path, optimum=0.7)
    assert (scores(made_up, recipe(0.7, 0.7)) >= scores(made_up, recipe(0, 0))).all()


def test_scores_repeat_and_tasks_differ(tmp_path):
    settings = TaskSettings("other", "simulated", search_fraction=1.0)
    other = SimulatedTask(settings, {}, str(tmp_path))
    one = task(tmp_path)
    assert (scores(one, recipe()) == scores(task(tmp_path), recipe())).all()
    assert one.chance(recipe(0.1, 0.9)) != other.chance(recipe(0.1, 0.9))
    assert one.describe().protocol.digest != other.describe().protocol.digest


def test_faults_and_delays_are_no_part_of_the_protocol(tmp_path):
    plain = task(tmp_path).describe()
    faulty = task(tmp_path, sleep_s=1.0, fail_if=0.5, fault_times=3).describe()
    assert plain == faulty
    assert task(tmp_path, width=0.1).describe().protocol != plain.protocol


def test_knobs_may_have_an_optimum_each(tmp_path):
    made_up = task(tmp_path, optimum={"weight": 0.25}, ceiling=1.0)
    assert made_up.chance(recipe(0.25, 0.25)) == 1.0


def test_unknown_option_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(SpecError, match=r"options\.item: .*did you mean 'items'"):
        task(tmp_path, item=3)


def test_share_of_recipes_fails_for_good(tmp_path):
    made_up = task(tmp_path, fail_if=0.3)
    failed = 0
    for step in range(100):
        try:
            made_up.score(recipe(step / 100), block(made_up))
        except CandidateError:
            failed += 1
            with pytest.raises(CandidateError):
                made_up.score(recipe(step / 100), block(made_up))
    assert 15 <= failed <= 45


def test_machine_fault_strikes_a_bounded_number_of_times(tmp_path):
    for expected in (WorkerError, WorkerError, None):
        made_up = task(tmp_path, break_if=1.0, fault_times=2)
        if expected is None:
            assert len(scores(made_up, recipe())) == 40
        else:
            with pytest.raises(expected):
                made_up.score(recipe(), block(made_up))


def test_machine_fault_waits_for_its_block(tmp_path):
    settings = TaskSettings(
        "sums", "simulated", n_blocks=2, options={"break_if": 1.0, "fault_block": 1}
    )
    made_up = SimulatedTask(settings, {}, str(tmp_path))
    first, second = made_up.describe().manifest.blocks(ItemRole.SEARCH)
    assert made_up.score(recipe(), first)
    with pytest.raises(WorkerError):
        made_up.score(recipe(), second)


def test_engine_answers_by_recipe_and_request(engine):
    prompts = [GenerateRequest((1, 2), 5), GenerateRequest((3,), 5)]
    pairs = [LoglikelihoodRequest((1,), (2, 3)), LoglikelihoodRequest((1,), (4,))]
    seen = []
    for merge in (recipe(0.1), recipe(0.9), recipe(0.1)):
        engine.swap(merge)
        seen.append((engine.generate(prompts), engine.loglikelihood(pairs)))
    assert seen[0] == seen[2] != seen[1]
    assert all(answer.logprob <= 0 for answer in seen[0][1])


def test_engine_says_when_an_answer_was_cut(engine):
    answers = engine.generate([GenerateRequest((n,), 1) for n in range(50)])
    assert all(answer.truncated == (len(answer.text) >= 1) for answer in answers)
    assert all(answer.n_tokens == 1 for answer in answers)


def test_byte_tokenizer_reads_back_what_it_wrote(engine):
    tokens = engine.tokenizer.encode("naïve 日本")
    assert engine.tokenizer.decode(tokens) == "naïve 日本"
    assert engine.tokenizer.decode(256) == "<eos>"


START = """
import sys, time
began = time.process_time()
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.evaluator import Evaluator
task = TaskSettings("sums", "simulated")
engine = EngineSettings(kind="simulated")
ready = Evaluator(WorkerSetup(engine, (task,), {}, "f", None, "unused")).ready("w")
assert ready.tasks[0].metrics == ("acc",)
heavy = {"torch", "transformers", "vllm", "lm_eval", "ray", "datasets"}
print(sorted(heavy & set(sys.modules)), time.process_time() - began < 1.0)
"""


def test_simulated_worker_starts_at_once_and_light():
    done = subprocess.run(
        [sys.executable, "-c", START], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(" ", 1)[0] == "[]"
    assert done.stdout.strip() == "[] True"


def test_sleep_takes_its_time(tmp_path):
    made_up = task(tmp_path, sleep_s=0.05)
    began = time.perf_counter()
    made_up.score(recipe(), block(made_up))
    assert time.perf_counter() - began >= 0.05


def test_recipe_without_knobs_gets_the_floor(tmp_path):
    bare = Slot((("*", Operation("linear", ("a",))),), layers=(("a", 0),))
    ends = Slot(bare.roles)
    plain = replace(recipe(), embed=ends, head=ends, slots=(bare,))
    assert task(tmp_path, floor=0.2).chance(plain) == 0.2
