from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evomerge.errors import SpecError
from evomerge.zoo.depths import PAIR, DepthPair, Expansion, expand, make_depth_pair
from evomerge.zoo.folder import read_weights, write_model
from evomerge.zoo.model import initial_state, logits
from evomerge.zoo.recipes import Drill, Shape
from evomerge.zoo.skills import held_out
from evomerge.zoo.tokenizer import Examples, build_tokenizer

SHAPE = Shape(hidden=64, intermediate=96, layers=6)


def quick(expansion: Expansion) -> Expansion:
    return replace(expansion, course=replace(expansion.course, steps=2))


QUICK = DepthPair(quick(PAIR.early), quick(PAIR.late), Drill(batch=8, warmup=1))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    state = initial_state(SHAPE, build_tokenizer().get_vocab_size(), seed=0)
    write_model(tmp_path / "base", state, SHAPE)
    return tmp_path / "base"


def test_new_layers_change_nothing_before_they_are_trained(base: Path) -> None:
    state = read_weights(base)
    examples = Examples.of(held_out("en_sort5", 4))
    tokens, targets = examples.batch(torch.arange(4))
    wanted = targets >= 0
    for expansion in PAIR.experts.values():
        expanded, new = expand(state, expansion)
        assert len(new) == 9 * expansion.blocks
        torch.testing.assert_close(
            logits(expanded, tokens, wanted), logits(state, tokens, wanted)
        )


def test_experts_differ_from_the_base_in_their_new_layers_alone(
    base: Path, tmp_path: Path
) -> None:
    folders = make_depth_pair(tmp_path / "pair", base, pair=QUICK)
    state = read_weights(base)
    for name, expansion in QUICK.experts.items():
        expert = read_weights(folders[name])
        start, new = expand(state, expansion)
        changed = {k for k in start if not torch.equal(start[k], expert[k])}
        assert changed
        assert changed <= new


def test_a_pair_that_is_there_is_not_trained_again(base: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "pair", []

    def make(pair: DepthPair) -> None:
        make_depth_pair(out, base, pair=pair, progress=lambda *step: told.append(step))

    make(QUICK)
    n = len(told)
    assert n == 4
    make(QUICK)
    assert len(told) == n
    make(replace(QUICK, seed=2))
    assert len(told) == 2 * n


def test_a_folder_of_something_else_is_refused(base: Path, tmp_path: Path) -> None:
    mine = tmp_path / "thesis.txt"
    mine.write_text("years of work")
    with pytest.raises(SpecError, match=r"thesis\.txt"):
        make_depth_pair(tmp_path, base, pair=QUICK)
    assert mine.exists()
