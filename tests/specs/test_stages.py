"""Studies with stages: how they are read, and what is refused before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.vocabularies import add_tokens

from evomerge.core.flow.blueprint import FlowBlueprint
from evomerge.core.recipes.recipe import Nested
from evomerge.errors import SpecError
from evomerge.specs.completing.stage import Taken, grounded
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.studies.chain import Pending
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import load_parts, load_study, read_studies
from evomerge.strategies import registry
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]
Data = dict[str, Any]
SHIPPED = Path(__file__).parents[2] / "search_spaces" / "ps_then_dfs.yaml"
PS = {
    "operator": "task_arithmetic",
    "base": "base",
    "experts": ["math", "ja"],
    "knobs": {"weight": "search"},
}


def gates(*sources: str, **more: Any) -> Data:
    return {"flow": {"kind": "gates", "sources": list(sources), **more}}


@pytest.fixture
def staged(minimal: Data) -> Data:
    """Two steps: weights, then a data flow through their merge."""
    budget = {"trials": 6}
    del minimal["space"], minimal["budget"]
    return minimal | {
        "name": "two",
        "strategy": {"kind": "random"},
        "stages": [
            {"name": "ps", "space": PS, "budget": budget},
            {
                "name": "dfs",
                "take": {"merged": "ps"},
                "space": gates("merged", "math", scales="edge"),
                "budget": budget,
            },
        ],
    }


@pytest.fixture
def read(write: Write) -> Callable[[Data], tuple[ResolvedStudy, ...]]:
    return lambda data: read_studies(write(data), judge=registry.problems)


@pytest.fixture
def refused(write: Write) -> Callable[[Data], list[str]]:
    """Every mistake of a file, without its name."""

    def refused(data: Data) -> list[str]:
        with pytest.raises(SpecError) as caught:
            read_studies(write(data), judge=registry.problems)
        return [str(one).partition(": ")[2] for one in caught.value.problems]

    return refused


def test_each_stage_is_a_study_with_what_it_takes_as_a_source(
    read, staged: Data
) -> None:
    ps, dfs = read(staged)
    assert (ps.name, dfs.name) == ("two.ps", "two.dfs")
    assert isinstance(dfs.blueprint, FlowBlueprint)
    assert dfs.blueprint.flow.stock.names == ("merged", "math")
    taken = dfs.blueprint.inputs["merged"]
    assert taken == Nested(ps.blueprint.recipe(ps.space.start()))
    (merged,) = (b for b in dfs.baselines if b.label == "merged")
    assert merged.recipe == taken.recipe  # its own stage's, so its outcomes are known


def test_sources_frame_and_probe_stay_folders(read, staged: Data) -> None:
    _, dfs = read(staged)
    assert set(dfs.sources) == set(dfs.inputs) == {"base", "math", "ja"}
    assert (dfs.frame, dfs.probe) == ("base", "ja")
    staged["stages"][1]["frame"] = "math"
    assert read(staged)[1].frame == "math"


def test_a_taken_source_is_grounded_in_the_folder_its_frames_lead_to(
    read, staged: Data
) -> None:
    third = {"name": "end", "take": {"stack": "dfs"}, "budget": {"trials": 2}}
    staged["stages"].append(third | {"space": gates("stack", "ja")})
    *_, dfs, end = read(staged)
    recipe = dfs.blueprint.recipe(dfs.space.start())
    assert grounded("stack", {"stack": recipe}) == "base"
    assert grounded("ja", {"stack": recipe}) == "ja"
    assert end.frame == "base"


def test_what_a_stage_leaves_out_is_what_the_top_says(read, staged: Data) -> None:
    staged |= {"budget": {"trials": 9}, "seed": 4, "baselines": {"uniform": False}}
    ps, dfs = staged["stages"]
    del dfs["budget"]
    ps |= {"seed": 5, "strategy": {"kind": "cma"}}
    first, second = read(staged)
    assert (first.seed, second.seed) == (5, 4)
    assert (first.budget.trials, second.budget.trials) == (6, 9)
    assert (first.strategy.kind, second.strategy.kind) == ("cma", "random")
    assert {b.label for b in first.baselines} == {"base", "ja", "math"}


def test_several_of_a_front_are_sources_by_number(read, staged: Data) -> None:
    dfs = staged["stages"][1]
    dfs["take"] = {"merged": {"stage": "ps", "front": 2}}
    dfs["space"] = gates("merged2", "merged1")
    second = read(staged)[1]
    assert second.blueprint.flow.stock.names == ("merged2", "merged1")  # type: ignore[attr-defined]
    assert {"merged1", "merged2"} <= {b.label for b in second.baselines}


def test_a_taken_recipe_can_be_merged_like_any_expert(read, staged: Data) -> None:
    staged["stages"][1]["space"] = PS | {"experts": ["merged", "ja"]}
    _, second = read(staged)
    recipe = second.blueprint.recipe(second.space.start())
    assert isinstance(recipe.input("merged"), Nested)
    assert second.engine.profile == "weights"


def test_a_stage_that_begins_is_restored_as_it_was(read, staged: Data) -> None:
    ps, checked = read(staged)
    pending = Pending.after(ps.allowance)
    assert pending is not None
    assert (pending.name, pending.later) == ("two.dfs", ())
    found = ps.blueprint.recipe({"weight.math": 0.25, "weight.ja": 0.5})
    begun = pending.begin({"merged": Taken(found, 7)})
    assert begun.config["stage"]["taken"]["merged"]["trial"] == 7
    assert begun.blueprint.inputs["merged"] == Nested(found)  # type: ignore[attr-defined]
    assert begun.space == checked.space
    assert restore(begun.config, begun.allowance).config == begun.config
    usual = checked.config["stage"]["taken"]["merged"]["recipe"]
    assert usual != begun.config["stage"]["taken"]["merged"]["recipe"]


def test_a_study_goes_on_knowing_its_later_stages(read, staged: Data) -> None:
    ps, _ = read(staged)
    assert restore(ps.config, ps.allowance).allowance == ps.allowance


def test_a_study_of_one_search_is_not_read_from_stages(
    write: Write, staged: Data
) -> None:
    assert [part.spec.name for part in load_parts(write(staged))] == [
        "two.ps",
        "two.dfs",
    ]
    with pytest.raises(SpecError, match="one search"):
        load_study(write(staged))


def test_stacks_of_any_depth_are_checked_at_their_extremes(
    refused, read, staged: Data
) -> None:
    third = {"name": "end", "take": {"stack": "dfs"}, "budget": {"trials": 2}}
    flow = gates("stack", "ja", depth={"max": 6})
    assert refused(
        {**staged, "stages": [*staged["stages"], third | {"space": flow}]}
    ) == [
        "stages.2.space.flow.depth.max: expected at least 8: the search begins with "
        "'stack' as it stands, which has 8, got 6."
    ]
    flow = gates("stack", "ja", depth={"max": 8})
    assert (
        len(read({**staged, "stages": [*staged["stages"], third | {"space": flow}]}))
        == 3
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"take": {"merged": "sp"}},
            ["stages.1.take.merged: unknown stage 'sp'; known: ps."],
        ),
        (
            {"take": {"merged": "dfs"}},
            ["stages.1.take.merged: expected a stage before this one, got 'dfs'."],
        ),
        (
            {"name": "ps"},
            ["stages.1.name: expected another name, got 'ps' twice."],
        ),
        (
            {"take": {"ja": "ps", "merged": "ps"}},
            [
                "stages.1.take.ja: expected another name: 'ja' is a source.",
            ],
        ),
        (
            {"take": {"merged": "ps", "merge": "ps"}},
            [
                "stages.1.take.merge: expected another name: 'merge' is what the "
                "operator makes.",
            ],
        ),
        (
            {"take": {"merged": "ps", "other": "ps"}},
            [
                "stages.1.take.other: expected a use of 'other', but the space of this "
                "stage names other sources; add it to them, or take nothing.",
            ],
        ),
        (
            {"take": {"merged": {"stage": "ps", "best": "skor"}}},
            [
                "stages.1.take.merged.best: unknown objective 'skor' of stage 'ps'; "
                "did you mean 'score'?",
            ],
        ),
        (
            {"take": {"merged": {"stage": "ps", "best": "score", "front": 2}}},
            ["stages.1.take.merged: expected best or front, got both; keep one."],
        ),
        (
            {"take": {}},
            [
                "stages.1.space.flow.sources.0: unknown source 'merged'; did you mean "
                "'merge'?",
            ],
        ),
        (
            {"spice": {}},
            ["stages.1.spice: unknown key; did you mean 'space'?"],
        ),
        (
            {"space": gates("merged", "math", scale={"low": 2})},
            [
                "stages.1.space.flow.scale.low: expected a number of at most 1, got 2.",
            ],
        ),
        (
            {"strategy": {"kind": "cmaa"}},
            [
                "stages.1.strategy: unknown strategy 'cmaa'; did you mean 'cma'?; "
                "known: cma, catcma, comocatcma, tpe, nsga2, nsga3, climb, grid, "
                "random."
            ],
        ),
        (
            {"budget": None},
            [
                "stages.1.budget: expected this key, here or at the top of the file "
                "for all stages."
            ],
        ),
        (
            {"engine": {"kind": "simulated", "slots": 2}},
            ["stages.1.engine.slots"],
        ),
    ],
)
def test_mistakes_are_told_at_the_stage(
    refused, staged: Data, change: Data, says: list[str]
) -> None:
    staged["stages"][1] |= change
    found = refused(staged)
    assert len(found) == len(says), found
    for line, said in zip(found, says, strict=True):
        assert line.startswith(said)


def test_mistakes_of_all_stages_are_told_at_once(refused, staged: Data) -> None:
    ps, dfs = staged["stages"]
    ps["space"] = PS | {"base": "bass"}
    dfs["take"] = {"merged": "sp"}
    staged["stages"].append({"name": "ps", "space": PS, "budget": {"trials": 0}})
    found = refused(staged | {"sead": 3})
    assert {line.partition(": ")[0] for line in found} == {
        "sead",
        "stages.0.space.base",
        "stages.1.take.merged",
        "stages.2.budget.trials",
        "stages.2.name",
    }


def test_stacks_that_move_layers_are_not_merged_layer_by_layer(
    refused, read, staged: Data
) -> None:
    third = {"name": "end", "take": {"stack": "dfs"}, "budget": {"trials": 2}}
    third["space"] = PS | {"experts": ["stack", "ja"]}
    staged["stages"].append(third)
    assert refused(staged)[0].startswith(
        "stages.2.take.stack: expected a stage that keeps layers in their places"
    )
    donors = {"flow": {"kind": "donors", "sources": ["merged", "math"]}}
    staged["stages"][1]["space"] = donors
    assert len(read(staged)) == 3


def test_stacks_whose_scales_cannot_be_written_are_not_taken(
    refused, staged: Data
) -> None:
    staged["stages"][1]["space"]["flow"]["export"] = False
    third = {"name": "end", "take": {"stack": "dfs"}, "budget": {"trials": 2}}
    staged["stages"].append(third | {"space": gates("stack", "ja")})
    assert refused(staged) == [
        "stages.2.take.stack: expected a stage whose stacks can be written down: 'dfs' "
        "has scales and says `export: false`."
    ]


def test_a_stack_whose_scales_leave_the_element_type_is_refused_when_a_stage_begins(
    read, staged: Data
) -> None:
    staged |= {"dtype": "float16"}
    third = {"name": "end", "take": {"stack": "dfs"}, "budget": {"trials": 2}}
    staged["stages"].append(third | {"space": gates("stack", "ja")})
    _, dfs, _ = read(staged)
    pending = Pending.after({"later": read(staged)[0].allowance["later"][1:]})
    assert pending is not None
    usual = dfs.blueprint.recipe(dfs.space.start())
    slots = tuple(replace(slot, scale=5.0) for slot in usual.slots)
    with pytest.raises(SpecError, match=r"stages\.2\.take\.stack") as caught:
        pending.begin({"stack": Taken(replace(usual, slots=slots))})
    assert "multiply to 625; in float16" in str(caught.value)
    assert pending.begin({"stack": Taken(usual)}).name == "two.end"


def test_a_key_that_every_stage_gives_itself_is_refused_at_the_top(
    refused, staged: Data
) -> None:
    staged["space"] = PS
    assert refused(staged) == [
        "space: expected no such key: every stage gives its own."
    ]


def test_a_missing_model_is_told_once(refused, staged: Data, tmp_path: Path) -> None:
    staged["sources"]["ja"] = str(tmp_path / "gone")
    (said,) = refused(staged)
    assert said.startswith("sources.ja: expected a model")


def test_a_long_name_is_refused(refused, staged: Data) -> None:
    staged["name"] = "n" * 62
    found = refused(staged)
    assert [line.partition(": ")[0] for line in found] == [
        "stages.0.name",
        "stages.1.name",
    ]
    assert "at most 64 characters" in found[0]


@pytest.mark.parametrize("stages", [[], {}, "ps", [3], None])
def test_stages_that_are_no_list_are_refused(
    refused, staged: Data, stages: Any
) -> None:
    assert refused(staged | {"stages": stages})


def test_the_shipped_two_steps_can_be_searched(tmp_path: Path, write: Write) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    data["evaluators"] = [str(SHIPPED.parent / file) for file in data["evaluators"]]
    for i, name in enumerate(data["sources"]):
        data["sources"][name] = str(tiny_model(tmp_path / name, seed=i, n_layers=6))
    ps, dfs = read_studies(write(data, "ps_then_dfs.yaml"), judge=registry.problems)
    assert (ps.engine.profile, dfs.engine.profile) == ("weights", "pool")
    rng = np.random.default_rng(0)
    for _ in range(20):
        recipe = dfs.blueprint.recipe(dfs.space.random(rng))
        assert len(recipe.slots) <= 9


@pytest.fixture(scope="module")
def tongues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a model with one token more."""
    folder = tmp_path_factory.mktemp("tongues")
    for seed, name in enumerate(("base", "math", "ja")):
        tiny_model(folder / name, seed=seed)
    add_tokens(folder / "ja", ["<tool>"])
    return folder


def test_stages_have_one_vocabulary_or_are_refused(
    refused, read, staged: Data, tongues: Path
) -> None:
    staged |= {"vocabulary": "union"}
    staged["sources"] = {name: str(tongues / name) for name in staged["sources"]}
    (said,) = refused(staged)
    assert said.startswith("vocabulary: expected the vocabulary of stage 'ps', where ")
    assert "give both stages the same base and frame" in said
    staged["stages"][1]["space"]["base"] = "base"
    _, dfs = read(staged)
    inputs = dict(dfs.blueprint.recipe(dfs.space.start()).inputs)
    assert isinstance(inputs["merged"], Nested)
    transformed = dict(inputs["merged"].recipe.inputs)
    assert all(dfs.inputs[name] == transformed[name] for name in ("base", "math", "ja"))
