"""mergekit-evolve's files as studies: the same merges, and what has no equal."""

import math

import pytest
import torch
import yaml

from evomerge.errors import SpecError
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit.evolve import EvolveOptions, convert_study
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.study_file import load_study, read_study
from evomerge.testing.models import tiny_model

DOCUMENTED = """\
genome:
    models:
       - math
       - ja
       - sort
    merge_method: ties
    base_model: base
    tokenizer_source: null # optional
    layer_granularity: 2

    # optional:
    normalize: false
    allow_negative_weights: false
    smooth: false
    filters:
      - self_attn
      - mlp
tasks:
  - name: lm_eval_task_name
    weight: 1.0 # optional
    metric: "acc,none" # defaults to acc,none
  - name: another
"""
"""In the form of its documentation."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolve")
    for seed, name in enumerate(("base", "math", "ja", "sort")):
        tiny_model(folder / name, seed=seed)
    return folder


@pytest.fixture
def convert(models):
    def _convert(data, **options):
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        file = models / "evolve.yml"
        file.write_text(text, encoding="utf-8")
        done = convert_study(file, models, EvolveOptions(**options))
        (models / "study.yaml").write_text(done.text, encoding="utf-8")
        return done

    return _convert


def genome(**changes):
    """A configuration with these settings of the genome."""
    usual = {"models": ["math", "ja", "sort"], "merge_method": "linear"}
    return {"genome": usual | changes, "tasks": ["simulated"]}


def said(done, key):
    return [str(note) for note in done.notes if f": {key}: " in f"{note}"]


def test_the_documented_configuration_becomes_a_study_that_says_what_differs(
    convert, models
):
    done = convert(DOCUMENTED, vllm=True, max_fevals=7)
    spec = load_study(models / "study.yaml")
    assert dict(spec.sources) == {n: n for n in ("base", "math", "ja", "sort")}
    assert (spec.dtype, spec.budget.trials, spec.engine.kind) == ("bfloat16", 7, "vllm")
    assert spec.space.operator == ("ties",)
    assert spec.space.knobs["normalize"] is False
    assert spec.space.knobs["rounding"] == "int"
    task = spec.tasks["lm_eval_task_name"]
    assert (task.metric, task.apply_chat_template) == ("acc", True)
    (score,) = spec.objectives
    assert score.direction == "maximize"
    assert score.mean_of == {"lm_eval_task_name/acc": 1.0, "another/acc": 1.0}
    note, other = said(done, "tasks")
    assert "in a mean here" in other
    assert "evolve.yml:18: tasks: are searched on with half of their items" in note
    assert "held out" in done.text.replace("\n#    ", " ")


GENOTYPES = {
    # Groups, models, filters and the rest, then weight and density or t.
    "linear": ({}, (1, 3, 1, 1)),
    "task_arithmetic": ({"base_model": "base", "layer_granularity": 2}, (2, 3, 1, 1)),
    "ties": (
        {"base_model": "base", "layer_granularity": 1, "filters": ["self_attn", "mlp"]},
        (4, 3, 3, 2),
    ),
}


def bred(method, more, shape):
    """Draw a genotype at points that both searches have."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(len(method)))
    values = (values * 500).round() / 500  # weights are steps of 1/500 here
    values = values.clamp(min=0.002)
    if more.get("allow_negative_weights"):
        values[..., 0] -= 0.4
    return values.double()


def mergekit_of(config, genotype):
    """Write the merge that mergekit-evolve makes of a genotype, by its definition."""
    genes = config["genome"]
    groups, n_models, n_sets, _ = genotype.shape
    step = 4 // groups
    names = ["weight", "density"][: genotype.shape[-1]]
    filters = [*genes.get("filters", []), None]

    def setting(group, model, param):
        row = genotype[group, model, :, param].abs().tolist()
        if n_sets == 1:
            return row[0]
        return [{"filter": f, "value": v} for f, v in zip(filters, row, strict=True)]

    def source(group, model):
        found = {name: setting(group, model, i) for i, name in enumerate(names)}
        span = [group * step, (group + 1) * step]
        written = genes["models"][model]
        return {"model": written, "layer_range": span, "parameters": found}

    slices = []
    for group in range(groups):
        sources = [source(group, model) for model in range(n_models)]
        if base := genes.get("base_model"):
            sources.append({"model": base, "layer_range": sources[0]["layer_range"]})
        slices.append({"sources": sources})
    normalize = genes.get("normalize")
    if normalize is None:
        normalize = genes["merge_method"] != "task_arithmetic"
    return {
        "merge_method": genes["merge_method"],
        "slices": slices,
        "parameters": {"normalize": normalize, "int8_mask": True},
        "dtype": "float32",
        **({"base_model": base} if base else {}),
    }


