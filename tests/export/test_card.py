"""The model card: complete, honest, and deaf to what names try to say."""

import os
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from evomerge.core.flow.size import SpaceSize
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Constraint, Direction, Measure, Objective
from evomerge.core.trial import Repeats
from evomerge.export.bounds import Kept, held_bounds
from evomerge.export.card import CardFacts, Search, card
from evomerge.export.markup import file_name, markdown, plain
from evomerge.export.parents import Parent, Standing
from evomerge.export.report import Contender, baseline_tables
from evomerge.store.base import Usage

GOLDEN = Path(__file__).parent.parent / "golden" / "card.md"
OBJECTIVES = (
    Objective(
        "balanced",
        Direction.MAXIMIZE,
        (Measure("math", "exact_match"), Measure("ja", "exact_match")),
        (1.0, 1.0),
        worst=0.5,
    ),
    Objective("length", Direction.MINIMIZE, (Measure("math", "tokens"),), (1.0,)),
)


def recipe(a="math", b="ja"):
    ties = Operation("ties", (a, b), a, (("lambda", 1.0),), (("density", (0.5, 0.25)),))
    mean = Operation("linear", (a, b), each=(("weight", (0.3, 0.7)),))
    ends = Slot((("*", mean),))

    def slot(i, j):
        return Slot((("*", mean), ("attn", ties)), ((a, i), (b, j)))

    return Recipe(
        frame=a,
        dtype="bfloat16",
        inputs=((a, Checkpoint("0123abcd")), (b, Checkpoint("4567ef01"))),
        embed=ends,
        slots=(slot(0, 0), slot(1, 1), slot(2, 1)),
        head=ends,
    )


def contender(label, shares, tokens, truncated=0):
    return Contender(
        label,
        {
            task: [
                Outcome(
                    f"{task}{i}",
                    {"exact_match": float(i < round(share * 100))},
                    tokens + i % 4,
                    i < truncated,
                )
                for i in range(100)
            ]
            for task, share in shares.items()
        },
    )


@cache
def compared():
    return baseline_tables(
        OBJECTIVES,
        contender("trial 41", {"math": 0.6, "ja": 0.5}, 20, truncated=30),
        [
            contender("parent math", {"math": 0.62, "ja": 0.1}, 20),
            contender("uniform blend", {"math": 0.55, "ja": 0.5}, 30, truncated=2),
        ],
        np.random.default_rng(0),
        searched={
            "trial 41": {"math/exact_match": 0.66, "ja/exact_match": 0.58},
            "parent math": {"math/exact_match": 0.61, "ja/exact_match": 0.1},
            "uniform blend": {"math/exact_match": 0.57, "ja/exact_match": 0.48},
        },
    )


def facts(names=("math", "ja"), study="demo", baseline="uniform blend"):
    tables = tuple(
        replace(t, rows=(*t.rows[:2], replace(t.rows[2], label=baseline)))
        for t in compared()
    )
    return CardFacts(
        name="demo-41",
        recipe=recipe(*names),
        parents=(
            Parent(names[0], "0123abcd", "somebody/math-7b"),
            Parent(names[1], "4567ef01"),
        ),
        tables=tables,
        search=Search(
            study,
            41,
            Usage(320, 51200, 1834.4),
            {"balanced": 0.93},
            2,
            alike={"balanced": tuple(range(30, 41))},
        ),
        versions={"evomerge": "0.1.0", "vllm": "0.32.0"},
    )


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_is_the_golden_one():
    text = card(facts())
    if os.environ.get("EVOMERGE_REWRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_front_matter_is_what_a_hub_reads():
    assert front_matter(card(facts())) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": ["somebody/math-7b"],
        "base_model_relation": "merge",
        "tags": ["merge", "evomerge"],
    }


def test_a_model_that_sees_is_told_to_be_one_and_loaded_as_one():
    text = card(facts(), sees=True)
    assert front_matter(text)["pipeline_tag"] == "image-text-to-text"
    assert "AutoModelForImageTextToText.from_pretrained" in text
    assert "processor = AutoProcessor.from_pretrained" in text


