"""`evomerge recipe`: files of our own into mergekit's and back; `merge` takes both."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from evomerge.checkpoints import read_model
from evomerge.cli.app import app
from evomerge.errors import RecipeError
from evomerge.specs.recipes import load_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "mergekit_more" / "yaml"


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A short recipe of our own."""
    models = GOLDEN.parent / "models"
    data = {
        "sources": {name: str(models / name) for name in ("base", "m1", "m2")},
        "operator": "task_arithmetic",
        "base": "base",
        "experts": ["m1", "m2"],
        "knobs": {"weight": {"m1": 0.8, "m2": [0.0, 1.0]}},
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def test_a_file_goes_to_mergekit_and_back_with_one_digest(own: Path, tmp_path: Path):
    for source, target in (("own.yaml", "theirs.yml"), ("theirs.yml", "again.yaml")):
        done = call("recipe", tmp_path / source, "--out", tmp_path / target)
        assert done.exit_code == 0, done.output
        assert "recipe" in done.stdout
    assert "merge_method: task_arithmetic" in (tmp_path / "theirs.yml").read_text()
    assert "slots:" in (tmp_path / "again.yaml").read_text()
    found = {load_recipe(tmp_path / name)[0].digest for name in ("own.yaml",)}
    found |= {load_recipe(tmp_path / name)[0].digest for name in ("theirs.yml",)}
    found |= {load_recipe(tmp_path / name)[0].digest for name in ("again.yaml",)}
    assert len(found) == 1


def test_the_canonical_form_is_the_text_of_the_digest(own: Path):
    done = call("recipe", own, "--to", "canonical")
    assert done.stdout == load_recipe(own)[0].text + "\n"


def test_what_cannot_be_expressed_is_refused_unless_it_may_be_lost(tmp_path: Path):
    file = GOLDEN / "ties_models.yml"
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    words = ("recipe", file, "--profile", "default", "--to", "mergekit")
    refused = call(*words)
    assert isinstance(refused.exception, RecipeError)
    assert "Knob rounding of ties is safe" in str(refused.exception)
    done = call(*words, "--lossy")
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["merge_method"] == text["merge_method"]
    assert "Not expressed: Knob rounding of ties is safe" in done.stderr
    as_json = json.loads(call(*words, "--lossy", "--json").stdout)
    assert as_json["form"] == "mergekit"
    assert any("rounding" in loss for loss in as_json["losses"])


def test_merge_takes_a_mergekit_file(tmp_path: Path):
    for profile in ("identical", "default"):
        out = tmp_path / profile
        done = call("merge", GOLDEN / "ties_models.yml", out, "--profile", profile)
        assert done.exit_code == 0, done.output
    one, other = (read_model(tmp_path / name) for name in ("identical", "default"))
    assert one.n_layers == other.n_layers == 4
    assert one.fingerprint != other.fingerprint