def tensors(recipe, folders):
    with Sources(folders) as sources:
        return {k: v.clone().float() for k, v in materialise(recipe, sources)}


def in_float32(models):
    """Read the study that was written, in float32, where no rounding hides anything."""
    file = models / "study.yaml"
    text = file.read_text().replace("dtype: bfloat16", "dtype: float32")
    file.write_text(text)
    return read_study(file)


@pytest.mark.parametrize("method", GENOTYPES)
def test_a_genome_gives_the_tensors_of_the_corresponding_point(
    method, convert, models, monkeypatch
):
    monkeypatch.chdir(models)
    more, shape = GENOTYPES[method]
    config = genome(merge_method=method, **more)
    genotype = bred(method, more, shape)
    (models / "there.yml").write_text(yaml.safe_dump(mergekit_of(config, genotype)))
    there = open_recipe(models / "there.yml")
    convert(config)
    study = in_float32(models)
    axes = [axis.name for axis in study.space.axes]
    assert len(axes) == genotype.numel()
    here = study.blueprint.recipe(point(axes, config, genotype))
    wanted = tensors(there.recipe, there.folders)
    found = tensors(here, there.folders)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-7, msg=name)


def point(axes, config, genotype):
    """Find each axis' gene by its name: knob, role, model, layers."""
    models = config["genome"]["models"]
    groups = genotype.shape[0]
    out = {}
    for axis in axes:
        knob, *parts = axis.split(".")
        model = next(models.index(part) for part in parts if part in models)
        roles = ("attn", "mlp", "other")
        role = next((roles.index(part) for part in parts if part in roles), 0)
        spans = [p for p in parts if p[0] == "L" and p[1].isdigit()]
        first = int(spans[0][1:].partition("-")[0]) if spans else 0
        gene = genotype[first * groups // 4, model, role, int(knob == "density")]
        out[axis] = float(gene)
    return out


@pytest.mark.parametrize("genes", [(0.9, 0.2), (0.2, 0.9)])
def test_slerp_of_two_genes_is_a_point_of_the_arc(genes, convert, models, monkeypatch):
    monkeypatch.chdir(models)
    config = genome(merge_method="slerp", models=["math", "ja"])
    larger = genes.index(max(genes))
    t = 1 / (1 + math.exp(max(genes) - min(genes)))  # the softmax's second part
    names = config["genome"]["models"]
    file = models / "there.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "merge_method": "slerp",
                "base_model": names[larger],
                "models": [{"model": names[larger]}, {"model": names[1 - larger]}],
                "parameters": {"t": t},
                "dtype": "float32",
            }
        )
    )
    there = open_recipe(file)
    convert(config)
    study = in_float32(models)
    ours = {"t": t if larger == 0 else 1 - t}
    found = tensors(study.blueprint.recipe(ours), there.folders)
    for name, tensor in tensors(there.recipe, there.folders).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_the_search_begins_where_mergekit_evolve_does(convert, models):
    convert(genome(merge_method="dare_ties", base_model="base"), sigma0=0.25)
    study = read_study(models / "study.yaml")
    starts = {axis.name: axis.start for axis in study.space.axes}
    assert starts == {
        **{
            f"weight.{n}": pytest.approx(1 / 3, abs=1e-5)
            for n in ("math", "ja", "sort")
        },
        **{f"density.{n}": 1.0 for n in ("math", "ja", "sort")},
    }
    spec = load_study(models / "study.yaml")
    assert spec.strategy.options == {"sigma": 0.125}  # of a range of 2
    assert spec.space.knobs["rescale"] == "l1"


def test_smooth_genes_are_control_points_and_ends_are_told(convert, models):
    done = convert(genome(smooth=True, layer_granularity=2))
    study = read_study(models / "study.yaml")
    assert [a.name for a in study.space.axes][:2] == [
        "weight.math.d0",
        "weight.math.d1",
    ]
    assert "final norm and head" in said(done, "genome.smooth")[0]


