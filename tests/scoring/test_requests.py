import pytest

from evomerge.errors import RequestError
from evomerge.scoring.engine import (
    GenerateRequest,
    LoglikelihoodRequest,
    check_generate,
    check_loglikelihood,
    cut_at_stop,
    room,
)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", (), "one two"),
        ("one two", ("never",), "one two"),
        ("a b c", (" c", " b"), "a"),
        ("a\n\nb", ("\n\n", "\n"), "a"),
        ("abc", ("",), "abc"),
        ("stop", ("stop",), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(
    text: str, stops: tuple[str, ...], expected: str
) -> None:
    assert cut_at_stop(text, stops) == expected


def test_room_is_what_both_limits_leave() -> None:
    assert room(GenerateRequest((1,) * 10, 5), 100) == 5
    assert room(GenerateRequest((1,) * 97, 5), 100) == 3


def test_prompt_that_fills_the_engine_is_refused_by_its_place() -> None:
    requests = [GenerateRequest((1,), 5), GenerateRequest((1,) * 8, 5)]
    check_generate(requests, 9)
    with pytest.raises(RequestError, match="Prompt 1 has 8 tokens"):
        check_generate(requests, 8)


def test_answer_of_no_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 1"):
        check_generate([GenerateRequest((1,), 0)], 9)


def test_pair_may_fill_the_engine_but_not_more() -> None:
    pair = LoglikelihoodRequest((1, 2, 3), (4, 5))
    check_loglikelihood([pair], 5)
    with pytest.raises(RequestError, match="have 5 tokens"):
        check_loglikelihood([pair], 4)
