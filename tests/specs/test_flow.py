"""Spaces of layers: what is written, what comes of it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.flows import KINDS

from evomerge.core.flow.blueprint import FlowBlueprint
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.space import Condition
from evomerge.errors import SpecError
from evomerge.specs.completing.resolve import resolve
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import load_study, read_study
from evomerge.strategies import registry
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]
MERGED = {
    "operator": "task_arithmetic",
    "base": "base",
    "experts": ["math", "ja"],
    "knobs": {"weight": {"by": {"depth": 2}, "per_input": "shared"}},
}


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six layers, deeper than the others."""
    return tiny_model(tmp_path_factory.mktemp("zoo") / "deep", seed=5, n_layers=6)


@pytest.fixture
def flowing(minimal: dict[str, Any], write: Write) -> Callable[..., ResolvedStudy]:
    """Read the least study with a flow over layers as they stand."""

    def _read(flow: dict[str, Any], **changes: Any) -> ResolvedStudy:
        return read_study(write(with_flow(minimal, flow, **changes)))

    return _read


def with_flow(
    minimal: dict[str, Any], flow: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    space = changes.pop("space", {})
    return minimal | {"space": {**space, "flow": flow}} | changes


def problems(file: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_study(file)
    return [f"{problem}".partition(": ")[2] for problem in caught.value.problems]


def layers(recipe: Recipe) -> list[dict[str, int]]:
    return [dict(slot.layers) for slot in recipe.slots]


def of_kind(kind: str, *sources: str) -> dict[str, Any]:
    return {"kind": kind, "sources": list(sources[: 1 if kind == "block" else None])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_of_layers_begins_with_the_first_source(
    flowing: Callable[..., ResolvedStudy], kind: str
) -> None:
    study = flowing(of_kind(kind, "ja", "math"))
    assert study.frame == "ja"
    start = study.blueprint.recipe(study.space.start())
    (parent,) = [b.recipe for b in study.baselines if b.label == "ja"]
    assert start.digest == parent.digest


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_of_both_spaces_at_once_is_a_recipe(
    flowing: Callable[..., ResolvedStudy], kind: str
) -> None:
    study = flowing(of_kind(kind, "merge", "math"), space=MERGED)
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = study.space.random(rng)
        study.space.check(point)
        recipe = study.blueprint.recipe(point)
        assert 1 <= len(recipe.slots) <= (study.engine.slots or 0)
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_layers_that_repeat_are_equal_and_keep_their_depth(
    flowing: Callable[..., ResolvedStudy],
) -> None:
    flow = {"kind": "edits", "sources": ["merge"], "edits": 1}
    study = flowing(flow, space=MERGED)
    point = {"weight.d0": 0.0, "weight.d1": 0.9}
    again = {"edit.0.kind": "repeat", "edit.0.at": 1}
    recipe = study.blueprint.recipe({**point, **again})
    plain = study.blueprint.recipe({**point, "edit.0.kind": "none"})
    assert len(recipe.slots) == 5
    assert recipe.slots[1] == recipe.slots[2] == plain.slots[1]
    weights = [s.operation("attn").knobs("weight")[0] for s in recipe.slots]
    assert weights == pytest.approx([0.0, 0.3, 0.3, 0.6, 0.9])


def test_the_merge_alone_in_its_order_is_the_merge(
    minimal: dict[str, Any], write: Write, flowing: Callable[..., ResolvedStudy]
) -> None:
    flow = {"kind": "donors", "sources": ["merge", "math"]}
    study = flowing(flow, space=MERGED)
    plain = read_study(write(minimal | {"space": MERGED}))
    recipe = study.blueprint.recipe(study.space.start())
    assert recipe.digest == plain.blueprint.recipe(plain.space.start()).digest


def test_a_stack_without_merged_layers_says_nothing_of_the_merge(
    flowing: Callable[..., ResolvedStudy],
) -> None:
    flow = {"kind": "donors", "sources": ["merge", "math"], "pin": "none"}
    ends = {"embed": "math", "head": "math"}
    study = flowing(flow | ends, space=MERGED)
    donors = {f"donor.{i}": "math" for i in range(4)}
    low, high = (
        study.blueprint.recipe({**study.space.start(), **donors, "weight.d0": weight})
        for weight in (0.1, 0.9)
    )
    assert low.digest == high.digest
    assert [name for name, _ in low.inputs] == ["base", "math"]


def test_embedding_and_head_may_be_any_source_and_open(
    flowing: Callable[..., ResolvedStudy],
) -> None:
    flow = {"kind": "donors", "embed": ["base", "ja"], "head": "math"}
    study = flowing(flow)
    recipe = study.blueprint.recipe({**study.space.start(), "embed": "ja"})
    assert recipe.embed.operation("embed").reads == ("ja",)
    assert recipe.head.operation("head").reads == ("math",)


def test_sources_of_other_depths_can_be_set_on_each_other(
    minimal: dict[str, Any], write: Write, deep: Path
) -> None:
    minimal["sources"] = {"math": minimal["sources"]["math"], "deep": str(deep)}
    study = read_study(write(with_flow(minimal, {"kind": "slices"})))
    assert [b.label for b in study.baselines] == ["deep", "math"]
    assert [len(b.recipe.slots) for b in study.baselines] == [6, 4]
    assert study.space.axes[3].when == Condition("slice.0.source", ("math",))
    assert (study.engine.profile, study.engine.slots) == ("pool", 12)
    minimal["baselines"] = {"uniform": True}
    (said,) = problems(write(with_flow(minimal, {"kind": "slices"})))
    assert said == (
        "baselines.uniform: expected experts of one depth to average, got 'deep' with "
        "6 layers, 'math' with 4 layers."
    )


def test_the_engine_has_what_the_space_needs(
    flowing: Callable[..., ResolvedStudy], minimal: dict[str, Any], write: Write
) -> None:
    whole = flowing(
        {"kind": "gates", "sources": ["math", "ja"]}, baselines={"uniform": False}
    )
    assert (whole.engine.profile, whole.engine.slots) == ("pool", 12)
    merged = flowing({"kind": "edits", "edits": 3}, space=MERGED)
    assert (merged.engine.profile, merged.engine.slots) == ("slots", 7)
    plain = read_study(write(minimal))
    assert (plain.engine.profile, plain.engine.slots) == ("weights", None)


def test_stacks_are_counted(flowing: Callable[..., ResolvedStudy]) -> None:
    study = flowing({"kind": "donors"})
    assert isinstance(study.blueprint, FlowBlueprint)
    assert study.blueprint.flow.n_stacks == 9


def test_starts_name_axes_of_the_flow(flowing: Callable[..., ResolvedStudy]) -> None:
    start = {"name": "mine", "knobs": {"donor.1": "ja", "scale": 0.5}}
    study = flowing({"kind": "donors", "scales": "edge"}, start=[start])
    mine = study.baselines[-1]
    assert layers(mine.recipe) == [{"base": 0}, {"ja": 1}, {"base": 2}, {"base": 3}]
    scales = [slot.scale for slot in mine.recipe.slots]
    assert scales == pytest.approx([1.0, 0.5, 0.5, 1.0], rel=1e-3)


def test_a_study_with_a_flow_is_restored_as_it_was(
    flowing: Callable[..., ResolvedStudy],
) -> None:
    flow = {"kind": "gates", "sources": ["merge", "math"], "scales": "edge"}
    study = flowing(flow | {"depth": {"max": 6}}, space=MERGED)
    again = restore(study.config, study.allowance)
    assert (again.space, again.engine, again.config) == (
        study.space,
        study.engine,
        study.config,
    )
    point = study.space.random(np.random.default_rng(3))
    assert again.blueprint.recipe(point) == study.blueprint.recipe(point)
    other = {**study.config, "study": {**study.config["study"]}}
    other["study"]["space"] = {**other["study"]["space"]}
    other["study"]["space"]["flow"] = {
        **other["study"]["space"]["flow"],
        "scales": "layer",
    }
    with pytest.raises(SpecError, match="scale"):
        restore(other, study.allowance)


@pytest.mark.parametrize(
    ("kind", "other"), [("donors", "ja"), ("gates", "ja"), ("gates", "deep")]
)
def test_what_was_not_written_beside_a_flow_stays_unwritten(
    minimal: dict[str, Any], write: Write, deep: Path, kind: str, other: str
) -> None:
    known = minimal["sources"] | {"deep": str(deep)}
    minimal["sources"] = {name: known[name] for name in ("math", other)}
    minimal |= {"space": {"flow": {"kind": kind}}, "strategy": {"kind": "random"}}
    study = read_study(write(minimal))
    assert restore(study.config, study.allowance).config == study.config


@pytest.mark.parametrize(
    ("flow", "space", "says"),
    [
        (
            {"kind": "gate", "sorces": ["math"]},
            {},
            [
                "space.flow.kind: expected 'gates', 'edits', 'donors', 'switches', "
                "'slices' or 'block', got 'gate'; did you mean 'gates'?",
                "space.flow.sorces: unknown key; did you mean 'sources'?",
            ],
        ),
        (
            {"kind": "gates", "sources": ["maths", "ja", "ja"], "edits": 3},
            {},
            [
                "space.flow.sources.0: unknown source 'maths'; did you mean 'math'?",
                "space.flow.sources.2: expected each source once, got 'ja' again.",
                "space.flow.edits: expected no such key beside kind gates; it belongs "
                "to edits.",
            ],
        ),
        (
            {"kind": "gates", "sources": ["merge", "math"]},
            {},
            [
                "space.operator: expected an operator: the flow has layers of `merge`, "
                "which is what the operator makes."
            ],
        ),
        (
            {"kind": "gates", "sources": ["math", "ja"]},
            MERGED,
            [
                "space.flow.sources: expected `merge` among the sources: without it "
                "'task_arithmetic' has no effect. Add it, or leave the operator out."
            ],
        ),
        (
            {"kind": "block", "sources": ["math", "ja"], "times": 1, "slices": 2},
            {},
            [
                "space.flow.slices: expected no such key beside kind block; it belongs "
                "to slices.",
                "space.flow.sources: expected one source for block, got 2; several are "
                "for slices, gates or edits.",
                "space.flow.times: expected at least 2, got 1.",
            ],
        ),
        (
            {"kind": "block", "sources": ["math"], "scales": "layer"},
            {},
            [
                "space.flow.scales: expected none for kind block, got 'layer'.",
            ],
        ),
        (
            {"kind": "edits", "scales": "edge"},
            {"knobs": {"weight": "search"}},
            [
                "space.flow.scales: expected none, layer or full for kind edits, got "
                "'edge'.",
                "space.knobs: expected an operator that this belongs to, got none.",
            ],
        ),
        (
            {"kind": "donors", "sources": ["math"], "depth": {"max": 9}},
            {},
            [
                "space.flow.depth: expected no such key: donors keep the depth.",
                "space.flow.sources: expected at least two sources for donors.",
            ],
        ),
        (
            {"kind": "switches", "switches": 2},
            {},
            [
                "space.flow.switches: expected fewer than the 2 layers that may "
                "change, got 2."
            ],
        ),
        (
            {"kind": "slices", "depth": {"min": 5, "max": 3}},
            {},
            [
                "space.flow.depth.min: expected at most 4: the search begins with "
                "'base' as it stands, which has 4, got 5.",
                "space.flow.depth.max: expected at least 4: the search begins with "
                "'base' as it stands, which has 4, got 3.",
            ],
        ),
        (
            {"kind": "gates", "scales": "edge", "repeats": 9},
            {},
            [
                "space.flow.scales: expected none or layer: pairs of 108 layers would "
                "be too many axes (at most 64 layers)."
            ],
        ),
        (
            {"kind": "gates", "scale": {"low": 1.0, "high": 1.0}},
            {},
            ["space.flow.scale: expected low below high, got 1 for both."],
        ),
        (
            {"kind": "gates", "scale": {"high": 2.0}},
            {},
            ["space.flow.scale: expected scales: layer, edge or full beside a range."],
        ),
        (
            {"kind": "gates", "embed": "maths"},
            {},
            ["space.flow.embed: unknown source 'maths'; did you mean 'math'?"],
        ),
    ],
)
def test_mistakes_are_told_all_at_once(
    minimal: dict[str, Any],
    write: Write,
    flow: dict[str, Any],
    space: dict[str, Any],
    says: list[str],
) -> None:
    said = problems(write(with_flow(minimal, flow, space=space)))
    assert sorted(said) == sorted(says)


def test_a_space_without_a_flow_needs_an_operator(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"] = {"base": "base"}
    assert problems(write(minimal)) == [
        "space.operator: expected this key, got nothing; it is required."
    ]


def test_too_few_slots_and_a_profile_that_cannot_are_refused(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal = with_flow(minimal, {"kind": "gates"})
    minimal["engine"] = {"kind": "simulated", "slots": 5}
    (said,) = problems(write(minimal))
    assert said.startswith("engine.slots: Candidates of this space have up to 8 layers")
    minimal["engine"] = {"kind": "simulated", "profile": "weights"}
    (said,) = problems(write(minimal))
    assert said.startswith("engine.profile: Profile weights runs the frame's layers")


def test_sources_whose_layers_cannot_be_mixed_are_named_in_pairs(
    minimal: dict[str, Any], write: Write, zoo: Path
) -> None:
    minimal["sources"]["wide"] = str(zoo / "wide")
    (said,) = problems(write(with_flow(minimal, {"kind": "gates"})))
    assert said.startswith("sources: expected models that fit together: 'wide' has")
    assert "'wide' has hidden size 64, but 'base' has 32." in said


def test_merged_sources_must_be_of_one_depth(
    minimal: dict[str, Any], write: Write, deep: Path
) -> None:
    minimal["sources"]["deep"] = str(deep)
    flow = {"kind": "gates", "sources": ["merge", "deep"]}
    study = read_study(write(with_flow(minimal, flow, space=MERGED)))
    assert study.engine.slots == 8
    merged = MERGED | {"experts": ["math", "deep"]}
    (said,) = problems(write(with_flow(minimal, flow, space=merged)))
    assert "'deep' has number of layers 6, but 'base' has 4." in said


def test_a_tied_frame_has_one_source_for_both_ends(
    minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    for i, name in enumerate(("base", "math")):
        folder = tiny_model(tmp_path / name, seed=i, n_layers=4, tied=True)
        minimal["sources"][name] = str(folder)
    flow = {"kind": "gates", "sources": ["base", "math"]}
    assert problems(write(with_flow(minimal, flow | {"embed": "ja"}))) == [
        "space.flow.embed: expected a source whose head is its embedding, as in the "
        "frame 'base', got 'ja'; or choose an untied frame.",
        "space.flow.head: expected the source of the embedding, 'ja', got 'base': in "
        "the frame 'base' the head is the embedding.",
    ]


def test_no_source_is_called_as_the_merge_is(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["sources"]["merge"] = minimal["sources"]["ja"]
    flow = {"kind": "gates", "sources": ["base", "math"]}
    (said,) = problems(write(with_flow(minimal, flow)))
    assert said.startswith("sources.merge: expected another name")


def test_what_needs_no_source_is_checked_without(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["sources"] = {name: f"nowhere/{name}" for name in ("base", "math", "ja")}
    minimal["constraints"] = [
        {"measure": "add", "drop_at_most": 0.1, "relative_to": "uniform"}
    ]
    flow: dict[str, Any] = {"kind": "gates", "scales": "full", "depth": {"max": 12}}
    start = {"name": "mine", "knobs": {"gate.math.9": 1}}
    load_study(write(with_flow(minimal, flow, start=[start])))
    with pytest.raises(SpecError, match="did you mean 'math'"):
        load_study(write(with_flow(minimal, flow | {"embed": "maths"})))


def test_scales_that_no_folder_could_hold_are_refused_unless_none_is_wanted(
    minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    for i, name in enumerate(("base", "math", "ja")):
        folder = tiny_model(tmp_path / name, seed=i)
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "made_up"
        (folder / "config.json").write_text(json.dumps(config))
        minimal["sources"][name] = str(folder)
    flow: dict[str, Any] = {"kind": "donors", "scales": "layer"}
    (said,) = problems(write(with_flow(minimal, flow)))
    assert said.startswith(
        "space.flow.scales: expected none: scales of layers of 'base' cannot be "
        "written into weights: it is not known which tensors of a 'made_up' model"
    )
    study = read_study(write(with_flow(minimal, flow | {"export": False})))
    assert len(study.space.axes) == 2 + 4


@pytest.mark.parametrize(
    "file",
    sorted((Path(__file__).parents[2] / "search_spaces").glob("flow_*.yaml")),
    ids=lambda f: f.stem,
)
def test_every_shipped_space_of_layers_can_be_searched(
    file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shipped")
    spec = load_study(file)
    names = sorted(spec.sources)
    for i, name in enumerate(names):
        tiny_model(folder / name, seed=i, n_layers=6)
    spec = spec.model_copy(update={"sources": {n: str(folder / n) for n in names}})
    study = resolve(spec, base_dir=file.parent, judge=registry.problems)
    assert study.engine.profile in ("slots", "pool")
    rng = np.random.default_rng(0)
    for _ in range(20):
        recipe = study.blueprint.recipe(study.space.random(rng))
        assert len(recipe.slots) <= (study.engine.slots or 0)


def with_kinds(folder: Path, name: str, seed: int, kinds: str) -> str:
    """Write a model with a layer for each letter: sliding or full."""
    path = tiny_model(folder / name, "qwen3", seed=seed, n_layers=len(kinds))
    words = {"s": "sliding_attention", "f": "full_attention"}
    config = json.loads((path / "config.json").read_text())
    config |= {"sliding_window": 8, "layer_types": [words[kind] for kind in kinds]}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_there_are_slots_for_layers_of_each_kind(
    minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    minimal["sources"] = {
        "a": with_kinds(tmp_path, "a", 0, "sffs"),
        "b": with_kinds(tmp_path, "b", 1, "ssfss"),
    }
    minimal["engine"] = {"kind": "simulated", "profile": "slots"}
    flow: dict[str, Any] = {"kind": "gates", "depth": {"max": 6}}
    study = read_study(write(with_flow(minimal, flow)))
    assert study.engine.slots == 6
    assert study.engine.slot_kinds == {"sliding_attention": 6, "full_attention": 3}
    minimal["engine"] = {"kind": "simulated"}
    study = read_study(write(with_flow(minimal, flow)))
    assert study.engine.profile == "pool"
    assert study.engine.slot_kinds == {"sliding_attention": 6, "full_attention": 3}


def test_a_kind_of_layer_that_the_frame_lacks_is_refused(
    minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    minimal["sources"] = {
        "a": with_kinds(tmp_path, "a", 0, "ffff"),
        "b": with_kinds(tmp_path, "b", 1, "fsff"),
    }
    (said,) = problems(write(with_flow(minimal, {"kind": "gates"})))
    assert "Layer 1 of 'b' has sliding attention, one feed-forward block, but" in said
