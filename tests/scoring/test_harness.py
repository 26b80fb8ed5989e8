import json
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import ItemRole, scores_of
from evomerge.core.trial import Blame, Cause
from evomerge.core.work import Assignment, EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import SpecError, WorkerError
from evomerge.scoring.evaluator import Evaluator
from evomerge.scoring.harness import task_index
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.loading import FEWSHOT_SEED, load_task
from evomerge.scoring.harness.scored_tasks import LmEvalTasks
from evomerge.scoring.items import item_id
from evomerge.scoring.simulated.engine import SimulatedEngine

TASKS = Path(__file__).parent / "tasks"
RECIPE = passthrough("a", "fa", 2, "float32")


@pytest.fixture
def engine(tmp_path):
    return simulated(tmp_path)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def simulated(tmp_path, **changes):
    settings = EngineSettings(kind="simulated", **changes)
    engine = SimulatedEngine(WorkerSetup(settings, (), {}, "fa", None, str(tmp_path)))
    engine.swap(RECIPE)
    return engine


def settings(task, **changes):
    return TaskSettings(task, task, include_path=str(TASKS), **changes)


def score_all(tasks):
    """Score every block of both roles: task to item to outcome."""
    return {
        description.manifest.task: {
            outcome.item: outcome
            for role in ItemRole
            for block in description.manifest.blocks(role)
            for outcome in tasks.score(block)
        }
        for description in tasks.describe()
    }


def lm_eval_says(wanted, engine, cache, **ways):
    """Run lm-eval's own evaluator over all documents of the same task."""
    task = load_task(wanted, cache)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return evaluate(
        EngineLM(engine), {"tasks": {wanted.task: task}}, bootstrap_iters=0, **ways
    )


@pytest.mark.parametrize("name", ["sums", "first_sums", "pets", "endings"])
def test_every_item_scores_as_in_lm_eval(name, engine, cache):
    wanted = settings(name, n_blocks=3)
    tasks = LmEvalTasks([wanted], engine, cache)
    (description,) = tasks.describe()
    ours = score_all(tasks)[name]
    theirs = lm_eval_says(wanted, engine, cache)
    by_id = defaultdict(dict)
    for sample in theirs["samples"][name]:
        for metric in sample["metrics"]:
            by_id[item_id(sample["doc"])][metric, sample["filter"]] = sample[metric]
    assert set(by_id) == set(ours)
    for key in description.metrics:
        metric, _, chosen = key.partition(",")
        for item, outcome in ours.items():
            values = by_id[item]
            filters = {f for _, f in values}
            if not chosen:
                (only,) = filters
            assert outcome.metrics[key] == values[metric, chosen or only]
    assert len({o.metrics[description.metrics[0]] for o in ours.values()}) == 2


def test_blocks_asked_together_are_answered_as_each_alone(engine, cache):
    calls = []
    generate = engine.generate
    engine.generate = lambda requests: calls.append(len(requests)) or generate(requests)
    names = ("sums", "first_sums", "pets")
    tasks = LmEvalTasks([settings(name, n_blocks=3) for name in names], engine, cache)
    blocks = [
        block
        for description in tasks.describe()
        for block in description.manifest.blocks(ItemRole.SEARCH)
    ]
    alone = tuple(tasks.score(block) for block in blocks)
    n_alone = len(calls)
    assert tasks.score_together(blocks) == alone
    assert len(calls) == n_alone + 1
    assert tasks.score_together(blocks[::-1]) == alone[::-1]


@pytest.mark.parametrize("name", ["sums", "first_sums", "endings"])
def test_means_are_those_of_lm_eval(name, engine, cache):
    wanted = settings(name, search_fraction=1.0)
    tasks = LmEvalTasks([wanted], engine, cache)
    (description,) = tasks.describe()
    ours = score_all(tasks)[name].values()
    theirs = lm_eval_says(wanted, engine, cache)["results"][name]
    if name == "endings":  # one document occurs twice there
        assert len(list(ours)) == 44
        return
    for key in description.metrics:
        value = sum(o.metrics[key] for o in ours) / len(ours)
        name_there = key if "," in key else f"{key},last-digit"
        assert value == pytest.approx(theirs[name_there], abs=1e-12)


def test_metrics_are_named_by_filter_only_where_there_are_several(engine, cache):
    found = LmEvalTasks(
        [settings("sums"), settings("first_sums"), settings("pets")], engine, cache
    ).describe()
    assert [description.metrics for description in found] == [
        ("exact_match,first-digit", "exact_match,last-digit"),
        ("exact_match",),
        ("acc", "acc_norm"),
    ]


def test_metrics_that_are_no_mean_are_not_scored_unasked(engine, cache):
    (description,) = LmEvalTasks([settings("endings")], engine, cache).describe()
    assert description.metrics == ("acc",)


