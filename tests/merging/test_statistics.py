"""What was measured of a model: read from files, named in recipes, and used."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import read_model
from evomerge.checkpoints.statistics import read_statistics
from evomerge.core.recipes.recipe import (
    Checkpoint,
    Recipe,
    Transformed,
    with_statistics,
)
from evomerge.errors import CheckpointError, SpecError
from evomerge.merging.materialise import materialise
from evomerge.merging.output.statistics import write_statistics
from evomerge.merging.sources import Sources
from evomerge.specs.canonical import own_text
from evomerge.specs.recipes import load_recipe, open_recipe
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.families import family_config, family_model, save_family
from evomerge.testing.models import tiny_model


class Measured:
    """Two models of a family, with statistics drawn at random for each."""

    def __init__(self, root: Path, family: str) -> None:
        self.root = root
        if family == "llama":
            for seed, name in enumerate(("a", "b")):
                tiny_model(root / name, n_layers=2, seed=seed)
        else:
            config = family_config(family)
            first = family_model(config, 1)
            save_family(root / "a", first)
            save_family(root / "b", family_model(config, 2, near=first))
        random = torch.Generator().manual_seed(3)
        self.files = {}
        for name in ("a", "b"):
            fisher = {
                key: torch.rand(tensor.shape, generator=random)
                for key, tensor in self.weights(name).items()
            }
            model = read_model(root / name)
            folder = root / "measured"
            self.files[name] = write_statistics(
                folder, "fisher", model.fingerprint, "made up", fisher
            )

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.root / name / "model.safetensors")

    def fisher(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.files[name])

    def write(self, **changes: object) -> Path:
        said = {
            "sources": {"a": "a", "b": "b"},
            "statistics": {"fisher": {n: str(f) for n, f in self.files.items()}},
            "operator": "fisher",
            "knobs": {"weight": {"a": 0.25, "b": 0.75}},
        }
        file = self.root / "merge.yaml"
        file.write_text(yaml.safe_dump({**said, **changes}))
        return file

    def merged(self, file: Path) -> dict[str, torch.Tensor]:
        recipe, folders = load_recipe(file)
        with Sources(folders) as sources:
            return {name: t.clone() for name, t in materialise(recipe, sources)}


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    return Measured(tmp_path, "llama")


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_merge_by_statistics_is_that_of_plain_state_dicts(
    family: str, tmp_path: Path
) -> None:
    measured = Measured(tmp_path, family)
    found = measured.merged(measured.write())
    shares = {"a": 0.25, "b": 0.75}
    fishers = {name: measured.fisher(name) for name in shares}
    weights = {name: measured.weights(name) for name in shares}
    norms = {
        name: sum(float(f.double().square().sum()) for f in fisher.values()) ** 0.5
        for name, fisher in fishers.items()
    }
    assert found.keys() == weights["a"].keys()
    for key in found:
        parts = {
            name: share * (fishers[name][key].double() / norms[name]).clamp_min(1e-6)
            for name, share in shares.items()
        }
        over = sum(parts[name] * weights[name][key].double() for name in shares)
        expected = (over / sum(parts.values())).float()
        torch.testing.assert_close(found[key], expected, rtol=1e-5, atol=1e-6)


def test_the_digest_of_a_recipe_tells_its_statistics_where_they_are_asked_for(
    measured: Measured,
) -> None:
    files = dict(measured.files)
    fisher, _ = load_recipe(measured.write())
    linear, folders = load_recipe(measured.write(operator="linear"))
    other = {k: v + 1 for k, v in measured.fisher("a").items()}
    measured.files["a"] = measured.root / "other.safetensors"
    save_file(other, measured.files["a"])
    assert load_recipe(measured.write())[0].digest != fisher.digest
    assert load_recipe(measured.write(operator="linear"))[0].digest == linear.digest
    plain, _ = load_recipe(measured.write(operator="linear", statistics={}))
    assert plain.digest == linear.digest
    # By content: neither a name nor a place is part of it.
    measured.files = files
    measured.files["a"] = files["a"].rename(measured.root / "moved.safetensors")
    assert load_recipe(measured.write())[0].digest == fisher.digest
    assert str(files["b"]) in folders.values()


def test_what_is_changed_on_its_way_has_no_statistics() -> None:
    measured = Checkpoint("f", (("fisher", "s"),))
    changed = Transformed(measured, "vocabulary", "d", among=(("a", measured),))
    plain = Transformed(
        Checkpoint("f"), "vocabulary", "d", among=(("a", Checkpoint("f")),)
    )
    assert with_statistics(changed, ("fisher",)) == plain


def test_a_recipe_comes_back_from_its_text_and_its_json(measured: Measured) -> None:
    opened = open_recipe(measured.write())
    again = Recipe.from_json(json.loads(opened.recipe.text))
    assert again == opened.recipe
    file = measured.root / "whole.yaml"
    file.write_text(own_text(opened.recipe, opened.models))
    assert load_recipe(file) == (opened.recipe, opened.folders)


def test_files_are_named_by_what_they_hold(measured: Measured) -> None:
    model = read_model(measured.root / "a")
    file, tensors = measured.files["a"], measured.fisher("a")
    again = write_statistics(
        file.parent, "fisher", model.fingerprint, "made up", tensors
    )
    other = write_statistics(file.parent, "fisher", model.fingerprint, "else", tensors)
    assert again == file != other
    assert sorted(file.parent.glob("*")) == sorted({*measured.files.values(), other})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), "has nothing for 'model.norm.weight'"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(3)}),
            r"model.norm.weight is \[3\], expected \[32\]",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_refused_when_the_file_is_read(
    spoil, said, measured: Measured
) -> None:
    tensors = measured.fisher("a")
    spoil(tensors)
    save_file(tensors, measured.files["a"])
    with pytest.raises(SpecError, match=said):
        load_recipe(measured.write())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_is_no_mean_square_is_refused(value: float, measured: Measured) -> None:
    tensors = measured.fisher("a")
    tensors["model.norm.weight"][3] = value
    save_file(tensors, measured.files["a"])
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        measured.merged(measured.write())


def test_an_input_without_statistics_is_named(measured: Measured) -> None:
    files = {"fisher": {"a": str(measured.files["a"])}}
    with pytest.raises(SpecError, match=r"statistics.*'b'"):
        load_recipe(measured.write(statistics=files))


def test_every_mistake_with_statistics_is_told_at_once(measured: Measured) -> None:
    swapped = {"a": str(measured.files["b"]), "c": str(measured.files["a"])}
    said = {"fisher": swapped, "fischer": {"b": "nowhere.safetensors"}}
    with pytest.raises(SpecError) as caught:
        load_recipe(measured.write(statistics=said))
    text = str(caught.value)
    assert "statistics.fisher.a" in text
    assert "of the source" in text
    assert "statistics.fisher.c: expected one of the sources" in text
    assert "did you mean 'fisher'" in text


def test_a_file_that_changed_is_noticed(measured: Measured) -> None:
    recipe, folders = load_recipe(measured.write())
    save_file(measured.fisher("b"), measured.files["a"])
    with Sources(folders) as sources, pytest.raises(CheckpointError, match="changed"):
        next(iter(materialise(recipe, sources)))


def test_a_study_keeps_its_statistics_by_content(measured: Measured) -> None:
    file = measured.root / "study.yaml"
    said = {
        "name": "measured",
        "sources": {"a": "a", "b": "b"},
        "statistics": {"fisher": {n: str(f) for n, f in measured.files.items()}},
        "space": {
            "operator": ["fisher", "linear"],
            "experts": ["a", "b"],
            "knobs": {"fisher.floor": "search", "weight": "search"},
        },
        "tasks": {"t": {"metric": "acc"}},
        "engine": {"kind": "simulated"},
        "budget": {"trials": 4},
    }
    file.write_text(yaml.safe_dump(said))
    study = read_study(file)
    again = restore(study.config, study.allowance)
    assert again.config == study.config
    prints = {
        name: read_statistics(path, "fisher").fingerprint
        for name, path in measured.files.items()
    }
    assert study.config["statistics"] == {"fisher": prints}
    point = {axis.name: axis.start for axis in study.space.axes} | {
        "operator": "fisher"
    }
    assert prints["a"] in study.blueprint.recipe(point).text
    plain = study.blueprint.recipe({**point, "operator": "linear"})
    assert prints["a"] not in plain.computed.text
