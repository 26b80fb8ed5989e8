"""Every key of lm-eval's task and group files, and how each is kept from running code.

A file that was read as data holds no functions, so what is left are keys whose text
lm-eval turns into code: each is refused here, or held to lists of known names. Keys
that no table has are refused, and a test compares the tables with lm-eval's own
classes, so a key that a later version brings is noticed before anybody can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evomerge.scoring.harness.internals import (
    AGGREGATIONS,
    OUTPUT_TYPES,
    PROMPTS,
    SAMPLERS,
)
from evomerge.scoring.harness.task_rules import (
    CHOICES,
    COUNT,
    DATA,
    FLAG,
    MAPS,
    NUMBER,
    SOME,
    TARGET,
    TEMPLATE,
    TEXT,
    TEXTS,
    WHOLES,
    Complaint,
    Rule,
    code,
    data_files,
    dataset,
    each,
    hub_metric,
    inside,
    is_texts,
    is_whole,
    metric,
    needed,
    of,
    one_of,
    pattern,
    patterns,
    unsafe,
)
from evomerge.specs.reading.yamlfile import join

METRIC: Mapping[str, Rule] = {
    "metric": metric,
    "aggregation": one_of(AGGREGATIONS, "one of lm-eval's ways to add up"),
    "higher_is_better": FLAG,
    "hf_evaluate": hub_metric,
    "ignore_case": FLAG,
    "ignore_punctuation": FLAG,
    "ignore_numbers": FLAG,
    "regexes_to_ignore": patterns,
}
"""An entry of ``metric_list``."""


def _metric_entry(key: str, value: Any) -> Iterator[Complaint]:
    """A metric; keys that are none of these are handed to it, if it takes any."""
    takes_any = isinstance(value, Mapping) and value.get("metric") != "exact_match"
    yield from needed(METRIC, "metric", other=DATA if takes_any else None)(key, value)


FILTERS: Mapping[str, Mapping[str, Rule]] = {
    "regex": {"regex_pattern": pattern, "group_select": NUMBER, "fallback": TEXT},
    "regex_pos": {
        "regex_pattern": pattern,
        "group_select": NUMBER,
        "fallback": DATA,
    },
    "multi_choice_regex": {
        "regex_pattern": pattern,
        "group_select": NUMBER,
        "fallback": TEXT,
        "ignore_case": FLAG,
        "ignore_punctuation": FLAG,
        "regexes_to_ignore": patterns,
    },
    "map": {
        "mapping_dict": of("a mapping", lambda v: isinstance(v, Mapping)),
        "default_value": DATA,
    },
    "take_first_k": {"k": SOME},
    "take_first": {},
    "majority_vote": {},
    "remove_whitespace": {},
    "lowercase": {},
    "uppercase": {},
    "format_span": {},
    "custom": {"filter_fn": code},
}
"""lm-eval's filters by name, with what each may be given."""


def _filter(key: str, value: Any) -> Iterator[Complaint]:
    """One step of a filter: a registered one, with its own settings."""
    name = value.get("function") if isinstance(value, Mapping) else None
    if callable(name):
        return
    if not isinstance(name, str) or name not in FILTERS:
        known = ", ".join(FILTERS)
        said = f"expected one of lm-eval's filters ({known}), got {name!r:.80}"
        yield Complaint(join(key, "function"), said)
    else:
        yield from inside({"function": TEXT, **FILTERS[name]})(key, value)


FILTER_LIST: Mapping[str, Rule] = {"name": TEXT, "filter": each(_filter)}

FEWSHOT: Mapping[str, Rule] = {
    "sampler": one_of(SAMPLERS, "one of lm-eval's samplers"),
    "split": TEXT,
    "process_docs": code,
    "fewshot_indices": WHOLES,
    "samples": MAPS,
    "doc_to_text": TEMPLATE,
    "doc_to_choice": CHOICES,
    "doc_to_target": TARGET,
    "gen_prefix": TEXT,
    "fewshot_delimiter": TEXT,
    "target_delimiter": TEXT,
}