def together(folder, name):
    """A task of forty questions, whose metrics are put together of all answers."""
    folder.mkdir()
    rows = [{"q": f"q{i}", "label": i * i % 3 % 2} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    how = {"acc": "mean", "f1": "f1", "mcc": "matthews_corrcoef"}
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["a", "b"],
        "doc_to_target": "label",
        "metric_list": [{"metric": m, "aggregation": h} for m, h in how.items()],
    }
    if name == "texts":
        task |= {"output_type": "loglikelihood_rolling", "doc_to_target": "on {{q}}"}
        task |= {"doc_to_text": "", "metric_list": [{"metric": "word_perplexity"}]}
        del task["doc_to_choice"]
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return TaskSettings(name, name, include_path=str(folder), search_fraction=1.0)


@pytest.mark.parametrize("metric", ["f1", "mcc", "word_perplexity"])
def test_metrics_that_are_no_mean_are_those_of_lm_eval_where_asked_for(
    metric, engine, cache, tmp_path
):
    name = "texts" if metric == "word_perplexity" else "letters"
    wanted = together(tmp_path / "own", name)
    asked = replace(wanted, asked=(metric,))
    (plain,) = LmEvalTasks([wanted], engine, cache).describe()
    tasks = LmEvalTasks([asked], engine, cache)
    (description,) = tasks.describe()
    assert set(description.metrics) - set(plain.metrics) == {metric}
    # What is recorded without the parts is another way of scoring.
    assert description.protocol.digest != plain.protocol.digest
    assert description.manifest == plain.manifest
    scores = scores_of((description,), score_all(tasks))
    theirs = lm_eval_says(wanted, engine, cache)["results"][wanted.task]
    value = next(v for name, v in theirs.items() if name.startswith(f"{metric},"))
    assert scores[f"{wanted.task}/{metric}"] == pytest.approx(value, abs=1e-12)


def test_document_that_occurs_twice_is_one_item(engine, cache):
    (description,) = LmEvalTasks([settings("pets")], engine, cache).describe()
    assert len(description.manifest.items) == 44


def test_answers_follow_the_recipe_and_repeat(engine, cache):
    tasks = LmEvalTasks([settings("sums"), settings("pets")], engine, cache)
    first = score_all(tasks)
    engine.swap(replace(RECIPE, dtype="bfloat16"))
    other = score_all(tasks)
    engine.swap(RECIPE)
    assert score_all(tasks) == first != other


def test_tokens_and_cut_answers_are_counted(engine, cache):
    cut = LmEvalTasks([settings("sums", max_gen_toks=1)], engine, cache)
    outcomes = score_all(cut)["sums"].values()
    assert all(outcome.tokens == 1 for outcome in outcomes)
    assert any(outcome.truncated for outcome in outcomes)
    whole = LmEvalTasks([settings("sums")], engine, cache)
    outcomes = score_all(whole)["sums"].values()
    assert not any(outcome.truncated for outcome in outcomes)
    assert all(outcome.tokens in (2, 3) for outcome in outcomes)


def test_multiple_choice_generates_nothing(engine, cache):
    outcomes = score_all(LmEvalTasks([settings("pets")], engine, cache))["pets"]
    assert {(o.tokens, o.truncated) for o in outcomes.values()} == {(0, False)}


def test_prompt_of_an_item_does_not_depend_on_the_other_items(engine, cache):
    few = score_all(LmEvalTasks([settings("sums", limit=6)], engine, cache))["sums"]
    many = score_all(LmEvalTasks([settings("sums")], engine, cache))["sums"]
    assert len(few) == 6
    assert few.items() <= many.items()


