"""Templates and patterns end, whatever they are and whatever they are given."""

import os
import re
import time

import jinja2
import pytest
from lm_eval import utils
from transformers import AutoTokenizer

from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import ItemRole
from evomerge.core.trial import Blame, Cause
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import SpecError
from evomerge.scoring.failures import failure_from
from evomerge.scoring.harness import limited, limited_process
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.limited import (
    LimitError,
    Pattern,
    Patterns,
    Template,
    write_chat,
)
from evomerge.scoring.harness.quick import is_quick_pattern
from evomerge.scoring.harness.scored_tasks import LmEvalTasks
from evomerge.scoring.simulated import engine as simulated_engine
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.testing.models import tiny_model

LONG_S = 50
"""The limits are of processor time; a busy machine takes longer by the clock."""

NEVER_ENDING = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ q|regex_replace('(a+)+$', '') }}",
    "{{ (9**999999)**9999 }}",
]
TOO_LARGE = [
    "{{ 'a' * 10**12 }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ q|center(10**10) }}",
    "{{ 'x' * (17 * 2**20) }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x }}",
]


@pytest.mark.slow
@pytest.mark.parametrize("source", NEVER_ENDING)
def test_a_template_without_end_is_ended(source):
    began = time.monotonic()
    with pytest.raises(LimitError, match="1 s of processor time"):
        Template(source).render(q="a" * 40 + "b")
    assert time.monotonic() - began < LONG_S
    assert Template("{{ q * 2 }}").render(q=4) == "8"  # the next is not harmed


@pytest.mark.parametrize("source", TOO_LARGE)
def test_a_template_that_wants_all_memory_gets_none(source):
    with pytest.raises(LimitError, match=r"memory|bytes|time"):
        Template(source).render(q="a")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["(a+)+$", "(.*a){25}$", "(a?){40}a{40}c"])
def test_a_pattern_that_backtracks_without_end_is_ended(source):
    with pytest.raises(LimitError, match="1 s of processor time") as error:
        Patterns.compile(source).findall("a" * 40 + "b")
    assert (error.value.source, error.value.text) == (source, "a" * 40 + "b")


@pytest.mark.slow
def test_many_slow_uses_are_ended_together():
    loop = "{% for i in range(90000) %}{% endfor %}"
    template = Template(loop * 6 + "{{ q }}")
    with pytest.raises(LimitError, match="all its uses together"):
        all(template.render(q=q) for q in range(100_000))


def test_an_interrupted_use_does_not_answer_the_next(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(limited.json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Template("{{ q * 5 }}").render(q=1)
    assert Template("{{ q * 5 }}").render(q=2) == "10"


@pytest.mark.parametrize(
    "source",
    [
        "Q: {{q}}\n",
        "{{q.strip()|upper}}{% if n == 2 %} two{% else %} other{% endif %}\n\n",
        "{% for x in l %}{{loop.index}}. {{x}}\n{% endfor %}",
        "{{ l|join(', ') }} {{ n * 3 }} {{ d['a'] }} {{ d.b.c }}",
        "{{ q|regex_replace('[aeiou]', '*') }}",
        "{{ l[n - 1] if n is defined and n < 3 else '' }}",
        "{{ '\\u00e9\\ud800' ~ q }}",
    ],
)
def test_templates_give_what_lm_evals_own_give(source, monkeypatch):
    fields = {
        "q": " why é? ",
        "n": 2,
        "l": ["x", "y"],
        "d": {"a": 1.5, "b": {"c": None}},
    }
    env = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    env.filters["regex_replace"] = utils.regex_replace
    expected = env.from_string(source).render(**fields)
    assert Template(source).render(**fields, other=object()) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ nothing }}",
        "{{ nothing * 2 }}",
        "{{ q.__class__ }}",
        "{{ (q * 2).__class__ }}",
    ],
)
def test_what_is_not_there_or_not_allowed_is_a_template_error(source):
    with pytest.raises(jinja2.TemplateError, match=r"undefined|unsafe"):
        Template(source).render(q="a")


