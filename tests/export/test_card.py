"""The model card: complete, honest, and deaf to what names try to say."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.protocol import Outcome
from evomerge.core.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.repeats import Repeats
from evomerge.core.size import SpaceSize
from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.card import CardFacts, Parent, Search, card
from evomerge.export.markup import file_name, markdown
from evomerge.export.report import Contender, tables_of_rivals
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
    return tables_of_rivals(
        OBJECTIVES,
        contender("trial 41", {"math": 0.6, "ja": 0.5}, 20, truncated=30),
        [
            contender("parent math", {"math": 0.62, "ja": 0.1}, 20),
            contender("uniform blend", {"math": 0.55, "ja": 0.5}, 30, truncated=2),
        ],
        np.random.default_rng(0),
    )


def facts(names=("math", "ja"), study="demo", rival="uniform blend"):
    tables = tuple(
        replace(t, rows=(*t.rows[:2], replace(t.rows[2], label=rival)))
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
        search=Search(study, 41, Usage(320, 51200, 1834.4), {"balanced": 0.93}, 2),
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
        "base_model": ["somebody/math-7b", "ja"],
        "base_model_relation": "merge",
        "tags": ["merge", "evomerge"],
    }


def test_what_was_selected_on_is_marked_and_stands_beside_the_sealed_score():
    text = card(facts())
    assert "**selected on** it reached 0.93" in text
    assert "opened 2 times" in text
    assert "no detectable gain" in text
    assert "**gain**" in text


def test_more_truncated_answers_than_the_rivals_are_pointed_out():
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


def test_without_sealed_scores_the_card_claims_nothing():
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
    wild = facts(names=names, study=name, rival=name + "r")
    wild = replace(wild, name=name, versions={name: name})
    text, tame = card(wild), card(facts())
    assert set(front_matter(text)) == set(front_matter(tame))
    assert front_matter(text)["tags"] == ["merge", "evomerge"]
    text.encode()  # no lone surrogates
    outside = text.split("<details>")[0]
    # The same structure, whatever the names: headings, table cells, tags.
    for mark in ("\n#", "|", "<", "**", "`", "](", "\n---"):
        assert outside.count(mark) == tame.split("<details>")[0].count(mark), mark
    assert text.count("\n```") == tame.count("\n```")
    assert "://" not in outside


def test_markdown_keeps_ordinary_names_readable():
    assert markdown("jd_sort5-v1.2 λ=0.5") == "jd_sort5-v1.2 λ=0.5"
    assert markdown("- item") == "&#45; item"
    assert markdown("_x_") == "&#95;x&#95;"


def test_a_file_name_is_safe():
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("数学") == "model"
    assert len(file_name("x" * 1000)) <= 96
