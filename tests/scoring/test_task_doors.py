"""Every way into code that lm-eval offers to a task file, with a trap behind it."""

import dataclasses
import inspect
import os
import pickle
import re

import datasets
import pytest
import yaml
from lm_eval import utils
from lm_eval.api import metrics, samplers
from lm_eval.api import task as api_task
from lm_eval.api.registry import filter_registry, metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.group import AggMetricConfig, GroupConfig
from lm_eval.config.task import FewshotConfig, TaskConfig
from lm_eval.tasks import _factory, _yaml_loader
from support.study_files import without_lines

from evomerge.core.work import TaskSettings
from evomerge.errors import SpecError
from evomerge.scoring.harness.internals import BUILDERS
from evomerge.scoring.harness.loading import load_task
from evomerge.scoring.harness.task_files import FILE_BUILDERS, CodeRefusedError
from evomerge.scoring.harness.task_keys import (
    AGGREGATE,
    DATASET,
    FEWSHOT,
    FILTERS,
    GENERATION,
    GROUP,
    METRIC,
    TASK,
)

TASK_FILE = {
    "task": "hello",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "hello.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2, "do_sample": False},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    ],
}


class Bomb:
    """Leaves the mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


class Folder:
    """Task files with traps: whatever runs code of theirs leaves a mark."""

    def __init__(self, path):
        self.path = path / "tasks"
        self.far = path / "far"
        self.mark = path / "code_ran"
        trap = f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()\n"
        function = "def f(*_, **__):\n    return []\n"
        for folder in (self.path, self.far, self.path / "scripts"):
            folder.mkdir()
            (folder / "evil.py").write_text(trap + function)
            (folder / "hello.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
        (self.path / "bomb.pkl").write_bytes(pickle.dumps(Bomb(self.mark)))
        (self.far / "coded.yaml").write_text("process_docs: !function evil.f\n")
        (self.path / "coded.yaml").write_text("process_docs: !function evil.f\n")
        (self.path / "chain.yaml").write_text("include: coded.yaml\n")
        (self.path / "linked.yaml").symlink_to(self.far / "coded.yaml")
        (self.path / "prompts.yaml").write_text(
            "prompts: {x: !!python/object/apply:evil.f []}\n"
        )

    def write(self, text):
        (self.path / "hello.yaml").write_text(text)

    def load(self, **changes):
        settings = TaskSettings("mine", "hello", str(self.path), **changes)
        return load_task(settings, str(self.path.parent / "cache"))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def file_with(path, value):
    """Return the task file with one value changed: ``a.0.b`` is a place in it."""
    config = yaml.safe_load(yaml.safe_dump(TASK_FILE))
    *parents, last = path.split(".")
    at = config
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at.setdefault(name, {})
    at[int(last) if isinstance(at, list) else last] = value
    return yaml.safe_dump(config, sort_keys=False)


def refused(folder, key):
    with pytest.raises(SpecError) as error:
        folder.load()
    assert key in without_lines(str(error.value))
    assert not folder.mark.exists()
    return error


# 1. Tags: at every key of every table, and in every spelling.
PLACES = [
    *TASK,
    *(f"fewshot_config.{key}" for key in FEWSHOT),
    *(f"metric_list.0.{key}" for key in METRIC),
    *(f"generation_kwargs.{key}" for key in GENERATION),
    *(f"dataset_kwargs.{key}" for key in DATASET),
    "metric_list.0",
    "metric_list.0.of_my_own",
    "dataset_kwargs.data_files.test",
    "metadata.deep.down",
]
SPELLINGS = [
    "!function evil.f",
    "!%66unction evil.f",
    "!<!function> evil.f",
    "! !function evil.f",
    "[[!function evil.f]]",
    "{a: {b: !function evil.f}}",
    "!!python/name:evil.f ''",
    "!!python/module:evil ''",
    "!!python/object:evil.f {}",
    "!!python/object/apply:evil.f []",
    "!!python/object/new:evil.f []",
    "!<tag:yaml.org,2002:python/object/apply:evil.f> []",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_function_at_any_key_is_refused(place, folder):
    folder.write(file_with(place, "HERE").replace("HERE", "!function evil.f"))
    if place in ("task", "tag"):  # the file then has no name to be found by
        refused(folder, f"hello.yaml: {place}: expected a name")
        return
    error = refused(folder, f"hello.yaml: {place}: runs Python code (!function")
    assert error.type is CodeRefusedError
    assert "trust_code: true" in str(error.value)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_tag_in_any_spelling_is_refused(spelling, folder):
    folder.write(file_with("process_docs", "HERE").replace("HERE", spelling))
    refused(folder, "hello.yaml" if spelling.startswith("! ") else "process_docs")


def test_a_tag_with_a_handle_of_its_own_is_refused(folder):
    text = file_with("process_docs", "HERE").replace(
        "HERE", "!p!object/apply:evil.f []"
    )
    folder.write("%TAG !p! tag:yaml.org,2002:python/\n---\n" + text)
    refused(folder, "process_docs")


@pytest.mark.parametrize("name", [5, None, ["a"], {"a": 1}, True, 1.5])
@pytest.mark.parametrize("key", ["task", "tag", "group"])
def test_a_file_whose_name_is_none_does_not_hide_the_others(key, name, folder):
    folder.write(yaml.safe_dump(TASK_FILE))
    other = {"task": "other", key: name}
    (folder.path / "other.yaml").write_text(yaml.safe_dump(other))
    assert folder.load()


# 2. Includes.
@pytest.mark.parametrize(
    ("include", "key"),
    [
        ("coded.yaml", "process_docs: runs Python code"),
        ("chain.yaml", "process_docs: runs Python code"),
        (["coded.yaml"], "process_docs: runs Python code"),
        ("linked.yaml", "outside the folder"),
        ("../far/coded.yaml", "outside the folder"),
        ("FAR/coded.yaml", "outside the folder"),
        ("../tasks/../far/coded.yaml", "outside the folder"),
        ("evil.py", "evil.py"),
        ("hello.yaml", "included twice"),
        ("nowhere.yaml", "missing"),
        ("/dev/zero", "outside the folder"),
        (5, "include"),
        ([["coded.yaml"]], "include"),
        ("a\0b", "include"),
    ],
)
def test_includes_bring_no_code_and_stay_in_the_folder(include, key, folder):
    if isinstance(include, str):
        include = include.replace("FAR", str(folder.far))
    folder.write(file_with("include", include))
    refused(folder, key)


# 3. Keys whose plain text lm-eval turns into code.
OWN = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
PLAIN = {
    "custom_dataset": "evil.f",
    "process_docs": "evil.f",
    "process_results": "evil.f",
    "class": "evil.f",
    "unsafe_code": True,
    "fewshot_config.process_docs": "evil.f",
    "metric_list": [
        [{**OWN, "metric": "SCRIPTS/evil.py"}],
        [{**OWN, "metric": "SCRIPTS/evil.py", "hf_evaluate": True}],
        [{**OWN, "metric": "./evil.py"}],
        [{**OWN, "metric": "SCRIPTS"}],
        [{**OWN, "metric": "accuracy"}],
        [{**OWN, "metric": "accuracy", "hf_evaluate": True}],
        [{**OWN, "metric": "code_eval"}],
        [{**OWN, "metric": "someone/metric"}],
        [{**OWN, "hf_evaluate": True}],
        [{**OWN, "hf_evaluate": 1}],
        [OWN, {**OWN, "metric": "SCRIPTS/evil.py"}],
    ],
    "dataset_path": [
        "SCRIPTS/evil.py",
        "SCRIPTS",
        "pandas",
        "webdataset",
        "generator",
        "spark",
        "cache",
        "hdf5",
    ],
}
ROUTES = [
    (key, value)
    for key, values in PLAIN.items()
    for value in (values if isinstance(values, list) else [values])
]


@pytest.mark.parametrize(("key", "value"), ROUTES)
def test_text_that_becomes_code_is_refused(key, value, folder):
    text = file_with(key, value).replace("SCRIPTS", str(folder.path / "scripts"))
    folder.write(text)
    error = refused(folder, f"hello.yaml: {key}")
    assert error.type is CodeRefusedError


def test_a_filter_of_its_own_is_refused(folder):
    step = {"function": "custom", "filter_fn": "evil.f"}
    folder.write(file_with("filter_list", [{"name": "x", "filter": [step]}]))
    refused(folder, "hello.yaml: filter_list.0.filter.0.filter_fn: runs Python code")


@pytest.mark.parametrize("name", ["evil.f", "../evil.f", "decontaminate", "eval", 3])
def test_a_filter_that_is_not_lm_evals_is_refused(name, folder):
    folder.write(
        file_with("filter_list", [{"name": "x", "filter": [{"function": name}]}])
    )
    refused(folder, "filter_list.0.filter.0.function")


@pytest.mark.parametrize("name", ["evil.f", "promptsource", 5, ["default"]])
def test_a_sampler_that_is_not_lm_evals_is_refused(name, folder):
    folder.write(file_with("fewshot_config.sampler", name))
    refused(folder, "fewshot_config.sampler")


@pytest.mark.parametrize("name", ["promptsource:x", "prompts.yaml:x", "x", ":", 5])
def test_a_prompt_from_elsewhere_is_refused(name, folder):
    folder.write(file_with("use_prompt", name))
    refused(folder, "use_prompt")


@pytest.mark.parametrize("name", ["evil.f", "../evil", "nothing", ["mean"]])
def test_a_way_to_add_up_that_is_not_lm_evals_is_refused(name, folder):
    folder.write(file_with("metric_list.0.aggregation", name))
    refused(folder, "metric_list.0.aggregation")


# 4. Data.
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data_files", {"test": "zip://hello.jsonl::x.zip"}),
        ("data_files", {"test": "reference://x::hello.json"}),
        ("data_files", {"test": "file:///etc/hostname"}),
        ("data_files", ["ssh://host/x"]),
        ("data_files", {"test": "a\0b"}),
        ("data_files", {"test": 5}),
        ("data_files", {"test": "/dev/zero"}),
        ("data_files", {"test": "."}),
        ("data_files", {"test": "no such file.jsonl"}),
        ("cache_dir", "/tmp/elsewhere"),
        ("storage_options", {"fo": "evil"}),
        ("download_config", {}),
        ("features", {}),
        ("num_proc", 64),
        ("streaming", True),
        ("sep", "(a+)+$"),
        ("engine", "python"),
        ("converters", {}),
        ("con", "sqlite://"),
        ("sql", "select 1"),
    ],
)
def test_data_come_from_plain_files_and_nothing_else(option, value, folder):
    folder.write(file_with(f"dataset_kwargs.{option}", value))
    refused(folder, f"dataset_kwargs.{option}")


def test_a_pickled_data_set_is_refused(folder):
    config = file_with("dataset_path", "pandas").replace("hello.jsonl", "bomb.pkl")
    folder.write(config)
    refused(folder, "dataset_path")
    pickles = folder.path / "pickles"
    pickles.mkdir()
    (folder.path / "bomb.pkl").rename(pickles / "bomb.pkl")
    folder.write(file_with("dataset_path", str(pickles)))
    refused(folder, "dataset_path")


# Data that are no data.
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00rest", "packed; unpack it"),
        (b"PK\x03\x04rest", "packed; unpack it"),
        (b'{"question": "1+1", "answer"\n', "JSON"),
        (b"\xff\xfe\x00", "cannot be built"),
        (b"[" * 100_000, "cannot be built"),
        (b"5\n6\n", "cannot be built"),
        (b"{}\n", "cannot be built"),
        (b"\n" * 1_000_001, "at most 1000000 lines"),
    ],
)
def test_a_bad_data_file_is_told(content, said, folder):
    (folder.path / "hello.jsonl").write_bytes(content)
    folder.write(yaml.safe_dump(TASK_FILE))
    refused(folder, said)


def test_a_data_file_that_is_no_file_or_endless_is_not_opened(folder):
    data = folder.path / "hello.jsonl"
    folder.write(yaml.safe_dump(TASK_FILE))
    data.unlink()
    refused(folder, "no regular file")
    os.mkfifo(data)
    refused(folder, "no regular file")
    data.unlink()
    data.symlink_to("/dev/zero")
    refused(folder, "no regular file")
    data.unlink()
    with data.open("wb") as file:
        file.truncate(1 << 34)
    refused(folder, "expected at most 268435456 bytes")
    with data.open("wb") as file:
        file.write(b" [")
        file.truncate(1 << 26)
    refused(folder, "write one JSON object a line")


def test_a_task_file_that_is_no_file_does_not_hang_the_others(folder):
    folder.write(yaml.safe_dump(TASK_FILE))
    os.mkfifo(folder.path / "a.yaml")
    (folder.path / "b.yaml").symlink_to("/dev/zero")
    assert folder.load()


@pytest.mark.parametrize("files", [None, [], {}, {"test": []}])
def test_data_files_must_be_named(files, folder):
    folder.write(file_with("dataset_kwargs.data_files", files))
    refused(folder, "hello" if files else "names no files")


WRONG = [5, [[1]], {"a": {"b": 1}}, "{{", "9" * 5000]


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_a_wrong_value_at_any_key_is_a_message_and_no_traceback(value, folder):
    said = set()
    for place in PLACES:
        folder.write(file_with(place, value))
        try:
            folder.load()
        except SpecError as error:
            said.add((place, str(error).startswith("task mine: ")))
    assert all(is_named for _, is_named in said)
    surely = ("dataset_path", "dataset_kwargs.data_files.test", "metric_list.0")
    assert {(place, True) for place in surely} <= said


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("generation_kwargs.until", 5, "generation_kwargs.until: expected text or a"),
        ("generation_kwargs.max_gen_toks", "2", "expected a whole number from 0"),
        ("generation_kwargs.do_sample", "no", "expected true or false"),
        ("metric_list.0.regexes_to_ignore", ["(a"], "regexes_to_ignore.0: '(a' is no"),
        ("metric_list.0.k", 5, "metric_list.0.k: is no key here"),
        ("repeats", 0, "repeats: expected a whole number from 1"),
        ("nonsense", 1, "nonsense: is no key here; known are task,"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_key(place, value, said, folder):
    folder.write(file_with(place, value))
    refused(folder, "task mine: hello.yaml: ")
    refused(folder, said)


@pytest.mark.parametrize("pattern", ["(\\d+", "[", "*a", "(?P<a>.)(?P<a>.)", "\\", 5])
def test_a_bad_pattern_is_told_with_its_key(pattern, folder):
    step = {"function": "regex", "regex_pattern": pattern}
    folder.write(file_with("filter_list", [{"name": "x", "filter": [step]}]))
    refused(folder, "hello.yaml: filter_list.0.filter.0.regex_pattern: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": 5}, "gen_kwargs.until: expected text"),
        ({"temperature": "hot"}, "gen_kwargs.temperature: expected a number"),
        ({"do_sample": 3}, "gen_kwargs.do_sample: expected true"),
    ],
)
def test_the_studys_own_settings_are_looked_at_too(changes, said, folder):
    folder.write(yaml.safe_dump(TASK_FILE))
    with pytest.raises(SpecError, match=said):
        folder.load(gen_kwargs=changes)


# 5. Templates.
REACH = "{{ question.__class__.__mro__[1].__subclasses__() }}"


@pytest.mark.parametrize(
    "place",
    ["doc_to_text", "doc_to_target", "doc_to_choice"],
)
@pytest.mark.parametrize(
    "template",
    [
        REACH,
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ''['__class__'] }}",
        "{{ question|attr('__class__') }}",
        "{% for x in [].__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        "{{ '{0.__class__}'.format(question) }}",
    ],
)
def test_templates_reach_no_python(place, template, folder):
    folder.write(file_with(place, template))
    with pytest.raises(SpecError, match=r"unsafe|undefined|empty"):
        folder.load()


# 6. Names of lm-eval's own tasks, and groups.
@pytest.mark.parametrize(
    "name",
    [
        "../" * 20 + "FAR/coded",
        "FAR/coded",
        "**/coded",
        "..",
        ".",
        "hello/../../x",
        "~/coded",
        "arc_[e]asy",
        "arc_eas?",
        "a\0b",
        "arc\\easy",
    ],
)
def test_a_name_of_lm_evals_is_no_path(name, folder):
    (folder.far / "coded.yaml").write_text("task: x\nprocess_docs: !function evil.f\n")
    name = name.replace("FAR", str(folder.far)[1:] if ".." in name else str(folder.far))
    with pytest.raises(SpecError, match="expected the name of one of lm-eval's tasks"):
        load_task(TaskSettings("mine", name), "/nowhere")
    assert not folder.mark.exists()


def test_a_group_runs_no_code_of_its_members(folder):
    folder.write(
        "group: hello\ntask: [{task: x, process_docs: !function evil.f}]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: !function evil.f}]\n"
    )
    with pytest.raises(SpecError):
        folder.load()
    assert not folder.mark.exists()


# 7. The traps work, and permission opens what it should.
@pytest.mark.parametrize("value", ["!function evil.f", "!%66unction evil.f"])
def test_with_permission_functions_run(value, folder):
    folder.write(file_with("process_results", "HERE").replace("HERE", value))
    assert folder.load(trust_code=True)
    assert folder.mark.exists()


def test_with_permission_a_metric_is_fetched(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(api_task, "get_metric", lambda *args: asked.append(args))
    folder.write(file_with("metric_list.0.metric", "someone/metric"))
    with pytest.raises(SpecError, match="someone/metric cannot be found or loaded"):
        folder.load(trust_code=True)
    assert asked == [("someone/metric", False)]


def test_a_task_of_plain_data_is_built(folder):
    folder.write(yaml.safe_dump(TASK_FILE))
    task = folder.load()
    assert task.doc_to_text(task.test_docs()[0]) == "1+1"


def test_lm_evals_own_functions_need_no_permission(monkeypatch, tmp_path):
    hellaswag = {"ctx_a": "He", "ctx_b": "ran", "activity_label": "A", "label": "0"}
    row = hellaswag | {"endings": ["off", "up"]}
    data = datasets.Dataset.from_list([row])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda **_: {"validation": data, "train": data}
    )
    task = load_task(TaskSettings("mine", "hellaswag"), str(tmp_path))
    assert task.validation_docs()[0]["query"] == "A: He Ran"


def test_lm_evals_own_tasks_fetch_no_metric_without_permission(monkeypatch, tmp_path):
    # polemo2_in asks for the hub's `accuracy`.
    with pytest.raises(CodeRefusedError, match="'accuracy' is not lm-eval's own"):
        load_task(TaskSettings("mine", "polemo2_in"), str(tmp_path))


# 8. The walk: what a newer lm-eval brings is noticed here.
def names(config):
    return {field.name for field in dataclasses.fields(config)}


def test_every_key_of_lm_eval_stands_in_a_table():
    assert names(TaskConfig) == set(TASK) - {"class", "task_list"}
    assert names(FewshotConfig) == set(FEWSHOT)
    assert names(GroupConfig) == set(GROUP)
    assert names(AggMetricConfig) == set(AGGREGATE)


def test_every_filter_of_lm_eval_stands_in_a_table_with_its_settings():
    assert set(filter_registry) == set(FILTERS)
    for name, table in FILTERS.items():
        if name not in ("custom", "take_first_k"):  # these take any keyword
            given = inspect.signature(filter_registry.get(name)).parameters
            known = {p for p in given if given[p].kind is not inspect._VAR_KEYWORD}
            assert known == set(table), name


def test_every_key_of_a_metric_that_lm_eval_reads_stands_in_a_table():
    source = inspect.getsource(ConfigurableTask.__init__)
    (read,) = re.findall(r"not in \[(.*?)\]", source)
    handed = set(inspect.signature(metrics.exact_match_hf_evaluate).parameters)
    assert set(re.findall(r'"(\w+)"', read)) | handed - {
        "predictions",
        "references",
    } == (set(METRIC))
    assert set(re.findall(r'"(\w+)" in metric_config', source)) <= set(METRIC)


def test_lm_evals_reader_knows_one_tag_and_its_builder_these_keys():
    loader = _yaml_loader._make_loader(None, resolve_funcs=False)
    ours = set(loader.yaml_constructors) - set(_yaml_loader._Base.yaml_constructors)
    assert ours == {"!function"}
    build = inspect.getsource(_factory.TaskFactory._build_task)
    assert set(re.findall(r'"(\w+)"', build)) == {
        "tag", "group", "task_list", "task", "class", "config"
    }  # fmt: skip
    read = inspect.getsource(_yaml_loader.load_yaml)
    assert set(re.findall(r'(?:pop|in)\(?\s?"(\w+)"', read)) <= {"include", "task_list"}


def test_every_way_of_reading_data_is_known():
    assert set(FILE_BUILDERS) < BUILDERS
    given = set(inspect.signature(datasets.load_dataset).parameters)
    not_offered = {
        "cache_dir", "config_kwargs", "download_config", "download_mode", "features",
        "keep_in_memory", "num_proc", "save_infos", "split", "storage_options", "token",
    }  # fmt: skip
    assert given - {"path", "name"} - set(DATASET) == not_offered


def test_templates_of_lm_eval_have_one_filter_of_their_own():
    source = inspect.getsource(utils)
    assert re.findall(r"\benv\.(.*)", source) == [
        'filters["regex_replace"] = regex_replace',
        "from_string(template)",
        "from_string(template_str)",
    ]


def test_lm_evals_own_metrics_and_samplers_are_these():
    assert set(samplers.SAMPLER_REGISTRY) == {"default", "first_n"}
    assert sorted(metric_registry) == [
        "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte",
        "bleu", "brier_score", "bypass", "byte_perplexity", "chrf", "chrf++",
        "exact_match", "f1", "likelihood", "mcc", "perplexity", "ter",
        "word_perplexity",
    ]  # fmt: skip
