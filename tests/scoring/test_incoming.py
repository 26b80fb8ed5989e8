import pytest
import torch

from evomerge.errors import CandidateError
from evomerge.scoring.weight_stream import WeightStream


def test_it_counts_names_and_bytes_of_the_engines_type() -> None:
    stream = [("a", torch.zeros(4, 3)), ("b", torch.zeros(5))]
    incoming = WeightStream(stream, torch.bfloat16, tied=False)
    assert [name for name, _ in incoming] == ["a", "b"]
    assert incoming.names == {"a", "b"}
    assert incoming.size_bytes == 34


def test_head_of_its_own_does_not_fit_a_tied_engine() -> None:
    incoming = WeightStream(
        [("lm_head.weight", torch.zeros(2))], torch.float32, tied=True
    )
    with pytest.raises(CandidateError, match="untied parent"):
        list(incoming)


def test_values_beyond_float16_are_refused_by_name() -> None:
    stream = [("fine", torch.ones(2)), ("huge", torch.tensor([7e4]))]
    with pytest.raises(CandidateError, match="'huge'"):
        list(WeightStream(stream, torch.float16, tied=False))