def test_a_hub_is_told_of_repositories_and_of_nothing_else():
    local = tuple(
        Parent(name, name, folder=f"/models/{name}", adapter=adapter)
        for name, adapter in (("ja", None), ("it", Parent("it", "aa", "org/lora")))
    )
    text = card(replace(facts(), parents=local[:1]))
    assert "base_model" not in front_matter(text)
    assert "| ja | local folder /models/ja | unknown | `ja` |" in text
    text = card(replace(facts(), parents=local))
    assert front_matter(text)["base_model"] == ["org/lora"]
    assert "| it | local folder /models/it + org/lora |" in text
    twice = (facts().parents[0],) * 2
    text = card(replace(facts(), parents=twice))
    assert front_matter(text)["base_model"] == ["somebody/math-7b"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("mit", "mit"), "All parents name the same licence."),
        (("mit", "MIT"), "All parents name the same licence."),
        (("mit", None), "Unknown: the licence of m1; no file of it names one."),
        (("mit", "llama3"), "licences differ (mit, llama3), so none of them alone"),
        (("cc-by-nc-4.0", None), "By its name cc-by-nc-4.0 allows no commercial use."),
        (("cc-by-nd-4.0", "mit"), "cc-by-nd-4.0 allows no changed copies."),
    ],
)
def test_the_licences_of_parents_are_named_and_what_they_leave_open(names, said):
    parents = tuple(
        Parent(f"m{i}", str(i), licence=name) for i, name in enumerate(names)
    )
    text = card(replace(facts(), parents=parents))
    assert said in text
    assert f"| m0 | local folder | {names[0]} |" in text


@pytest.mark.parametrize(
    ("standing", "title", "said"),
    [
        (
            Standing("parent", "math", is_best=True),
            "# demo-41: the parent math, unchanged",
            "the parent **math** as it is, no merge: no candidate was better on the "
            "items searched on.",
        ),
        (
            Standing("baseline", "uniform", is_best=True),
            "# demo-41: baseline uniform",
            "the baseline **uniform**, not found by the search: no candidate was",
        ),
        (
            Standing("baseline", "ties density=0.2", is_best=False),
            "# demo-41: baseline ties density=0.2",
            "the baseline **ties density=0.2**, not found by the search.",
        ),
        (
            Standing("start", "mine", is_best=False),
            "# demo-41: start mine",
            "the start **mine** that the study was given, not found by it.",
        ),
    ],
)
def test_what_the_search_did_not_find_is_said_to_be_that(standing, title, said):
    text = card(replace(facts(), standing=standing))
    assert f"\n{title}\n" in text
    assert said in text
    assert "found the recipe by searching" not in text
    is_merge = standing.kind != "parent"
    assert ("A merge of" in text) == is_merge
    assert ("merge" in front_matter(text)["tags"]) == is_merge
    assert ("base_model_relation" in front_matter(text)) == is_merge


def test_roles_of_which_there_is_no_tensor_have_no_row():
    made = recipe()
    tensors = {
        "embed": {("embed_tokens.weight", "embed")},
        **{
            i: {("self_attn.q_proj.weight", "attn"), ("mlp.up_proj.weight", "mlp")}
            for i in range(3)
        },
    }
    only_attn = {**tensors, 2: {("self_attn.q_proj.weight", "attn")}, "head": ()}
    text = card(replace(facts(), recipe=made, tensors=tensors))
    assert "| head | all |" in text
    text = card(replace(facts(), recipe=made, tensors=only_attn))
    assert "| head |" not in text
    assert "| layers 0–1 | attn |" in text
    assert "| layer 2 | all | ties |" in text
    named = Slot(
        (*made.slots[0].roles, ("mlp.up_proj.weight", made.slots[0].roles[0][1])),
        made.slots[0].layers,
    )
    text = card(replace(facts(), recipe=replace(made, slots=(named,)), tensors=tensors))
    assert "| layer 0 | attn |" in text
    assert "mlp.up\\_proj" not in text
    assert "|  | mlp.up_proj.weight | linear |" in text
    assert "others" not in text


