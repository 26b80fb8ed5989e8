"""A folder with one sound input of every kind, for a fuzz test to spoil.

Models, an adapter, study, recipe and task files, and a database with a finished study;
all paths in the files are relative to the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from evomerge.specs.reading.yamlfile import parse_yaml
from evomerge.testing.models import tiny_model
from support.adapters import tiny_adapter
from support.real_study import SUMS_TASK

MODELS = ("base", "math", "ja")
SOURCES = {name: f"models/{name}" for name in MODELS}
_ECHO_TASK = """\
task: echo
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl, train: shots.jsonl}}
output_type: generate_until
test_split: test
fewshot_split: train
num_fewshot: 2
doc_to_text: "{{q}}="
doc_to_target: "{{choices[answer]}}"
target_delimiter: " "
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
filter_list:
  - name: first
    filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
_TASKS: Mapping[str, Any] = {
    "sums": {"include": "tasks", "metric": "acc", "limit": 12},
    "one": {"task": "simulated", "metric": "acc", "options": {"items": 12}},
}
_COMMON: Mapping[str, Any] = {
    "seed": 3,
    "sources": SOURCES,
    "tasks": _TASKS,
    "items": {"blocks": 2, "search_fraction": 0.5},
    "engine": {"kind": "simulated", "max_model_len": 256, "max_num_seqs": 8},
    "timeout_s": 20.0,
    "budget": {"trials": 3, "hours": 0.1},
}
_SPACE = {
    "operator": ["task_arithmetic", "ties"],
    "base": "base",
    "experts": ["math", "ja"],
    "knobs": {
        "weight": {"low": 0.0, "high": 1.5, "start": 0.8, "by": {"depth": 2}},
        "ties.density": {
            "low": 0.1,
            "high": 1.0,
            "grid": 0.01,
            "per_input": "shared",
            "by": {"groups": 2, "roles": "split", "ends": "own"},
        },
        "ties.consensus": {"choices": ["sum", "count"]},
        "lambda": 1.0,
    },
    "norm_policy": ["linear", "base"],
}
_OPEN = {"weight": "search"}
STUDIES: Mapping[str, Mapping[str, Any]] = {
    "study": {
        **_COMMON,
        "space": _SPACE,
        "evaluators": [{"file": "evaluators.yaml", "only": ["two"]}],
        "objectives": [
            {"name": "skill", "mean_of": ["sums", "two"], "worst": 0.5},
            {"measure": "cost/layers"},
        ],
        "constraints": [
            {"measure": "one/acc", "at_least": 0.0},
            {"measure": "*/tokens", "rise_at_most": 9, "relative_to": "base"},
        ],
        "start": [{"name": "mine", "knobs": {"weight": 0.5}}],
        "baselines": {
            "parents": True,
            "others": [
                {
                    "name": "ta",
                    "operator": "task_arithmetic",
                    "grid": {"lambda": [0.5, 1.0]},
                }
            ],
        },
        "strategy": {
            "kind": "nsga2",
            "generation_size": 2,
            "options": {"crossover": "uniform", "mutation_rate": 0.5},
        },
    },
    "numbers": {
        **_COMMON,
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": {"low": -0.5, "high": 1.8, "by": {"groups": 2}}},
        },
        "strategy": {"kind": "cma", "generation_size": 4, "options": {"sigma": 0.2}},
    },
    "flow": {
        **_COMMON,
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": 1},
            "flow": {
                "kind": "gates",
                "sources": ["merge", "math"],
                "scales": "edge",
                "scale": {"low": 0.5, "high": 2.0},
                "repeats": 2,
                "depth": {"min": 1, "max": 3},
                "pin": "none",
                "embed": ["math"],
            },
        },
        "strategy": {"kind": "climb"},
    },
    "edits": {
        **_COMMON,
        "space": {
            "flow": {
                "kind": "edits",
                "sources": ["math", "ja"],
                "edits": 2,
                "scales": "layer",
                "depth": {"min": 1, "max": 4},
            },
        },
        "strategy": {"kind": "random", "generation_size": 3},
    },
    "stages": {
        **{k: v for k, v in _COMMON.items() if k != "budget"},
        "stages": [
            {
                "name": "ps",
                "space": {"operator": "ties", "base": "base", "knobs": _OPEN},
                "strategy": {"kind": "tpe", "generation_size": 2},
                "budget": {"trials": 2},
            },
            {
                "name": "dfs",
                "take": {"merged": {"stage": "ps", "front": 1}},
                "space": {"flow": {"kind": "slices", "slices": 2}},
                "strategy": {"kind": "nsga2", "generation_size": 2},
                "budget": {"trials": 2},
            },
        ],
    },
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "own": {
        "sources": {**SOURCES, "ja": "models/base+models/adapter"},
        "operator": "ties",
        "base": "base",
        "experts": ["math", "ja"],
        "knobs": {"weight": {"math": 0.8, "ja": [0.0, 1.0]}, "density": 0.5},
        "norm_policy": "linear",
        "dtype": "float32",
        "seed": 3,
    },
    "vocabulary": {
        "sources": {"base": "models/base", "wide": "models/wide"},
        "operator": "linear",
        "knobs": {"weight": 0.5},
        "frame": "base",
        "vocabulary": {"source": "union", "missing": "mean", "pad_to_multiple_of": 8},
    },
    "slices": {
        "sources": SOURCES,
        "stack": {
            "slices": [
                {"source": "math", "layers": [0, 1], "scale": 0.5},
                {"source": "ja", "layers": [0, 2]},
            ],
            "embed": "base",
        },
    },
    "shuffle": {
        "sources": SOURCES,
        "stack": {"shuffle": {"donors": {"math": 1.0, "ja": 2.0}, "seed": 3}},
    },
    "upscale": {
        "sources": SOURCES,
        "stack": {"upscale": {"source": "math", "n": 2, "overlap": 0}},
    },
}
MERGEKIT: Mapping[str, Mapping[str, Any]] = {
    "ties": {
        "merge_method": "ties",
        "base_model": "models/base",
        "slices": [
            {
                "sources": [
                    {"model": "models/base", "layer_range": [0, 2]},
                    {
                        "model": "models/math",
                        "layer_range": [0, 2],
                        "parameters": {
                            "weight": [
                                {"filter": "mlp", "value": [0.1, 0.7]},
                                {"value": 1.0},
                            ],
                            "density": 0.5,
                        },
                    },
                ],
                "parameters": {"lambda": [0.3, 0.8]},
            }
        ],
        "parameters": {"weight": 0.8, "density": 0.45, "normalize": False},
        "dtype": "float32",
        "tokenizer_source": "base",
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "models/base",
        "models": [{"model": "models/base"}, {"model": "models/math"}],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5]}, {"value": 1}]},
        "tokenizer": {"source": "union"},
        "out_dtype": "bfloat16",
    },
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "models/base", "layer_range": [0, 1]}]},
            {"sources": [{"model": "models/math", "layer_range": [0, 2]}]},
        ],
    },
    "linear": {
        "merge_method": "linear",
        "modules": {
            "default": {
                "slices": [
                    {
                        "sources": [
                            {
                                "model": "models/base+models/adapter",
                                "layer_range": [0, 2],
                            }
                        ]
                    }
                ]
            }
        },
        "parameters": {"weight": 1.0},
    },
}


