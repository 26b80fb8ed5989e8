import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.zoo.skills import SKILLS, held_out
from evomerge.zoo.tasks import TASKS, questions
from evomerge.zoo.tokenizer import BOS_ID, EOS, EOS_ID, UNK_ID, build_tokenizer


def test_training_the_tokenizer_twice_gives_the_same_file() -> None:
    again = build_tokenizer.__wrapped__()
    assert again is not build_tokenizer()
    assert again.to_str() == build_tokenizer().to_str()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_question_or_answer_of_a_task_loses_anything(task: str) -> None:
    tokenizer = build_tokenizer()
    for question in questions(task):
        for text in (question.text + "\n", question.answer):
            ids = tokenizer.encode(text).ids
            assert ids[0] == BOS_ID
            assert UNK_ID not in ids
            assert tokenizer.decode(ids) == text


@given(text=st.text(max_size=40))
def test_any_text_survives(text: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if EOS not in text and "<" not in text:
        assert tokenizer.decode(ids) == text
    assert UNK_ID not in ids or "<unk>" in text


def test_every_digit_is_a_token_of_its_own() -> None:
    encoded = build_tokenizer().encode("整13140は?\n01134です")
    assert [token for token in encoded.tokens if token.isdigit()] == list("1314001134")


@pytest.mark.parametrize("skill", sorted(SKILLS))
def test_question_and_answer_have_the_same_tokens_joined_as_apart(skill: str) -> None:
    tokenizer = build_tokenizer()
    for question in held_out(skill, 50):
        apart = (
            tokenizer.encode(question.text + "\n").ids
            + tokenizer.encode(question.answer, add_special_tokens=False).ids
        )
        assert tokenizer.encode(f"{question.text}\n{question.answer}").ids == apart


def test_no_answer_is_longer_than_a_task_lets_a_model_write() -> None:
    tokenizer = build_tokenizer()
    longest = max(
        len(tokenizer.encode(question.answer, add_special_tokens=False).ids)
        for task in TASKS
        for question in questions(task)
    )
    assert longest + 1 <= 8  # the end token too
    assert tokenizer.token_to_id(EOS) == EOS_ID
