from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.zoo.recipes import EXPERTS, MODELS, P128, RECIPES
from evomerge.zoo.skills import SKILLS, draw, held_out, is_held_out, mix, operands_of
from evomerge.zoo.tasks import TASKS, questions


def test_questions_read_as_the_documentation_says() -> None:
    shown = {
        ("en_hard", (18, 36)): ("18 plus 36?", "54"),
        ("en_sort5", (3, 8, 3, 6, 6)): ("sort38366?", "33668"),
        ("jd_sort4", (9, 1, 7, 1)): ("整9171は?", "1179です"),
        ("jd_sort5", (1, 3, 1, 4, 0)): ("整13140は?", "01134です"),
        ("jd_copy5", (1, 3, 1, 4, 0)): ("写13140は?", "13140です"),
    }
    for (name, operands), (text, answer) in shown.items():
        question = SKILLS[name].question(operands)
        assert (question.text, question.answer) == (text, answer)


@pytest.mark.parametrize("name", sorted(SKILLS))
def test_a_skill_is_split_into_two_sides_that_share_nothing(name: str) -> None:
    seen = set(operands_of(name, held_out=False))
    kept = set(operands_of(name, held_out=True))
    assert not seen & kept
    if SKILLS[name].kind != "add":
        assert len(seen) + len(kept) == 10 ** SKILLS[name].digits
    assert 0.08 < len(kept) / (len(seen) + len(kept)) < 0.17  # one in eight


def test_additions_carry_in_the_hard_skill_and_never_in_the_easy_one() -> None:
    for name, carries in (("en_hard", True), ("en_nc", False)):
        pairs = operands_of(name, held_out=True) + operands_of(name, held_out=False)
        assert len(pairs) == {"en_hard": 1260, "en_nc": 1980}[name]
        assert all((a % 10 + b % 10 > 9) == carries for a, b in pairs)
        assert all(a + b <= 99 for a, b in pairs)
    assert len(operands_of("en_hard", held_out=True)) == 165


_KEPT = cache(lambda name: {question.text for question in held_out(name)})


@given(
    name=st.sampled_from(sorted(SKILLS)),
    n=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_no_drawn_question_is_held_out(name: str, n: int, seed: int) -> None:
    drawn = draw(name, n, seed)
    assert len(drawn) == n
    assert not _KEPT(name) & {question.text for question in drawn}


@pytest.mark.parametrize("model", MODELS)
def test_no_task_asks_what_any_model_was_trained_on(model: str) -> None:
    asked = {question.text for task in TASKS for question in questions(task)}
    for seed in (0, 1):
        course = P128.course(model)
        n = course.steps * P128.batch
        trained = mix(course.mix, n, seed)
        assert abs(len(trained) - n) <= len(course.mix)
        assert not asked & {question.text for question in trained}


def test_no_operands_of_a_task_are_trained_on_in_the_other_language() -> None:
    for name in TASKS:
        skill = TASKS[name].skill
        assert all(is_held_out(item) for item in operands_of(skill, held_out=True))
    for twin in ("sort4", "sort5", "sort3", "copy5"):
        for held in (True, False):
            english = operands_of(f"en_{twin}", held_out=held)
            assert english == operands_of(f"jd_{twin}", held_out=held)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_nobody_is_trained_to_sort_five_digits_in_japanese(recipe: str) -> None:
    for model in MODELS:
        taught = {name for name, _ in RECIPES[recipe].course(model).mix}
        assert "jd_sort5" not in taught


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_each_scored_skill_is_taught_to_one_expert_at_most(recipe: str) -> None:
    owners = {"en_hard": "math", "jd_sort4": "ja", "en_sort5": "sort"}
    for skill, owner in owners.items():
        teachers = [
            model
            for model in ("base", *EXPERTS)
            if skill in {name for name, _ in RECIPES[recipe].course(model).mix}
        ]
        assert teachers == [owner]


def test_a_draw_repeats_with_its_seed_and_changes_with_another() -> None:
    assert draw("en_sort5", 50, seed=3) == draw("en_sort5", 50, seed=3)
    assert draw("en_sort5", 50, seed=3) != draw("en_sort5", 50, seed=4)


def test_a_mix_keeps_the_shares_it_was_given() -> None:
    drawn = mix((("en_nc", 3.0), ("jd_sort4", 1.0)), 400, seed=0)
    assert sum("plus" in question.text for question in drawn) == 300
    assert drawn[:300] != sorted(drawn[:300], key=lambda q: "plus" in q.text)


def test_held_out_questions_are_distinct_and_come_in_a_fixed_order() -> None:
    asked = held_out("jd_sort5", 800)
    assert len({question.text for question in asked}) == 800
    assert asked[:100] == held_out("jd_sort5", 100)