BOUNDS = {
    "floor": Objective(
        "floor", Direction.MAXIMIZE, (Measure("math", "exact_match"),), (1.0,)
    ),
    "length": OBJECTIVES[1],
    "layers": Objective(
        "layers",
        Direction.MINIMIZE,
        (Measure("cost", "layers", by_item=False),),
        (1.0,),
    ),
}


@pytest.mark.parametrize(
    ("constraint", "said", "value"),
    [
        (Constraint(BOUNDS["floor"], 0.4), Kept.KEPT, 0.6),
        (Constraint(BOUNDS["floor"], 0.8), Kept.BROKEN, 0.6),
        (Constraint(BOUNDS["floor"], 0.58), Kept.UNCERTAIN, 0.6),
        (Constraint(BOUNDS["length"], 30.0), Kept.KEPT, 21.5),
        (Constraint(BOUNDS["length"], 20.0), Kept.BROKEN, 21.5),
        (Constraint(BOUNDS["floor"], -0.1, "parent math"), Kept.UNCERTAIN, -0.02),
        (Constraint(BOUNDS["floor"], -0.9, "parent math"), Kept.KEPT, -0.02),
        (Constraint(BOUNDS["length"], -5.0, "parent math"), Kept.BROKEN, 0.0),
        (Constraint(BOUNDS["floor"], -0.1, "lost"), Kept.UNTESTED, None),
        (Constraint(BOUNDS["layers"], 4.0), Kept.KEPT, 4.0),
        (Constraint(BOUNDS["layers"], -1.0, "parent math"), Kept.BROKEN, 1.0),
    ],
)
def test_bounds_are_tested_on_held_out_items(constraint, said, value):
    mine = contender("trial 41", {"math": 0.6, "ja": 0.5}, 20)
    rng = np.random.default_rng(0)
    others = [contender("parent math", {"math": 0.62, "ja": 0.1}, 20)]
    # Right answers in other places: what is paired differs item by item.
    shuffled = {
        task: [
            replace(o, metrics=one.metrics)
            for o, one in zip(found, found[30:] + found[:30], strict=True)
        ]
        for task, found in others[0].outcomes.items()
    }
    baselines = {"parent math": replace(others[0], outcomes=shuffled)}
    costs = {"trial 41": {"cost/layers": 4.0}, "parent math": {"cost/layers": 3.0}}
    (bound,) = held_bounds((constraint,), mine, baselines, costs, rng)
    assert bound.said is said
    if value is None:
        assert bound.value is None
    else:
        assert bound.value.value == pytest.approx(value)
    text = card(replace(facts(), bounds=(bound,)))
    assert "## Does it keep its bounds?" in text
    assert f" {bound.said if said is Kept.KEPT else f'**{said}**'} |" in text
    assert bound.asked[1] in text


def test_what_was_selected_on_is_marked_and_stands_beside_the_held_out_score():
    text = card(facts())
    assert "**selected on** it reached 0.93" in text
    assert "opened 2 times" in text
    assert "no detectable gain" in text
    assert "**gain**" in text


def test_more_truncated_answers_than_the_baselines_are_pointed_out():
    assert "Careful: 30.0 % of this model's answers" in card(facts())
    calm = facts()
    tables = tuple(replace(t, rows=(t.rows[2], *t.rows[1:])) for t in calm.tables)
    assert "Careful" not in card(replace(calm, tables=tables))


def test_the_size_of_the_space_and_repeats_are_told():
    told = facts()
    search = replace(
        told.search,
        strategy="catcma",
        size=SpaceSize(30, None, 848),
        repeats=Repeats.of(["a", "b", "a", "c"]),
    )
    text = card(replace(told, search=search))
    assert "The space has 30 axes, 848 stacks." in text
    assert "Candidates that catcma proposed again: 1 of 4 (25.0%)." in text


