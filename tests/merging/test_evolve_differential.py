"""Genotypes as mergekit-evolve 0.1.5 itself turns them into merges, and points of ours.

Random genotypes of every method, with groups, filters, smoothing and signs: the merge
that mergekit's own genome gives and the study's recipe at the corresponding point have
the same tensors. mergekit is installed into a folder of its own.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from support.mergekit import mergekit_process

from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit.evolve import convert_study
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("mergekit_genome.py")
EXPERTS = ("math", "ja", "sort")
ROLES = ("attn", "mlp", "other")
FILTERS = {"filters": ["self_attn", "mlp"]}
GENOMES = (
    {"merge_method": "linear"},
    {"merge_method": "linear", "layer_granularity": 2, "normalize": False, **FILTERS},
    {"merge_method": "linear", "allow_negative_weights": True, "normalize": False},
    {"merge_method": "linear", "layer_granularity": 1, "smooth": True},
    {"merge_method": "task_arithmetic", "layer_granularity": 2},
    {"merge_method": "task_arithmetic", "allow_negative_weights": True, **FILTERS},
    {"merge_method": "task_arithmetic", "normalize": True, "layer_granularity": 1},
    {"merge_method": "task_arithmetic", "smooth": True, "layer_granularity": 2},
    {"merge_method": "ties"},
    {"merge_method": "ties", "layer_granularity": 1, **FILTERS},
    {
        "merge_method": "ties",
        "normalize": False,
        "smooth": True,
        "layer_granularity": 1,
    },
    {"merge_method": "dare_ties", "layer_granularity": 2},
    {"merge_method": "dare_ties", "normalize": False, **FILTERS},
    {"merge_method": "slerp", "models": ["math", "ja"], "layer_granularity": 2},
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolve")
    for seed, name in enumerate(("base", *EXPERTS)):
        tiny_model(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def bred(tmp_path_factory):
    """Ask mergekit for the merge of a genotype, and for its first one."""
    with mergekit_process(SERVER, tmp_path_factory.mktemp("mergekit")) as process:

        def _bred(genome, genotype):
            job = {"genome": genome, "genotype": genotype.tolist()}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield _bred


def drawn(genome, number):
    """Draw a genotype whose genes are steps of both searches, with either sign."""
    step = genome.get("layer_granularity", 0)
    method = genome["merge_method"]
    params = 2 if method in ("ties", "dare_ties") else 1
    shape = (4 // step if step else 1, len(genome["models"]))
    shape += (len(genome.get("filters", ())) + 1, params)
    random = torch.Generator().manual_seed(number)
    genes = torch.randn(shape, generator=random, dtype=torch.float64) * 0.6
    genes = genes.clamp(-1.6, 1.6)
    genes = (genes / 0.004).round() * 0.004
    return torch.where(genes == 0, 0.004, genes)


def point(axes, genome, genotype):
    """Find each axis' gene by its name, as mergekit-evolve reads it."""
    out = {}
    for axis in axes:
        knob, *parts = axis.split(".")
        spans = [p for p in parts if p[0] in "Ld" and p[1:2].isdigit()]
        first = int(spans[0][1:].partition("-")[0]) if spans else 0
        if spans and spans[0][0] == "L":
            first //= genome["layer_granularity"]
        role = next((ROLES.index(part) for part in parts if part in ROLES), 0)
        if knob == "t":
            first_gene, second = genotype[first, :, 0, 0].tolist()
            out[axis] = float(torch.sigmoid(torch.tensor(second - first_gene)))
            continue
        model = next(EXPERTS.index(part) for part in parts if part in EXPERTS)
        gene = float(genotype[first, model, role, int(knob == "density")])
        if knob == "density":
            gene = min(abs(gene), 1.0)
        elif not genome.get("allow_negative_weights"):
            gene = abs(gene)
        out[axis] = gene
    return out


def tensors(recipe, folders):
    with Sources(folders) as sources:
        return {k: v.clone() for k, v in materialise(recipe, sources)}


@pytest.mark.parametrize("number", range(len(GENOMES)))
def test_a_point_is_the_merge_that_mergekit_evolve_makes_of_the_genotype(
    number, models, bred, tmp_path
):
    genome = {"models": list(EXPERTS), **GENOMES[number]}
    if genome["merge_method"] in ("task_arithmetic", "ties", "dare_ties"):
        genome["base_model"] = "base"
    named = {**genome, "models": [str(models / name) for name in genome["models"]]}
    if "base_model" in genome:
        named["base_model"] = str(models / "base")
    genotype = drawn(genome, number)
    answer = bred(named, genotype)
    there = tmp_path / "there.yml"
    there.write_text(answer["yaml"].replace("dtype: bfloat16", "dtype: float32"))
    opened = open_recipe(there)
    config = tmp_path / "evolve.yml"
    config.write_text(yaml.safe_dump({"genome": named, "tasks": ["simulated"]}))
    text = convert_study(config, tmp_path).text
    file = tmp_path / "study.yaml"
    file.write_text(text.replace("dtype: bfloat16", "dtype: float32"))
    study = read_study(file)
    if genome["merge_method"] != "slerp":
        weights = [a for a in study.space.axes if a.name.startswith("weight")]
        assert len(weights) == genotype[..., 0].numel()
        start = answer["start"][0]
        assert all(a.start == pytest.approx(start, abs=1e-5) for a in weights)
    axes = [axis.name for axis in study.space.axes]
    recipe = study.blueprint.recipe(point(axes, genome, genotype))
    wanted = tensors(opened.recipe, opened.folders)
    found = tensors(recipe, opened.folders)
    if genome.get("smooth"):  # what is said to differ
        for name in ("model.norm.weight", "lm_head.weight"):
            del wanted[name], found[name]
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