def test_negative_weights_are_searched_where_they_are_allowed(convert, models):
    convert(genome(allow_negative_weights=True, normalize=False))
    spec = load_study(models / "study.yaml")
    weight = spec.space.knobs["weight"]
    assert (weight.low, weight.high) == (-2.0, 2.0)
    assert spec.space.knobs["normalize"] is False


def test_a_base_among_the_models_gets_no_weight(convert, models):
    done = convert(
        genome(merge_method="ties", base_model="base", models=["math", "base", "ja"])
    )
    spec = load_study(models / "study.yaml")
    assert spec.space.experts == ("math", "ja")
    assert "its genes change nothing" in said(done, "genome.models.1")[0]
    assert spec.space.knobs["weight"].start == pytest.approx(1 / 3, abs=1e-6)


def test_tasks_of_negative_weight_are_minimised(convert, models):
    tasks = [
        {"name": "good", "weight": 2},
        {"name": "bad", "weight": -0.5, "metric": "perplexity,none"},
        {"name": "group/one:two", "metric": "exact_match,flexible-extract"},
    ]
    done = convert(genome() | {"tasks": tasks, "num_fewshot": 3, "limit": 50})
    spec = load_study(models / "study.yaml")
    up, down = spec.objectives
    assert (up.direction, down.direction) == ("maximize", "minimize")
    assert up.mean_of == {
        "good/acc": 2.0,
        "group_one_two/exact_match,flexible-extract": 1.0,
    }
    assert down.mean_of == {"bad/perplexity": 0.5}
    assert spec.tasks["group_one_two"].task == "group/one:two"
    assert (spec.tasks["good"].num_fewshot, spec.tasks["good"].items.limit) == (3, 100)
    assert spec.strategy.kind == "comocatcma"
    assert "objective of their own" in said(done, "tasks")[0]


def test_what_has_no_equal_is_said_with_its_line(convert):
    done = convert(
        "genome:\n  models: [math, ja]\n  merge_method: linear\n"
        "  filters: [q_proj, mlp]\n  int8_mask: true\n"
        "tasks: [simulated]\nshuffle: true\nrandom_init: true\n"
        "fewshot_as_multiturn: false\n"
    )
    notes = [str(note) for note in done.notes]
    for beginning in (
        "evolve.yml:4: genome.filters: has no equal for 'q_proj'",
        "evolve.yml:5: genome.int8_mask: changes nothing",
        "evolve.yml:7: shuffle: has no equal",
        "evolve.yml:8: random_init: has no equal",
        "evolve.yml:9: fewshot_as_multiturn: has no equal",
    ):
        assert [note for note in notes if note.startswith(beginning)], beginning
        assert beginning.partition(": ")[2] in done.text.replace("\n#    ", " ")


def test_all_mistakes_are_told_at_once_with_their_lines(convert):
    with pytest.raises(SpecError) as caught:
        convert(
            "genome:\n  models: [math, math, nowhere]\n  merge_method: ties\n"
            "  layer_granularity: 0\n  smoth: true\n"
            "tasks: [{name: one, wieght: 2}]\nlimits: 5\n"
        )
    text = str(caught.value)
    for part in (
        "evolve.yml:2: genome.models.1: expected every model once",
        "genome.base_model: expected a model, got nothing: ties needs a base",
        "evolve.yml:5: genome.smoth: unknown key; did you mean 'smooth'?",
        "evolve.yml:6: tasks.0.wieght: unknown key; did you mean 'weight'?",
        "evolve.yml:7: limits: unknown key; did you mean 'limit'?",
        "nowhere: expected a model folder",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"merge_method": "della"}, "genome.merge_method: expected 'linear'"),
        ({"merge_method": "slerp"}, "expected two models, got 3"),
        (
            {"merge_method": "slerp", "models": ["math", "ja"], "smooth": True},
            "mergekit-evolve has no smooth with slerp",
        ),
        ({"layer_granularity": 3}, "expected a divisor of the 4 layers of math, got 3"),
        ({"tokenizer_source": "other"}, "expected union, base or one of the models"),
        ({"models": []}, "genome.models: expected at least one entry"),
    ],
)
def test_what_mergekit_evolve_refuses_or_nothing_equals_is_a_mistake(
    changes, part, convert
):
    with pytest.raises(SpecError) as caught:
        convert(genome(**changes))
    assert part in str(caught.value)


def test_a_file_of_something_else_is_named(convert):
    with pytest.raises(SpecError, match="expected a configuration of mergekit-evolve"):
        convert("merge_method: linear\nmodels: [{model: math}]\n")
