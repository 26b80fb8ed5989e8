"""Files with a tokenizer key against mergekit 0.1.5, token by token.

``tests/golden/mergekit_vocabulary`` holds tiny models, one with its tokens in another
order and one with further tokens, and what mergekit made of them. The order of tokens
that a union adds is not promised, and rows after the last token are nobody's.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.checkpoints import read_model
from evomerge.checkpoints.tokenizers.tokenizer import read_vocabulary
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit import write_mergekit
from evomerge.specs.recipes import load_recipe, open_recipe

GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit_vocabulary"
FILES = sorted((GOLDEN / "yaml").glob("*.yml"))
MOVED = ("model.embed_tokens.weight", "lm_head.weight")


def merge(file: Path, out: Path) -> dict[str, torch.Tensor]:
    recipe, folders = load_recipe(file)
    with Sources(folders) as sources:
        write_model(recipe, sources, out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_token_has_the_row_that_mergekit_gave_it(file, tmp_path):
    ours = merge(file, tmp_path / "out")
    folder = GOLDEN / "out" / file.stem
    theirs = load_file(folder / "model.safetensors")
    mine, its = read_vocabulary(tmp_path / "out").ids, read_vocabulary(folder).ids
    assert mine.keys() == its.keys()
    assert ours.keys() == theirs.keys()
    order = {mine[token]: its[token] for token in mine}
    for key, expected in theirs.items():
        found = ours[key]
        assert found.shape == expected.shape
        if key in MOVED:
            found, expected = found[list(order)], expected[list(order.values())]
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-7)
    rows = read_model(tmp_path / "out").vocab_size
    assert rows == len(ours[MOVED[0]])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_vocabulary_comes_back_with_the_same_digest(file, tmp_path):
    opened = open_recipe(file)
    written = write_mergekit(opened.recipe, opened.models)
    again = tmp_path / "again.yml"
    again.write_text(yaml.safe_dump(dict(written.data)), encoding="utf-8")
    assert written.losses == ()
    assert open_recipe(again).recipe.digest == opened.recipe.digest


def test_a_vocabulary_of_nobody_is_refused(tmp_path):
    text = (GOLDEN / "yaml" / "linear_union.yml").read_text(encoding="utf-8")
    file = tmp_path / "merge.yml"
    text = text.replace("../models", str(GOLDEN / "models"))
    file.write_text(text.replace("union", "unoin"), encoding="utf-8")
    with pytest.raises(Exception, match="unoin: expected a model"):
        load_recipe(file)


def test_models_of_other_tokenizers_are_refused_without_the_key(tmp_path):
    data = yaml.safe_load((GOLDEN / "yaml" / "linear_union.yml").read_text())
    del data["tokenizer_source"]
    text = json.dumps(data).replace("../models", str(GOLDEN / "models"))
    file = tmp_path / "merge.yml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match="need a tokenizer section"):
        load_recipe(file)