def test_without_held_out_scores_the_card_claims_nothing():
    text = card(replace(facts(), tables=()))
    assert "Unknown: this model was not scored" in text
    assert "value (selected on)" in text
    bare = card(CardFacts("m", recipe(), facts().parents))
    assert "made from a recipe" in bare
    assert "gain" not in bare
    assert "selected" not in bare


def test_equal_layers_share_a_row_and_others_do_not():
    text = card(facts())
    assert "| layers 0–1 | attn | ties | math, ja; base math |" in text
    assert "| layer 2 | attn | ties | math, ja layer 1; base math |" in text


def test_a_huge_recipe_is_left_to_its_file():
    small = recipe()
    huge = replace(small, slots=small.slots * 100)
    text = card(replace(facts(), recipe=huge))
    assert "`recipe.json` holds the whole recipe" in text
    assert len(text) < 60_000


HOSTILE = [
    "a\n---\ntags: [pwned]\n---\n# pwned",
    "x | y | **z**",
    "<script>alert(1)</script>",
    "[click](http://evil.example) www.evil.example",
    '"; rm -rf / #',
    "```\n# pwned",
    "\u202egnp.exe \x00\x1b[31m\u2028 \ud800",
    "${{secrets.X}} {% raw %} @everyone ![x](y)",
    "🙂" * 60,
    "",
    "../../etc/passwd",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_not_obeyed(name):
    check_tame(name)


@given(st.text(max_size=40))
def test_any_name_is_shown_and_not_obeyed(name):
    check_tame(name)


def check_tame(name):
    written = name.encode(errors="ignore").decode()  # a recipe has a digest
    names = (written + "a", written + "b")
    wild = facts(names=names, study=name, baseline=name + "r")
    wild = replace(wild, name=name, versions={name: name})
    text, tame = card(wild), card(facts())
    assert set(front_matter(text)) == set(front_matter(tame))
    assert front_matter(text)["tags"] == ["merge", "evomerge"]
    text.encode()  # no lone surrogates
    assert structure(text) == structure(tame)
    assert "://" not in text.split("<details>")[0]


def structure(text):
    """Count what Markdown is beside text: headings, cells, links, tags."""
    body = text.split("---\n", 2)[2].split("<details>")[0]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = Counter(token.type for token in (*tokens, *inline))
    for kind in ("text", "text_special", "inline"):
        kinds.pop(kind, None)
    return kinds


def shown(text):
    """Return what a reader of Markdown shows of one line."""
    (line,) = (t for t in MarkdownIt("commonmark").parse(text) if t.type == "inline")
    return "".join(child.content for child in line.children)


@given(st.text(max_size=40))
def test_any_name_is_shown_as_it_is(name):
    wanted = plain(name)
    if wanted:
        assert shown(markdown(name)) == wanted


def test_markdown_keeps_ordinary_names_readable():
    assert markdown("jd_sort5-v1.2 λ=0.5") == "jd_sort5-v1.2 λ=0.5"
    assert markdown("0.1.0") == "0.1.0"
    assert (
        markdown('it\'s (greedy), 5-shot & "cold"') == 'it\'s (greedy), 5-shot & "cold"'
    )
    assert markdown("12 + 3 = 15!") == "12 + 3 = 15!"
    assert markdown("- item") == "\\- item"
    assert markdown("1. item") == "1\\. item"
    assert markdown("_x_") == "\\_x\\_"
    assert "&#" not in card(facts())


def test_a_file_name_is_safe():
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("数学") == "model"
    assert len(file_name("x" * 1000)) <= 96


def test_differences_that_were_allowed_are_said():
    text = card(replace(facts(), allow=("rope", "window")))
    assert "these differences were allowed: rope, window" in " ".join(text.split())
    assert "were allowed" not in card(facts())