TEXTS = [
    "",
    "a1b22",
    "The answer is (B). #### -1,234.5",
    "aé" * 50,
    "x\ny\n",
    "0" * 5000,
]
PATTERNS = [
    r"(\d)$",
    r"#### (\-?[0-9\.\,]+)",
    r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
    r"(?i)the answer is\s*\(?([A-D])\)?",
    r"(.*?)(\d+)",
    r"(?<=a)\d",
    r"(a)(b)?",
    "",
]


@pytest.mark.parametrize("source", PATTERNS)
def test_patterns_find_what_re_finds(source):
    for text in TEXTS:
        assert Patterns.compile(source).findall(text) == re.findall(source, text)
        assert Patterns.sub(source, "_", text) == re.sub(source, "_", text)


@pytest.mark.parametrize(
    "source",
    [
        "(a+)+",
        "(a|b)*",
        "(a{1,9}){9}",
        "a?" * 20,
        ".*.*",
        r"(a)\1*",
        "(?=a+)b",
        "(a+|b){3}",
    ],
)
def test_only_patterns_with_hardly_a_choice_are_matched_at_once(source):
    assert not is_quick_pattern(source)


def test_quick_patterns_are_quick():
    text = "a" * 4095 + "b"
    for source in ("a+$", "a*c", "(?:a|b){3}c", "[ab]+c", "a+c|b+c"):
        assert is_quick_pattern(source)
        began = time.process_time()
        re.findall(source, text)
        assert time.process_time() - began < 2


def test_what_is_no_pattern_is_told_at_once():
    with pytest.raises(re.error):
        Pattern("(a")


def test_a_process_that_was_ended_is_started_again():
    assert Template("{{ q * 3 }}").render(q=1) == "3"
    limited._process._child.kill()
    with pytest.raises(LimitError):
        Template("{{ q * 3 }}").render(q=2)
    assert Template("{{ q * 3 }}").render(q=2) == "6"


def test_a_fork_has_a_process_of_its_own():
    assert Template("{{ q * 4 }}").render(q=1) == "4"
    child = os.fork()
    if not child:
        is_right = Template("{{ q * 4 }}").render(q=2) == "8"
        limited._process.stop()
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Template("{{ q * 4 }}").render(q=3) == "12"


def test_the_process_imports_nothing_of_the_project():
    names = vars(limited_process).values()
    modules = {getattr(name, "__module__", "") or "" for name in names}
    assert not any(
        m.startswith("evomerge") and "limited_process" not in m for m in modules
    )


TASK_FILE = """task: hello
dataset_path: json
dataset_kwargs: {data_files: {test: hello.jsonl}}
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["x"], max_gen_toks: 2, do_sample: false}
metric_list: [METRIC]
filter_list: [{name: x, filter: [FILTER{function: take_first}]}]
"""
EXACT = "metric: exact_match, aggregation: mean, higher_is_better: true"
HOSTILE = "a" * 40 + "b"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


CHAT = """{{ bos_token }}
{%- for message in messages %}
  {%- if message.role == 'system' %}{{ raise_exception('no systems here') }}{% endif %}
  {{- '<' + message.role + '> ' + message.content | tojson + ' ' }}
{%- endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"""


@pytest.fixture
def tasks(tmp_path):
    def made(text, metric=EXACT, filters="", **more):
        text = text.replace("METRIC", "{" + metric + "}").replace("FILTER", filters)
        (tmp_path / "hello.yaml").write_text(text)
        rows = [f'{{"question": "{i}+{i}", "answer": "{i + i}"}}\n' for i in range(9)]
        (tmp_path / "hello.jsonl").write_text("".join(rows))
        settings = EngineSettings(kind="simulated")
        setup = WorkerSetup(settings, (), {}, "f", None, str(tmp_path))
        engine = SimulatedEngine(setup)
        engine.swap(passthrough("a", "f", 1, "float32"))
        task = TaskSettings("mine", "hello", str(tmp_path), **more)
        return LmEvalTasks([task], engine, str(tmp_path / "cache"))

    return made


