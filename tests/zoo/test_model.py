import pytest
import torch

from evomerge.zoo.model import EMBED, initial_state, logits
from evomerge.zoo.recipes import RECIPES, TINY, Course
from evomerge.zoo.skills import held_out
from evomerge.zoo.tasks import answers_exactly
from evomerge.zoo.tokenizer import BOS_ID, EOS_ID, IGNORED, Examples, build_tokenizer
from evomerge.zoo.training import Optimiser, orthogonalise, schedule, train

VOCAB = build_tokenizer().get_vocab_size()


def _state(seed: int = 0) -> dict[str, torch.Tensor]:
    return initial_state(TINY.shape, VOCAB, seed)


def test_the_demo_models_have_about_a_million_parameters() -> None:
    state = initial_state(RECIPES["P128"].shape, VOCAB, 0)
    assert 900_000 < sum(value.numel() for value in state.values()) < 1_000_000


def test_initial_weights_follow_the_seed() -> None:
    assert all(torch.equal(a, b) for a, b in _pairs(_state(3), _state(3)))
    assert not torch.equal(_state(3)[EMBED], _state(4)[EMBED])


def test_a_prediction_does_not_see_what_comes_later() -> None:
    state, tokens = _state(), torch.tensor([[1, 20, 21, 22, 23]])
    changed = tokens.clone()
    changed[0, 3:] = 30
    at = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(logits(state, tokens, at), logits(state, changed, at))


def test_examples_ask_for_the_answer_and_its_end_only() -> None:
    tokenizer = build_tokenizer()
    (question,) = held_out("jd_sort5", 1)
    examples = Examples.of([question])
    prompt = tokenizer.encode(question.text + "\n").ids
    answer = tokenizer.encode(question.answer, add_special_tokens=False).ids
    assert examples.tokens[0].tolist() == [*prompt, *answer, EOS_ID]
    wanted = examples.targets[0] != IGNORED
    assert examples.targets[0][wanted].tolist() == [*answer, EOS_ID]
    assert int(wanted.nonzero()[0]) == len(prompt) - 1
    assert prompt[0] == BOS_ID


def test_a_batch_is_cut_to_its_longest_row_and_scores_do_not_change_by_it() -> None:
    short, long = held_out("en_sort3", 20), held_out("jd_sort5", 20)
    examples = Examples.of([*short, *long])
    tokens, _ = examples.batch(torch.arange(20))
    assert tokens.shape[1] < examples.tokens.shape[1]
    state = _state()
    together = answers_exactly(state, [*short, *long])
    assert together == answers_exactly(state, short) + answers_exactly(state, long)


def test_the_schedule_rises_then_falls_and_never_ends() -> None:
    factors = [schedule(step, 100, 30) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 30)
    assert max(factors) == factors[30] == 1.0
    assert factors[:30] == sorted(factors[:30])
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert min(factors[30:]) == 0.02


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 8), (2, 8, 16)])
def test_muon_pushes_singular_values_towards_one(shape: tuple[int, ...]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(drawn))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_adam_steps_as_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator)
    ours = {"model.layers.0.x": start.clone().requires_grad_()}
    theirs = start.clone().requires_grad_()
    course = Course((("en_nc", 1.0),), steps=5, lr=1e-2, embed_lr=None)
    mine = Optimiser(ours, course)
    reference = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.98), foreach=False)
    for _ in range(5):
        gradient = torch.randn(5, 3, generator=generator)
        ours["model.layers.0.x"].grad = gradient.clone()
        theirs.grad = gradient.clone()
        mine.step(1.0)
        reference.step()
    torch.testing.assert_close(ours["model.layers.0.x"], theirs)


def test_frozen_ends_stay_and_everything_else_moves() -> None:
    start = _state()
    trained = train(TINY, "math", 0, start, lambda step: None)
    for name, value in trained.items():
        is_end = name in ("model.embed_tokens.weight", "lm_head.weight")
        assert torch.equal(value, start[name]) == is_end, name


def test_training_learns_and_reports_every_step() -> None:
    steps: list[int] = []
    start = initial_state(TINY.shape, VOCAB, 0)
    trained = train(TINY, "base", 0, None, steps.append)
    assert steps == list(range(1, TINY.base.steps + 1))
    assert _loss(trained) < _loss(start) - 0.5


def _loss(state: dict[str, torch.Tensor]) -> float:
    examples = Examples.of(held_out("en_sort4", 100))
    wanted = examples.targets != IGNORED
    with torch.no_grad():
        found = logits(state, examples.tokens, wanted)
    return float(torch.nn.functional.cross_entropy(found, examples.targets[wanted]))


def _pairs(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    assert list(first) == list(second)
    return [(first[name], second[name]) for name in first]