GENERATION: Mapping[str, Rule] = {
    "until": TEXTS,
    "do_sample": FLAG,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": NUMBER,
    "min_p": NUMBER,
    "seed": COUNT,
    "max_gen_toks": COUNT,
    "max_new_tokens": COUNT,
    "max_tokens": COUNT,
    "max_completion_tokens": COUNT,
}
"""What is given for an answer; engines refuse other keys by name."""

DATASET: Mapping[str, Rule] = {
    "data_files": data_files,
    "data_dir": TEXT,
    "revision": TEXT,
    "trust_remote_code": DATA,  # taken out: data sets' code is never run
    "streaming": of("false", lambda value: value is False),
    "verification_mode": TEXT,
    "column_names": of("a list of texts", is_texts),
    "names": of("a list of texts", is_texts),
    "header": of("a number or `infer`", lambda v: is_whole(v) or v == "infer"),
    "skiprows": COUNT,
    "sep": of("one character", lambda v: isinstance(v, str) and len(v) == 1),
    "delimiter": of("one character", lambda v: isinstance(v, str) and len(v) == 1),
    "quotechar": of("one character", lambda v: isinstance(v, str) and len(v) == 1),
    "encoding": TEXT,
    "field": TEXT,
    "sample_by": TEXT,
    "keep_linebreaks": FLAG,
    "columns": of("a list of texts", is_texts),
}
"""What a data set is loaded with: nothing that writes, connects or runs."""

TASK: Mapping[str, Rule] = {
    "task": TEXT,
    "task_alias": TEXT,
    "tag": TEXTS,
    "custom_dataset": code,
    "dataset_path": dataset,
    "dataset_name": TEXT,
    "dataset_kwargs": inside(DATASET),
    "training_split": TEXT,
    "validation_split": TEXT,
    "test_split": TEXT,
    "fewshot_split": TEXT,
    "process_docs": code,
    "doc_to_text": TEMPLATE,
    "doc_to_target": TARGET,
    "doc_to_image": of(
        "the name of a column, or a list of such names",
        lambda v: v and ((isinstance(v, str) and "{" not in v) or is_texts(v)),
    ),
    "doc_to_audio": of("nothing: sound is not offered", lambda _: False),
    "unsafe_code": unsafe,
    "doc_to_choice": CHOICES,
    "process_results": code,
    "use_prompt": one_of(PROMPTS, "a prompt that lm-eval brings"),
    "description": TEXT,
    "target_delimiter": TEXT,
    "fewshot_delimiter": TEXT,
    "fewshot_config": inside(FEWSHOT),
    "num_fewshot": COUNT,
    "metric_list": each(_metric_entry),
    "output_type": one_of(OUTPUT_TYPES, "one of"),
    "generation_kwargs": inside(GENERATION, other=DATA),
    "repeats": SOME,
    "filter_list": each(needed(FILTER_LIST, "name", "filter")),
    "should_decontaminate": FLAG,
    "doc_to_decontamination_query": TEXT,
    "gen_prefix": TEXT,
    "metadata": DATA,
    # Not of the task itself, but of the file it stands in.
    "class": code,
    "task_list": DATA,
}
"""Keys of a task file. ``include`` is gone when it has been read."""

AGGREGATE: Mapping[str, Rule] = {
    "metric": TEXT,
    "filter_list": TEXTS,
    "aggregation": one_of(frozenset({"mean"}), "one of"),
    "weight_by_size": FLAG,
}

GROUP: Mapping[str, Rule] = {
    "group": TEXT,
    "group_alias": TEXT,
    "task": DATA,  # names, or tasks and groups that are looked at in their turn
    "aggregate_metric_list": DATA,
    "metadata": DATA,
}
"""Keys of a group file."""


def complaints(config: Mapping[str, Any], *, may_run: bool) -> list[Complaint]:
    """Look through a task's merged keys.

    Args:
        config: As the task's file and its includes say it.
        may_run: The task may run code: functions may stand anywhere, and only plain
            values are looked at.
    """
    other = DATA if may_run and "class" in config else None
    found = inside(TASK, other)("", config)
    return [complaint for complaint in found if not (may_run and complaint.code)]


def key_of(value: Any, text: str, key: str = "") -> str | None:
    """Return the key at which a text stands; None if it does not."""
    if value == text:
        return key
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    found = (key_of(part, text, join(key, name)) for name, part in parts)
    return next((one for one in found if one is not None), None)