@pytest.fixture
def chats(tmp_path, monkeypatch):
    """Gives the tokenizer of a tiny model, with a chat template, to every engine."""

    def given(template):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "tiny", seed=1))
        tokenizer.chat_template = template
        monkeypatch.setattr(simulated_engine, "ByteTokenizer", lambda: tokenizer)
        return tokenizer

    return given


@pytest.mark.slow
def test_a_models_chat_template_that_never_ends_is_refused(tasks, chats):
    chats(LOOP)
    said = "task mine: .*: the chat template '{% for"
    with pytest.raises(SpecError, match=said):
        tasks(TASK_FILE, apply_chat_template=True)


@pytest.mark.slow
@pytest.mark.parametrize("source", NEVER_ENDING[::2] + TOO_LARGE[:2])
def test_no_chat_template_takes_more_than_is_allowed(source):
    with pytest.raises(LimitError, match="the chat template"):
        write_chat(source, [{"role": "user", "content": "1"}], {})


@pytest.mark.parametrize("asks", [True, False])
def test_a_chat_is_written_as_transformers_writes_it(chats, asks):
    tokenizer = chats(CHAT)
    said = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    ways = {"add_generation_prompt": asks, "continue_final_message": not asks}
    expected = tokenizer.apply_chat_template(said, tokenize=False, **ways)
    assert write_chat(CHAT, said, {**tokenizer.special_tokens_map, **ways}) == expected
    with pytest.raises(jinja2.TemplateError, match="no systems here"):
        write_chat(CHAT, [{"role": "system", "content": "3"}], {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("doc_to_text", f'doc_to_text: "{LOOP}{{{{question}}}}"'),
        ("description", f'description: "{LOOP}"'),
    ],
)
def test_a_task_whose_template_never_ends_is_refused_at_its_key(key, line, tasks):
    text = (
        TASK_FILE.replace('doc_to_text: "{{question}}"\n', "")
        if key in TASK_FILE
        else (TASK_FILE)
    )
    with pytest.raises(SpecError, match=rf"task mine: .*{key}: the template '{{% for"):
        tasks(f"{text}{line}\n")


STEP = "{function: regex, regex_pattern: '(a+)+$'}, "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "filters", "key"),
    [
        (EXACT, STEP, r"filter_list\.0\.filter\.0\.regex_pattern"),
        (f"{EXACT}, regexes_to_ignore: ['(a+)+$']", "", r".*regexes_to_ignore\.0"),
    ],
)
def test_a_hostile_answer_fails_its_candidate_and_is_named(
    metric, filters, key, tasks, monkeypatch
):
    made = tasks(TASK_FILE, metric, filters)
    complete = EngineLM.complete

    def hostile(lm, requests):
        first, *others = complete(lm, requests)
        return [type(first)(HOSTILE, first.n_tokens, False), *others]

    monkeypatch.setattr(EngineLM, "complete", hostile)
    (block, *_) = made.describe()[0].manifest.blocks(ItemRole.SEARCH)
    first = made.describe()[0].manifest.ids(block)[0]
    with pytest.raises(LimitError, match=f"task mine: {key}, item {first}: ") as error:
        made.score(block)
    failure = failure_from(error.value, scoring=True)
    assert (failure.cause, failure.blame) == (Cause.EVALUATION, Blame.CANDIDATE)
    assert "Traceback" not in failure.message


def test_what_falls_over_while_answers_are_scored_is_told(tasks):
    made = tasks(TASK_FILE, EXACT, "{function: take_first_k, k: 5}, ")
    (block, *_) = made.describe()[0].manifest.blocks(ItemRole.SEARCH)
    with pytest.raises(SpecError, match="task mine: answers cannot be scored: Asser"):
        made.score(block)
