"""Studies of strangers: what they try is refused, and what is sound runs to its end."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.real_study import finish, running, write_real_study
from support.services import files_of, serving
from support.study_files import simulated_study, write_models

from evomerge import api
from evomerge.client.verbs import Checked
from evomerge.core.policy import OFFLINE, Policy, confined
from evomerge.errors import ClusterUnreachableError, SpecError
from evomerge.sandbox import Limits
from evomerge.service import replica, resolving
from evomerge.service.environment import of_look
from evomerge.service.resolving import Bounds, check, look_at_words
from evomerge.service.supervisor import Site, Supervisor
from evomerge.specs.permitted import InBundle, OnDisk, refusals
from evomerge.specs.reading.yamlfile import parse_yaml
from evomerge.specs.sources import source_folder, split
from evomerge.specs.studies.study_file import load_parts
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import JobState

PATIENCE_S = 100.0


class Place:
    """Models that may be read, a folder that may not, and code that leaves a mark."""

    def __init__(self, path: Path) -> None:
        self.path, self.far = path, path / "far"
        self.models = write_models(path / "models")
        self.far.mkdir()
        (self.far / "secret.yaml").write_text("the_secret: 1\n")
        (self.models / "link").symlink_to(self.far)
        self.mark = path / "code_ran"
        self.trap = f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()\n"
        self.policy = Policy(roots=(str(self.models),))

    def bundle(self, changes: Mapping[str, Any], **files: str) -> dict[str, bytes]:
        study = simulated_study(self.models, **{"name": "mine", **changes})
        text = json.dumps(study).replace("FAR", str(self.far))
        text = text.replace("MODELS", str(self.models))
        others = {name.replace("__", "/"): content for name, content in files.items()}
        return {n: t.encode() for n, t in {"study.yaml": text, **others}.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("strangers"))


def told(found: Checked) -> str:
    return "\n".join(map(str, found.problems))


# 1. By its words alone.
OUTSIDE = "expected a path among the study's own files or below"
PATHS = [
    "/etc",
    "/",
    "FAR",
    "..",
    "../job",
    "a/../../b",
    "MODELS/../far",
    "MODELS/../models-of-others",
    "//etc",
    " /etc",
]


def engine(**options: Any) -> dict[str, Any]:
    return {"engine": {"kind": "vllm", "options": options}}


def task(**changes: Any) -> dict[str, Any]:
    plain = {"task": "simulated", "metric": "acc"}
    return {"tasks": {"one": {**plain, **changes}, "two": plain}}


HOSTILE: list[tuple[dict[str, Any], str]] = [
    *(({"sources": {"base": path}}, f"sources.base: {OUTSIDE}") for path in PATHS),
    *((task(include=path), f"tasks.one.include: {OUTSIDE}") for path in PATHS),
    *(({"evaluators": [path]}, f"evaluators.0: {OUTSIDE}") for path in PATHS),
    ({"evaluators": [{"file": "FAR/x"}]}, f"evaluators.0.file: {OUTSIDE}"),
    ({"start": [{"name": "a", "recipe": "FAR/x"}]}, f"start.0.recipe: {OUTSIDE}"),
    ({"sources": {"base": "~/model"}}, "sources.base: expected no `~`"),
    ({"sources": {"base": "~root"}}, "sources.base: expected no `~`"),
    ({"sources": {"base": "./~"}}, "sources.base: expected no `~`"),
    ({"evaluators": [".//~/x"]}, "evaluators.0: expected no `~`"),
    ({"sources": {"base": "MODELS/base+FAR"}}, f"sources.base: {OUTSIDE}"),
    ({"sources": {"base": "FAR+MODELS/base"}}, f"sources.base: {OUTSIDE}"),
    ({"sources": {"base": "MODELS/base+org/name"}}, "sources.base: expected a folder"),
    ({"sources": {"base": "org/name"}}, "sources.base: expected a folder"),
    ({"sources": {"base": "hf://org/name@main"}}, "(hub: deny)"),
    ({"sources": {"base": "hf://../../etc"}}, "(hub: deny)"),
    ({"sources": {"base": "hf:///etc/passwd"}}, "(hub: deny)"),
    (task(trust_code=True), "tasks.one.trust_code: the operator lets no task run code"),
    (engine(model="/x"), "engine.options.model: the operator lets studies choose"),
    (engine(tokenizer="/x"), "engine.options.tokenizer"),
    (engine(trust_remote_code=True), "(allow_remote_code: false)"),
    (engine(hf_overrides={"a": 1}), "engine.options.hf_overrides"),
    (engine(download_dir="/x"), "engine.options.download_dir"),
    (engine(distributed_executor_backend="x.Y"), "distributed_executor_backend"),
    (engine(worker_extension_cls="x.Y"), "engine.options.worker_extension_cls"),
    (engine(worker_cls="x.Y"), "engine.options.worker_cls"),
    (engine(logits_processors=["x:Y"]), "engine.options.logits_processors"),
    (engine(speculative_config={"model": "/x"}), "engine.options.speculative_config"),
    (engine(allowed_local_media_path="/"), "engine.options.allowed_local_media_path"),
    (engine(attn_implementation="org/kernel"), "engine.options.attn_implementation"),
    (engine(quantization="org/code"), "expected a number, true, false or a word"),
    (engine(block_size={"a": 1}), "expected a number, true, false or a word"),
    (
        {"stages": [{"name": "a", **engine(model="/x")}]},
        "stages.0.engine.options.model",
    ),
    (
        {"stages": [{"name": "a", "start": [{"recipe": "/x"}]}]},
        "stages.0.start.0.recipe",
    ),
    ({"name": "theirs.stage"}, "name: expected no dot"),
    ({"name": None}, "name: expected a name"),
    ({"name": 5}, "name: expected a name"),
]


@pytest.mark.parametrize(("changes", "said"), HOSTILE)
def test_what_a_study_may_not_have_is_told_by_its_words(
    place: Place, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "look_at", None)  # no process is started
    found = check(place.bundle(changes), place.policy)
    assert said in told(found).replace("study.yaml:1: ", "")
    assert all(
        problem.line == 1 for problem in found.problems if changes.get("name", 1)
    )


def test_all_of_it_is_told_at_once(place: Place) -> None:
    changes = {
        "sources": {"base": "/etc", "math": "org/name", "ja": "MODELS/ja"},
        **engine(model="/x", trust_remote_code=True),
        **task(trust_code=True, include=".."),
        "workers": 100,
        "budget": {"trials": 1000},
    }
    limited = Policy(roots=(str(place.models),), max_workers=8, max_trials=99)
    found = look_at_words(place.bundle(changes), limited)
    assert {problem.where.partition(": ")[2] for problem in found.problems} == {
        *("sources.base", "sources.math", "engine.options.model", "workers", "budget"),
        *("engine.options.trust_remote_code", "tasks.one.trust_code"),
        "tasks.one.include",
    }


@pytest.mark.parametrize("listed", [False, True])
def test_nobody_begins_with_what_others_found(place: Place, listed: bool) -> None:
    start = {"study": "theirs", "top": 3}
    changes = {"start": [start] if listed else start}
    found = look_at_words(place.bundle(changes), place.policy)
    assert "start.0.study: studies of all users are in one database" in told(found)


@pytest.mark.parametrize("path", ["more/tasks.yaml", "./more/../more/tasks.yaml"])
def test_tasks_of_an_evaluator_file_are_looked_at_too(place: Place, path: str) -> None:
    inner = {"tasks": {"evil": {"trust_code": True, "include": "../../x"}}}
    files = place.bundle({"evaluators": [path]}, more__tasks=yaml.safe_dump(inner))
    files["more/tasks.yaml"] = files.pop("more/tasks")
    found = told(look_at_words(files, place.policy))
    assert "evaluators.0: task evil: trust_code: the operator lets no task" in found
    assert f"evaluators.0: task evil: {OUTSIDE}" in found


@pytest.mark.parametrize(
    ("budget", "got"),
    [
        ({"items": 5}, "at most 10 trials here, got no limit"),
        ({"trials": 11, "hours": 1}, "at most 10 trials here, got 11"),
        ({"trials": 5, "hours": 2}, "at most 60 minutes here, got 120"),
        ({"trials": 5}, "at most 60 minutes here, got no limit"),
        ({"trials": "5", "minutes": 5}, "at most 10 trials here, got no limit"),
        (None, "at most 10 trials here, got no limit"),
    ],
)
def test_budgets_have_the_operators_limits(place: Place, budget: Any, got: str) -> None:
    limited = Policy(roots=(str(place.models),), max_trials=10, max_minutes=60)
    assert got in told(look_at_words(place.bundle({"budget": budget}), limited))
    sound = place.bundle({"budget": {"trials": 10, "seconds": 3600}})
    assert not look_at_words(sound, limited).problems
    stage = {"name": "a", "budget": {"trials": 6, "minutes": 1}}
    stages = [stage, {**stage, "name": "b"}]
    found = look_at_words(place.bundle({"stages": stages, "budget": None}), limited)
    assert "at most 10 trials here, got 12" in told(found)


@pytest.mark.parametrize(
    "name",
    [
        "x'; DROP TABLE em_job; --",
        "<script>alert(1)</script>",
        "../../other",
        "a\nb",
        "{{7*7}}",
        "$(touch x)",
        "",
    ],
)
def test_names_are_words(place: Place, name: str) -> None:
    """What pages, queries, shells and folders are told is made of letters."""
    names: list[dict[str, Any]] = [
        {"name": name},
        {"sources": {name: "MODELS/base", "base": "MODELS/base"}},
        {"objectives": [{"name": name, "measure": "one/acc"}]},
        {"tasks": {name: {"task": "simulated", "metric": "acc"}}},
        {"baselines": {"others": [{"name": name, "operator": "linear"}]}},
    ]
    for changes in names:
        files = place.bundle(changes)
        study = place.path / "study.yaml"
        study.write_bytes(files["study.yaml"])
        with pytest.raises(SpecError):
            load_parts(study)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"",
        b"- a\n",
        b"a: !!python/object/apply:os.system [touch x]\n",
        b"a: &a [*a, *a]\n",
        b"a: 1\na: 2\n",
        b"[" * 100_000,
        b"a: " + b"9" * 5000,
    ],
)
def test_what_is_no_study_file_is_told(place: Place, text: bytes) -> None:
    assert look_at_words({"study.yaml": text}, place.policy).problems


def test_a_bundle_is_held_to_its_bounds_first(place: Place) -> None:
    many = {f"f{i}": b"" for i in range(300)}
    for files in (
        {"study.yaml": b"x" * (9 << 20)},
        {"a": b""},
        {"study.yaml": b"", **many},
    ):
        assert look_at_words(files, place.policy).problems


# 2. Where links are followed.
@pytest.mark.parametrize(
    "changes",
    [
        {"sources": {"base": "MODELS/link"}},
        {"evaluators": ["MODELS/link/secret.yaml"]},
        {"start": [{"name": "a", "recipe": "MODELS/link/secret.yaml"}]},
        task(include="MODELS/link"),
    ],
)
def test_a_link_out_of_a_root_is_refused_where_it_is_read(
    place: Place, changes: dict[str, Any]
) -> None:
    files = place.bundle(changes)
    assert not look_at_words(files, place.policy).problems  # words do not tell
    folder = place.path / "job"
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_bytes(files["study.yaml"])
    inside = place.policy.with_roots(folder)
    with confined(inside), pytest.raises(SpecError) as error:
        load_parts(folder / "study.yaml")
    assert OUTSIDE in str(error.value)
    assert "the_secret" not in str(error.value)


def test_what_is_said_does_not_tell_what_is_there(place: Place) -> None:
    said = []
    for path in (place.far, place.path / "nowhere"):
        found = told(
            look_at_words(place.bundle({"sources": {"base": str(path)}}), place.policy)
        )
        said.append(found.replace(str(path), "PATH"))
    assert said[0] == said[1]


PIECES = ["..", ".", "base", "link", "a", "b+c", "+", "~", "", "far", "models", "job"]


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["", "/", "MODELS/", "MODELS/base+", "FAR/", "hf://", "~", " "]),
    st.lists(st.sampled_from(PIECES), max_size=6),
)
def test_no_source_that_is_taken_leads_out_of_the_roots(
    place: Place, start: str, pieces: list[str]
) -> None:
    text = (start + "/".join(pieces)).replace("MODELS", str(place.models))
    text = text.replace("FAR", str(place.far))
    folder = place.path / "job"
    folder.mkdir(exist_ok=True)
    policy = place.policy.with_roots(folder)
    data = parse_yaml(json.dumps({"sources": {"base": text}}), "study.yaml")
    if refusals(data, OnDisk(policy, folder)):
        return
    with confined(policy):
        parts = [part for part in split(text.strip(), folder) if part is not None]
        for part in parts:
            assert policy.is_within(source_folder(part, folder))
    # In a bundle there is nothing above it, not even what would be a root here.
    climbs = [PurePosixPath(os.path.normpath(part)).parts[:1] for part in parts]
    assert bool(refusals(data, InBundle(place.policy, {}))) == (("..",) in climbs)


# 3. In a process of its own.
QUICK = Bounds(seconds=60.0)


def test_a_sound_study_is_taken_and_a_wrong_one_is_told_by_a_child(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMERGE_DB", "postgresql://x:secret@db/x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(place.far / "secret.yaml"))
    seen: list[Mapping[str, str]] = []
    ask = resolving._asked

    def asked(request: Any, environment: Mapping[str, str], *more: Any) -> Any:
        seen.append(environment)
        assert "secret" not in json.dumps(request)
        return ask(request, environment, *more)

    monkeypatch.setattr(resolving, "_asked", asked)
    assert check(place.bundle({}), place.policy, bounds=QUICK) == Checked("mine")
    known = {"EVOMERGE_DB", "RAY_AUTH_TOKEN_PATH", "HF_TOKEN"}
    assert not known & seen[0].keys()
    assert OFFLINE.items() <= seen[0].items()
    wrong = {"strategy": {"kind": "nope.Nope"}, "budget": {"trials": 0}}
    found = check(place.bundle(wrong), place.policy, bounds=QUICK)
    assert "unknown strategy" in told(found) or "expected a name" in told(found)
    assert "study.yaml:1: budget.trials" in told(found)


def test_code_in_a_bundle_is_never_run(place: Place) -> None:
    """Task files with traps, and modules that would be imported by accident."""
    rows = [{"question": f"{n}+1", "answer": f"{n + 1}"} for n in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    plain = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "data.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match"}],
        "output_type": "generate_until",
    }
    hostile: dict[str, dict[str, Any]] = {
        "metric": {"metric_list": [{"metric": "MODELS/evil.py"}]},
        "script": {"dataset_path": "evil.py"},
        "class": {"class": "evil.f"},
        "unsafe": {"unsafe_code": True},
        "far": {"dataset_kwargs": {"data_files": "FAR/secret.yaml"}},
        "link": {"dataset_kwargs": {"data_files": "MODELS/link/secret.yaml"}},
        "remote": {"dataset_kwargs": {"data_files": "http://127.0.0.1/x"}},
        "escape": {"doc_to_text": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    }
    folders = {
        name: yaml.safe_dump({"task": name, **plain, **changes})
        for name, changes in {**hostile, "sound": {}}.items()
    }
    coded = yaml.safe_dump({"task": "function", **plain})
    folders["function"] = f"{coded}process_docs: !function evil.f\n"
    tasks = {
        name: {"include": f"tasks/{name}", "metric": "exact_match"} for name in folders
    }
    files = place.bundle({"tasks": tasks, "objectives": None, "engine": {"kind": "hf"}})
    for name, text in folders.items():
        said = text.replace("FAR", str(place.far)).replace("MODELS", str(place.models))
        files[f"tasks/{name}/task.yaml"] = said.encode()
        files[f"tasks/{name}/data.jsonl"] = lines.encode()
        files[f"tasks/{name}/evil.py"] = place.trap.encode()
    for module in ("numpy", "sitecustomize", "usercustomize", "evomerge", "yaml"):
        files[f"{module}.py"] = place.trap.encode()
    found = check(files, place.policy)
    assert not place.mark.exists()
    for name in (*hostile, "function"):
        assert f"tasks.{name}:" in told(found), name
    assert "tasks.sound" not in told(found)
    assert "the_secret" not in told(found)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (Bounds(seconds=0.3), "took more than 0 s"),
        (Bounds(limits=Limits(60 << 20, 20, 1 << 20)), "could not be looked at"),
    ],
)
def test_a_look_has_limits(
    place: Place,
    bounds: Bounds,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (room := tmp_path / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))  # others look at once
    found = check(place.bundle({}), place.policy, bounds=bounds)
    assert said in told(found)
    assert not list(room.glob("evomerge-check-*/bundle"))


def test_who_comes_when_many_are_looked_at_comes_again(place: Place) -> None:
    for _ in range(resolving.AT_ONCE):
        resolving._turns.acquire()
    try:
        with pytest.raises(ClusterUnreachableError, match="2 other studies"):
            check(place.bundle({}), place.policy, bounds=Bounds(patience_s=0.01))
    finally:
        for _ in range(resolving.AT_ONCE):
            resolving._turns.release()


@pytest.mark.parametrize(
    "line",
    [b"[]", b"{}", b"\xff", b'{"study": 1}', b'{"study": "a", "problems": [{"x": 1}]}'],
)
def test_an_answer_that_is_none_is_no_answer(line: bytes) -> None:
    assert resolving._answer(line) is None


def test_only_who_may_ask_a_hub_gets_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert "HF_TOKEN" not in of_look(tmp_path, has_hub=False)
    assert of_look(tmp_path, has_hub=True)["HF_TOKEN"] == "hf_x"


def test_a_study_of_ones_own_may_have_all(place: Place) -> None:
    own = {"sources": {"base": "/etc"}, **engine(model="/x"), **task(trust_code=True)}
    assert look_at_words(place.bundle(own), None) == Checked("mine")


# 4. Over HTTP.
def test_a_service_tells_what_a_study_may_not_have(
    place: Place, tmp_path: Path
) -> None:
    hostile = simulated_study(place.models, name="mine", sources={"base": "/etc"})
    hostile["engine"] = {"kind": "vllm", "options": {"model": "/x"}}
    sound = simulated_study(place.models, name="mine")
    url, spool = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool"
    with serving(url, spool, policy=place.policy) as service:
        refused = service.submit("mine", hostile)
        assert (refused.status, refused.data["code"]) == (422, 2)
        told = {one["where"]: one["message"] for one in refused.data["problems"]}
        assert told.keys() == {
            "study.yaml: sources.base",
            "study.yaml: engine.options.model",
        }
        looked = service.call("POST", "/v1/check", {"files": files_of(hostile)})
        assert (looked.status, len(looked.data["problems"])) == (200, 2)
        assert service.call("GET", "/v1/studies").data["jobs"] == []
        assert service.submit("mine", sound).status == 201
        assert service.submit("other", sound, who="bob").status == 409  # ann's study
    for ours in (tmp_path, spool):
        open_root = Policy(roots=(str(ours),))
        with pytest.raises(SpecError, match="the spool folder"):
            replica.serve(
                Site(url, spool, policy=open_root), replica.Listening(port=0), print
            )


# 5. Where it is run.
def test_a_study_that_is_taken_runs_to_its_end_under_the_policy(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    files = place.bundle({})
    for module in ("numpy", "sitecustomize", "evomerge", "yaml"):
        files[f"{module}.py"] = place.trap.encode()
    assert not look_at_words(files, place.policy).problems
    url, spool = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool"
    accounts, queue = open_accounts(url), open_queue(url)
    accounts.add_user("ann")
    accounts.close()
    queue.submit("ann", Submission("mine", "mine", Bundle(files)))
    linked = place.bundle({"name": "linked", "sources": {"base": "MODELS/link"}})
    queue.submit("ann", Submission("linked", "linked", Bundle(linked)))
    supervisor = Supervisor(
        open_queue(url), Site(url, spool, policy=place.policy), "one"
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    final = {JobState.FINISHED, JobState.FAILED}
    end = time.monotonic() + PATIENCE_S
    try:
        while not all(queue.get("ann", n).state in final for n in ("mine", "linked")):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.3)
    finally:
        supervisor.drain()
        thread.join()
    assert queue.get("ann", "mine").state is JobState.FINISHED, queue.get("ann", "mine")
    job = queue.get("ann", "linked")
    assert (job.state, OUTSIDE in str(job.why)) == (JobState.FAILED, True)
    queue.close()
    assert not place.mark.exists()
    kept = (spool, spool / "ann", *(spool / "ann" / "mine").iterdir())
    assert [path for path in kept if path.stat().st_mode & 0o77] == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_task_of_ones_own_is_scored_by_a_real_engine_under_the_policy(
    tmp_path: Path,
) -> None:
    job, models = tmp_path / "job", tmp_path / "models"
    job.mkdir()
    write_real_study(job, {"kind": "hf"}, trials=2, block_s=0.0)
    models.mkdir()
    for name in ("base", "a", "b"):
        (job / name).rename(models / name)
    study = json.loads((job / "calm.yaml").read_text())
    study["sources"] = {name: str(models / name) for name in ("base", "a", "b")}
    (job / "study.yaml").write_text(json.dumps(study))
    (tmp_path / "cluster.yaml").write_text(f"roots: [{models}]\nmax_trials: 4\n")
    url = f"sqlite:///{tmp_path}/x.db"
    held = ("--policy", "../cluster.yaml", "--db", url)
    finish(job, "run", "study.yaml", "--in-process", *held)
    assert len(api.trials("real", db=url)) >= 2
    finish(job, "export", "real", "out", *held)
    task = job / "tasks" / "sums.yaml"
    task.write_text(task.read_text().replace("sums.jsonl", f"{tmp_path}/far.jsonl"))
    (tmp_path / "far.jsonl").write_text((job / "tasks" / "sums.jsonl").read_text())
    with running(
        job, "resume", "real", "--trials", "4", "--in-process", *held, salt=1
    ) as process:
        said = process.communicate()[0]
    assert process.returncode == 2
    assert "dataset_kwargs.data_files.test: expected a file among" in said
