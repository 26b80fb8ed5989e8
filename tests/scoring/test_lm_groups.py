"""Groups of tasks: the same figures as lm-eval's own, on the same items."""

import json
from pathlib import Path

import pytest
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import ItemRole, pooled, scores_of
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.scored_tasks import LmEvalTasks
from evomerge.scoring.items import item_id
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.scoring.survey import Surveyor
from evomerge.specs.completing.measures import tasks_of
from evomerge.specs.schema.measures import TaskSpec

SIZES = {"cats": 12, "dogs": 20, "mice": 41}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of different sizes, and groups of them."""
    folder = tmp_path_factory.mktemp("tasks")
    for number, (name, size) in enumerate(SIZES.items()):
        rows = [
            {"q": f"{name} {i}", "choices": ["a", "bb", "c"], "label": (i + number) % 3}
            for i in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        write(folder, name, task=name, tag="animals", **TASK, **data(folder / name))
    return folder


TASK = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        {"metric": "brier_score", "aggregation": "brier_score"},
    ],
}


def data(name):
    return {"dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}


def write(folder, file, **keys):
    (folder / f"{file}.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))


def weighted(by_size, metric="acc"):
    return [{"metric": metric, "weight_by_size": by_size}]


GROUPS = {
    "by_size": {
        "group": "by_size",
        "task": ["cats", "dogs", "mice"],
        "aggregate_metric_list": weighted(True),
    },
    "each_alike": {
        "group": "each_alike",
        "task": ["cats", "mice"],
        "aggregate_metric_list": weighted(False),
    },
    "two_figures": {
        "group": "two_figures",
        "task": ["mice", "dogs"],
        "aggregate_metric_list": [*weighted(False), *weighted(True, "acc_norm")],
    },
    "nested": {
        "group": "nested",
        "group_alias": "all of them",
        "task": [
            "cats",
            {
                "group": "barking",
                "group_alias": "loud",
                "task": ["dogs", "mice"],
                "aggregate_metric_list": weighted(False),
            },
        ],
        "aggregate_metric_list": weighted(True),
    },
    "of_a_tag": {
        "group": "of_a_tag",
        "task": ["animals"],
        "aggregate_metric_list": weighted(True),
    },
    "of_a_group": {
        "group": "of_a_group",
        "task": [{"group": "each_alike"}, {"task": "dogs", "num_fewshot": 0}],
        "doc_to_text": "Tell: {{q}}",
        "aggregate_metric_list": weighted(True),
    },
}


@pytest.fixture
def engine(tmp_path):
    settings = EngineSettings(kind="simulated")
    engine = SimulatedEngine(WorkerSetup(settings, (), {}, "fa", None, str(tmp_path)))
    engine.swap(passthrough("a", "fa", 2, "float32"))
    return engine


@pytest.fixture
def survey(folder, tmp_path):
    """Survey a task of the folder, whose other groups are written first."""

    def _survey(name, **changes):
        for file, keys in GROUPS.items():
            write(folder, file, **keys)
        settings = TaskSettings("pets", name, include_path=str(folder), **changes)
        return Surveyor(tmp_path / "cache")([settings])

    return _survey


def members(surveyed, folder, **changes):
    spec = type("Spec", (), {})()
    spec.tasks = {"pets": TaskSpec(task="x", include=folder, **changes)}
    from evomerge.specs.schema.measures import StudyItemsSpec

    spec.items = StudyItemsSpec()
    return tasks_of(spec, surveyed.members)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("role", ItemRole)
def test_a_group_scores_as_in_lm_eval(name, role, survey, folder, engine, tmp_path):
    surveyed = survey(name)
    assert not surveyed.problems
    ours = LmEvalTasks(members(surveyed, folder), engine, str(tmp_path / "cache"))
    described = ours.describe()
    known = {
        d.manifest.task: {
            o.item: o for block in d.manifest.blocks(role) for o in ours.score(block)
        }
        for d in described
    }
    scores = scores_of(described, known, role)

    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])
    samples = {}
    for d in described:
        task = d.manifest.task.removeprefix("pets.")
        wanted = set(d.manifest.ids_of(role))
        docs = list(loaded["tasks"][task].test_docs())
        samples[task] = [i for i, doc in enumerate(docs) if item_id(doc) in wanted]
    theirs = evaluate(EngineLM(engine), loaded, samples=samples, bootstrap_iters=0)
    for group in loaded["groups"].values():
        inner = group.name.removeprefix(f"{name}::")
        named = "pets" if group.name == name else f"pets.{inner}"
        for figure in group.aggregate_metric_list:
            said = theirs["results"][group.name][f"{figure.metric},none"]
            assert scores[f"{named}/{figure.metric}"] == pytest.approx(said, abs=1e-12)
    for task in samples:
        said = theirs["results"][task]["acc,none"]
        assert scores[f"pets.{task}/acc"] == pytest.approx(said, abs=1e-12)


def test_a_tag_means_the_mean_of_its_tasks_and_says_so(survey, folder):
    surveyed = survey("animals")
    assert [m.task for m in surveyed.members["pets"]] == ["cats", "dogs", "mice"]
    assert surveyed.facts["pets"].senses == {"acc": True, "acc_norm": True}
    (warning,) = surveyed.warnings
    assert warning.where == "pets.task"
    assert "3 tasks is meant, each counting alike" in warning.message


def test_every_member_keeps_a_limit_of_its_own(survey, folder):
    assert survey("by_size", limit=10).items == {"pets": (15, 15)}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"task": ["cats", "dog"]}, "no task 'dog'"),
        ({"task": ["cats", "cats"]}, "holds cats twice"),
        ({"task": []}, "holds no task"),
        ({"task": ["odd"]}, "the group 'odd' holds itself"),
        ({"task": [{"task": "own", **TASK}]}, "'own' is written inside its group"),
        ({"task": [3]}, "a group's member is 3"),
        (
            {
                "task": ["cats"],
                "aggregate_metric_list": [{"metric": "acc", "aggregation": "max"}],
            },
            "expected the mean of 'acc'",
        ),
        (
            {"task": [{"task": "cats", "process_docs": "utils.drop"}]},
            "runs Python code",
        ),
    ],
)
def test_a_group_that_cannot_be_had_is_refused(keys, says, survey, folder):
    write(folder, "odd", group="odd", **keys)
    (problem,) = survey("odd").problems
    (folder / "odd.yaml").unlink()
    assert problem.where.startswith("pets")
    assert says in problem.message


def test_a_metric_that_is_no_mean_is_refused_of_a_group_too(survey, folder):
    figures = weighted(True, "brier_score")
    write(folder, "odd", group="odd", task=["cats"], aggregate_metric_list=figures)
    facts = survey("odd").facts["pets"]
    (folder / "odd.yaml").unlink()
    assert facts.senses == {}
    assert "no mean over items" in facts.refused["brier_score"]
    assert "use acc or acc_norm" in facts.refused["brier_score"]


def test_outcomes_of_a_group_average_to_its_figure(survey, folder, engine, tmp_path):
    surveyed = survey("each_alike")
    ours = LmEvalTasks(members(surveyed, folder), engine, str(tmp_path / "cache"))
    answers = {
        d.manifest.task: [
            outcome
            for block in d.manifest.blocks(ItemRole.REPORT)
            for outcome in ours.score(block)
        ]
        for d in ours.describe()
    }
    whole = pooled(ours.describe(), answers)["pets"]
    values = [outcome.metrics["acc"] for outcome in whole]
    means = [sum(o.metrics["acc"] for o in a) / len(a) for a in answers.values()]
    assert sum(values) / len(values) == pytest.approx(sum(means) / 2)