def write_inputs(folder: Path) -> None:
    """Write everything but the database, which a search of ``study.yaml`` makes."""
    for seed, name in enumerate(MODELS):
        tiny_model(folder / "models" / name, seed=seed, n_layers=2)
    tiny_model(folder / "models" / "wide", seed=5, n_layers=2, vocab=296)
    tiny_adapter(folder / "models" / "adapter", folder / "models" / "base")
    _cut_in_two(folder / "models" / "ja")
    (folder / "tasks").mkdir()
    for name, task in (("sums", SUMS_TASK), ("echo", _ECHO_TASK)):
        text = json.dumps(parse_yaml(task, name), indent=1)
        (folder / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")
    rows = [
        {"q": f"{k}+{k}", "choices": [str(2 * k), str(3 * k + 1)], "answer": k % 2}
        for k in range(20)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tasks" / "sums.jsonl").write_text(lines, encoding="utf-8")
    (folder / "tasks" / "shots.jsonl").write_text(lines.replace("+", "*"))
    two = {**_TASKS["one"], "num_fewshot": 0, "gen_kwargs": {"temperature": 0}}
    own = {"version": 1, "tasks": {"two": two, "three": two}}
    files = {
        **STUDIES,
        **{f"recipe-{name}": recipe for name, recipe in RECIPES.items()},
        **{f"mergekit-{name}": recipe for name, recipe in MERGEKIT.items()},
        "evaluators": own,
        "tasked": {**STUDIES["numbers"], "tasks": _tasked()},
    }
    for name, content in files.items():
        text = json.dumps(content, indent=1)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def _tasked() -> dict[str, Any]:
    echo = {"include": "tasks", "metric": "exact_match", "limit": 8, "max_gen_toks": 3}
    return {"echo": echo, "sums": {**_TASKS["sums"], "num_fewshot": 0}}


def _cut_in_two(model: Path) -> None:
    """Write a model's weights as two files and their index."""
    whole = model / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({n: tensors[n].clone() for n in own}, model / shard, {"format": "pt"})
    whole.unlink()
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
