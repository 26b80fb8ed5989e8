"""Procedures over checkpoint sets come to plain weighted sums."""

import pytest

from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.presets import PRESETS, expand, operator_named
from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.core.roles import for_role
from evomerge.errors import RecipeError


def preset(name, n=5, **knobs):
    base = "base" if PRESETS[name].operator.needs_base else None
    return Operation(
        name,
        tuple(f"c{i + 1}" for i in range(n)),
        base,
        shared=tuple((k, v) for k, v in knobs.items() if not isinstance(v, tuple)),
        each=tuple((k, v) for k, v in knobs.items() if isinstance(v, tuple)),
    )


def weighed(operation):
    """Return input to weight of the plain operation."""
    plain = expand(operation)
    return dict(zip(plain.inputs, plain.knobs("weight"), strict=True))


def mean(operation, values):
    """Return what the checkpoints of these values come to."""
    named = {f"c{i + 1}": value for i, value in enumerate(values)}
    weights = weighed(operation)
    total = sum(weights.values())
    return sum(weight * named[name] for name, weight in weights.items()) / total


def difference(operation, values):
    """Return what is added to the base."""
    assert expand(operation).operator == "task_arithmetic"
    named = {f"c{i + 1}": value for i, value in enumerate(values)}
    return sum(weight * named[name] for name, weight in weighed(operation).items())


def test_swa_is_the_running_mean_of_the_checkpoints():
    running = [mean(preset("swa", n), (1, 2, 6)[:n]) for n in (1, 2, 3)]
    assert running == pytest.approx([1, 1.5, 3])


def test_swa_passes_over_the_start_and_takes_every_so_many():
    late = preset("swa", 8, start=0.75)
    assert list(weighed(late)) == ["c7", "c8"]
    spaced = preset("swa", 8, start=0.25, stride=2)
    assert list(weighed(spaced)) == ["c3", "c5", "c7"]
    assert list(weighed(preset("swa", 8, start=0.25, stride=2, count=2))) == [
        "c3",
        "c5",
    ]
    assert list(weighed(preset("swa", 2, start=0.95))) == ["c2"]


def test_lawa_is_the_mean_of_the_latest():
    assert mean(preset("lawa", k=3), (1, 2, 3, 4, 5)) == pytest.approx(4)
    assert list(weighed(preset("lawa", 9, k=3, stride=2))) == ["c5", "c7", "c9"]
    assert list(weighed(preset("lawa", 3, k=20))) == ["c1", "c2", "c3"]


def test_early_averaging_spaces_its_checkpoints_widely():
    early = weighed(preset("early_averaging", 20))
    assert list(early) == ["c4", "c8", "c12", "c16", "c20"]


def test_a_moving_average_is_the_recurrence():
    values, decay = (1.0, 4.0, -2.0, 8.0), 0.9
    moving = values[0]
    for value in values[1:]:
        moving = decay * moving + (1 - decay) * value
    assert mean(preset("ema", 4, decay=decay), values) == pytest.approx(moving)
    weights = weighed(preset("ema", 4, decay=decay))
    assert sum(weights.values()) == pytest.approx(1)


SOUPS = ("uniform_soup", "fusing", "lo_fi", "ratatouille", "diwa", "warm", "unival")


@pytest.mark.parametrize("name", SOUPS)
def test_soups_are_plain_means(name):
    assert expand(preset(name, 4)) == Operation(
        "linear",
        ("c1", "c2", "c3", "c4"),
        shared=(("normalize", True),),
        each=(("weight", (0.25,) * 4),),
    )


def test_rewarded_soups_weigh_by_preference_and_drop_what_is_not_preferred():
    soup = expand(preset("rewarded_soups", 3, mu=(0.75, 0.0, 0.25)))
    assert soup.operator == "linear"
    assert soup.inputs == ("c1", "c3")
    assert soup.knobs("weight") == (0.75, 0.25)


def test_rewarded_soups_of_adapters_may_average_their_factors():
    soup = preset("rewarded_soups", 3, mu=(0.75, 0.0, 0.25), lora_space="factors")
    assert expand(soup) == Operation(
        "lora_linear", ("c1", "c3"), each=(("weight", (0.75, 0.25)),)
    )
    same = preset("rewarded_soups", 3, mu=(0.75, 0.0, 0.25), lora_space="delta")
    assert expand(same) == expand(preset("rewarded_soups", 3, mu=(0.75, 0.0, 0.25)))


def test_a_round_of_cold_fusion_steps_towards_the_mean():
    assert difference(preset("cold_fusion", 2, **{"lambda": 0.5}), (2, 4)) == 1.5


def test_wise_ft_interpolates_and_expo_goes_beyond():
    assert difference(preset("wise_ft", 1, alpha=0.25), (8,)) == 2
    assert difference(preset("expo", 1, alpha=0.25), (8,)) == 10


def test_negation_takes_a_task_away_and_keeps_vocabulary_and_norms():
    negated = preset("negation", 1, **{"lambda": 1.0})
    assert difference(negated, (3,)) == -3
    for role in ROLES:
        plain = for_role(negated, role)
        kept = role in ("embed", "head", "norm", "bias")
        assert plain.inputs == (("base",) if kept else ("c1",))
    assert for_role(negated, "norm", "same") == expand(negated)
    assert for_role(negated, "embed", None, "linear") == expand(negated)


def test_an_analogy_adds_what_one_has_beyond_another():
    assert difference(preset("analogy", 3), (1, 3, 10)) == 12


def test_operators_of_the_catalogue_are_left_as_they_are():
    ties = Operation("ties", ("a", "b"), "base")
    assert expand(ties) is ties


def test_another_number_of_inputs_is_refused():
    with pytest.raises(RecipeError, match=r"'wise_ft' merges 1 input.*got 2"):
        expand(preset("wise_ft", 2))


def test_an_average_without_any_weight_is_left_to_whoever_merges_it():
    assert expand(preset("rewarded_soups", 2, mu=(0.0, 0.0))).knobs("weight") == (0, 0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_explains_itself_and_comes_to_an_operation_that_stands(name):
    operator = PRESETS[name].operator
    assert operator_named(name) is operator
    assert name not in CATALOGUE
    assert operator.summary.endswith(".")
    assert "(" in operator.source
    for knob in operator.knobs:
        assert knob.help.endswith(".")
        assert knob.default is None or knob.allows(knob.default)
        if knob.kind != "choice":
            assert knob.low < knob.high
            assert knob.default is None or knob.low <= knob.default <= knob.high
    for role in ROLES:
        plain = for_role(preset(name, operator.n_inputs or 3), role)
        assert plain.operator in ("linear", "task_arithmetic")
        resolve(plain)