def test_protocol_ignores_limit_and_place_but_not_settings(engine, cache, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(TASKS, moved)
    base = protocol(settings("sums"), engine, cache)
    assert protocol(settings("sums", limit=4, n_blocks=2), engine, cache) == base
    there = replace(settings("sums"), include_path=str(moved))
    assert protocol(there, engine, cache) == base
    assert protocol(replace(there, name="other"), engine, cache).digest == base.digest
    assert str(TASKS) not in json.dumps(base.to_json())
    for change in (
        {"num_fewshot": 2},
        {"max_gen_toks": 4},
        {"gen_kwargs": {"until": ["."]}},
        {"system_instruction": "Add."},
    ):
        changed = protocol(settings("sums", **change), engine, cache)
        assert changed.digest != base.digest, change


def test_protocol_follows_the_data_and_the_engine(engine, cache, tmp_path):
    base = protocol(settings("sums"), engine, cache)
    moved = tmp_path / "elsewhere"
    shutil.copytree(TASKS, moved)
    examples = moved / "data" / "sums_train.jsonl"
    lines = examples.read_text().splitlines(keepends=True)
    examples.write_text("".join(reversed(lines)))
    there = replace(settings("sums"), include_path=str(moved))
    assert protocol(there, engine, cache).digest != base.digest
    other = simulated(tmp_path, dtype="bfloat16")
    assert protocol(settings("sums"), other, cache).digest != base.digest


def protocol(wanted, engine, cache):
    (description,) = LmEvalTasks([wanted], engine, cache).describe()
    return description.protocol


def test_explicit_number_of_examples_counts(engine, cache):
    wanted = settings("pets", num_fewshot=1, search_items=("0",), report_items=("1",))
    with pytest.raises(SpecError) as refused:
        # The only documents are those that are scored; some will be examples.
        LmEvalTasks([replace(wanted, search_items=None)], engine, cache)
    assert "few-shot example" in str(refused.value)


def test_examples_from_the_scored_items_are_refused(engine, cache):
    with pytest.raises(SpecError, match=r"task self_taught: .* few-shot example"):
        LmEvalTasks([settings("self_taught")], engine, cache)


def test_splits_may_be_named(engine, cache):
    wanted = settings("sums", search_split="test", report_split="train", num_fewshot=0)
    (description,) = LmEvalTasks([wanted], engine, cache).describe()
    roles = [item.role for item in description.manifest.items]
    assert (roles.count(ItemRole.SEARCH), roles.count(ItemRole.REPORT)) == (40, 30)


def test_unknown_split_is_refused_with_the_known_ones(engine, cache):
    with pytest.raises(SpecError, match="no split 'tset'; the dataset has test, train"):
        LmEvalTasks([settings("sums", search_split="tset")], engine, cache)


def test_unknown_task_is_refused_with_the_nearest_name(engine, cache):
    with pytest.raises(SpecError, match=r"task pet: task: no task 'pet' .* pets"):
        LmEvalTasks([settings("pet")], engine, cache)


def test_missing_folder_is_refused(engine, cache):
    wanted = TaskSettings("pets", "pets", include_path="/nowhere/at/all")
    with pytest.raises(SpecError, match="folder of task files '/nowhere/at/all'"):
        LmEvalTasks([wanted], engine, cache)


def test_a_worker_is_given_the_members_of_a_group(engine, cache):
    with pytest.raises(SpecError, match=r"'several', which is a group"):
        LmEvalTasks([settings("several")], engine, cache)


def test_whole_texts_have_losses_of_their_own(engine, cache):
    tasks = LmEvalTasks([settings("rolling")], engine, cache)
    outcomes = score_all(tasks)["rolling"].values()
    assert all(
        one.metrics["nll_per_word"] > one.metrics["nll_per_byte"] > 0.0
        for one in outcomes
    )


@pytest.mark.parametrize("name", ["coded", "coded_in_disguise"])
def test_local_code_runs_only_with_permission(name, engine, cache, tmp_path):
    moved = tmp_path / "code"
    shutil.copytree(TASKS, moved)
    ran = tmp_path / "ran"
    source = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
    (moved / "code.py").write_text(source + (TASKS / "code.py").read_text())
    wanted = replace(settings(name), include_path=str(moved))
    with pytest.raises(SpecError, match=r"runs Python code .*trust_code: true"):
        LmEvalTasks([wanted], engine, cache)
    assert not ran.exists()
    (description,) = LmEvalTasks(
        [replace(wanted, trust_code=True)], engine, cache
    ).describe()
    assert ran.exists()
    assert description.metrics == ("acc", "acc_norm")


def test_task_that_executes_answers_needs_permission(engine, cache):
    with pytest.raises(SpecError, match=r"unsafe_code.*trust_code: true"):
        LmEvalTasks([settings("unsafe")], engine, cache)
    assert LmEvalTasks([settings("unsafe", trust_code=True)], engine, cache)


def test_template_cannot_reach_python(engine, cache, tmp_path):
    moved = tmp_path / "template"
    shutil.copytree(TASKS, moved)
    text = (moved / "pets.yaml").read_text()
    reach = "{{ question.__class__.__mro__ }}"
    (moved / "pets.yaml").write_text(text.replace("{{question}}", reach))
    wanted = replace(settings("pets"), include_path=str(moved))
    with pytest.raises(SpecError, match="unsafe"):
        LmEvalTasks([wanted], engine, cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen_kwargs": {"num_beams": 4}}, "num_beams: 4 is not offered"),
        ({"max_gen_toks": 5000}, "max_gen_toks is 5000, but the engine holds"),
        ({"gen_kwargs": {"max_length": 9}}, "max_length: 9 is not offered"),
        ({"apply_chat_template": True}, "has no chat template"),
    ],
)
def test_impossible_setting_is_refused_before_any_trial(change, message, engine, cache):
    with pytest.raises(SpecError, match=message):
        LmEvalTasks([settings("sums", **change)], engine, cache)


def test_generation_setting_on_a_choice_task_is_refused(engine, cache):
    with pytest.raises(SpecError, match="are for tasks that generate"):
        LmEvalTasks([settings("pets", max_gen_toks=3)], engine, cache)


def test_unknown_block_is_refused(engine, cache):
    tasks = LmEvalTasks([settings("pets")], engine, cache)
    (block,) = tasks.describe()[0].manifest.blocks(ItemRole.SEARCH)
    with pytest.raises(WorkerError, match="no task 'other'"):
        tasks.score(replace(block, task="other"))


def test_too_long_prompts_lose_their_beginning(cache, tmp_path):
    short = simulated(tmp_path, max_model_len=24)
    lm = EngineLM(short)
    request = lm.prompt("x" * 100 + " = ", {"until": ["\n"], "max_gen_toks": 8})
    assert request.prompt == tuple(b"x" * 13 + b" = ")
    tasks = LmEvalTasks([settings("pets")], short, cache)
    assert len(score_all(tasks)["pets"]) == 44


def test_sampling_settings_reach_the_engine(engine):
    lm = EngineLM(engine)
    greedy = lm.prompt("a", {"until": [], "temperature": 0.7, "do_sample": False})
    assert (greedy.temperature, greedy.seed) == (0.0, 0)
    ways = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3}
    first, again, other = (
        lm.prompt("a", ways, repeat=0),
        EngineLM(engine).prompt("a", ways, repeat=0),
        lm.prompt("a", ways, repeat=1),
    )
    assert (first.temperature, first.top_p) == (0.7, 0.9)
    assert first == again
    assert first.seed != other.seed
    assert lm.prompt("a", {"do_sample": True}).temperature == 1.0


def test_task_that_falls_over_fails_the_trial_and_not_the_worker(cache):
    wanted = settings("broken", trust_code=True)
    setup = WorkerSetup(
        EngineSettings("simulated"), (wanted, settings("pets")), {}, "f", None, cache
    )
    worker = Evaluator(setup)
    ready = worker.ready("w")
    broken, pets = (task.manifest.blocks(ItemRole.SEARCH) for task in ready.tasks)
    (failed,) = worker.run("w", Assignment(0, 1, RECIPE, broken, 60.0))
    assert failed.failure.cause is Cause.EVALUATION
    assert failed.failure.blame is Blame.CANDIDATE
    assert "no such field" in failed.failure.message
    assert len([*worker.run("w", Assignment(1, 1, RECIPE, pets, 60.0))]) == 2


def test_corrupt_data_file_is_refused(engine, cache, tmp_path):
    moved = tmp_path / "corrupt"
    shutil.copytree(TASKS, moved)
    (moved / "data" / "pets.jsonl").write_text('{"question": "a"}\n{"question"')
    wanted = replace(settings("pets"), include_path=str(moved))
    with pytest.raises(SpecError, match=r"task pets: 'pets' cannot be built"):
        LmEvalTasks([wanted], engine, cache)


def test_corrupt_task_file_is_refused(engine, cache, tmp_path):
    (tmp_path / "bad.yaml").write_text("task: bad\ninclude: [missing.yaml\n")
    wanted = TaskSettings("bad", "bad", include_path=str(tmp_path))
    with pytest.raises(SpecError, match="no task 'bad' in"):
        LmEvalTasks([wanted], engine, cache)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_unknown_name_is_looked_for_in_the_whole_library(engine, cache):
    with pytest.raises(SpecError, match=r"in lm-eval's library; .*hellaswag"):
        LmEvalTasks([TaskSettings("h", "hellaswagg")], engine, cache)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_name_of_the_library_is_among_the_words_by_which_one_is_looked_for():
    manager = TaskManager()
    words, names = task_index._library_words()
    assert set(manager.all_tasks) <= words
    assert set(manager.all_subtasks) <= names


QUIET = """
import sys, pathlib
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.evaluator import Evaluator
import numpy, random
names = ("sums", "pets", "endings")
tasks = tuple(TaskSettings(n, n, include_path=sys.argv[1]) for n in names)
setup = WorkerSetup(EngineSettings("simulated"), tasks, {}, "f", None, sys.argv[2])
worker = Evaluator(setup)
random.seed(1); numpy.random.seed(1)
before = random.getstate(), numpy.random.get_state()[1].tolist()
from evomerge.core.flow.stacks import passthrough
blocks = [b for t in worker.ready("w").tasks for b in t.manifest.blocks("search")]
assert worker.score(passthrough("a", "f", 1, "float32"), blocks)
assert before == (random.getstate(), numpy.random.get_state()[1].tolist())
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_scoring_is_quiet_and_leaves_global_randomness_alone(cache):
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(TASKS), cache],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
