import pytest
from support.operations import operation

from evomerge.core.operators import CATALOGUE, find
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.operators import ARITHMETIC

KNOBS = [
    pytest.param(operator, knob, id=f"{operator.name}-{knob.name}")
    for operator in CATALOGUE.values()
    for knob in operator.knobs
]

NOT_SEARCHED = {
    "seed": "a lucky mask is luck",
    "weight": "of nuslerp: only their ratio matters, and that is t",
    "epsilon": "must fit the density; eps_frac always does",
    "rounding": "one entry more or less",
    "floor": "a guard against noise",
    "draw": "matters where two inputs are equal in size",
    "max_iter": "how well a mean is found, not which",
    "tol": "how well a mean is found, not which",
}


def test_catalogue_and_arithmetic_hold_the_same_names():
    assert sorted(CATALOGUE) == sorted(ARITHMETIC)


def test_names_are_keys():
    assert all(operator.name == name for name, operator in CATALOGUE.items())


@pytest.mark.parametrize("operator", CATALOGUE.values(), ids=lambda o: o.name)
def test_every_operator_says_what_it_is_and_where_it_comes_from(operator):
    assert operator.summary.endswith(".")
    assert operator.source
    assert set(operator.policies or {}) <= set(ROLES)
    assert operator.random == (operator.knob("seed") is not None)
    names = [knob.name for knob in operator.knobs]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("operator", "knob"), KNOBS)
def test_every_knob_is_explained_and_its_default_is_within_its_range(operator, knob):
    assert knob.help.endswith(".")
    if knob.kind == "choice":
        assert len(set(knob.choices)) == len(knob.choices) >= 2
        assert knob.default in knob.choices
        assert knob.low is knob.high is None
        return
    assert knob.low < knob.high
    assert knob.allows(type(knob.low)(knob.low))
    assert knob.allows(type(knob.high)(knob.high))
    assert not knob.log or knob.low > 0
    if knob.default is None:  # 1/N
        assert knob.allows(0.5)
    else:
        assert knob.low <= knob.default <= knob.high
        assert knob.allows(knob.default)
    if knob.grid is not None:
        steps = (knob.high - knob.low) / knob.grid
        assert steps == pytest.approx(round(steps))


@pytest.mark.parametrize(("operator", "knob"), KNOBS)
def test_what_a_knob_needs_is_a_choice_that_stands_before_it(operator, knob):
    before = {
        other.name: other for other in operator.knobs[: operator.knobs.index(knob)]
    }
    for name, values in knob.only_with:
        assert before[name].kind == "choice"
        assert not before[name].per_input
        assert set(values) < set(before[name].choices)


@pytest.mark.parametrize(("operator", "knob"), KNOBS)
def test_random_seeds_are_never_searched(operator, knob):
    assert knob.searchable or knob.name in NOT_SEARCHED
    assert knob.name != "seed" or not knob.searchable


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_default_is_filled_in(name):
    settings = resolve(operation(name))
    for knob in CATALOGUE[name].knobs:
        values = settings.each[knob.name] if knob.per_input else None
        n = CATALOGUE[name].n_inputs or 2
        assert values is None or len(values) == n
        usual = 1 / n if knob.default is None else knob.default
        assert knob.per_input or settings.shared[knob.name] == usual
    assert settings.given == frozenset()


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (operation("ties", density=(0.5, 1.5)), "'density' of 'ties' must be"),
        (operation("ties", density=(0.5, -0.1)), "at least 0"),
        (operation("dare_linear", density=(0.5, 0.0)), "at least 1e-06"),
        (operation("slerp", t=1.01), "at most 1"),
        (operation("ties", consensus="vote"), "one of 'sum', 'count'"),
        (operation("dare_ties", seed=1.5), "a whole number"),
        (operation("dare_ties", seed=-1), "at least 0"),
        (operation("slerp", 3), "merges 2 input"),
        (operation("slerp", base=True), "no use for the base"),
        (operation("nuslerp", t=0.5, weight=(1.0, 1.0)), "t or weight, not both"),
        (operation("linear", 0), "at least one input"),
        (operation("model_stock", 1), "at least two input"),
        (operation("arcee_fusion", 2), "merges 1 input"),
        (operation("della", eps_frac=(0.1, 0.2), epsilon=(0.1, 0.1)), "not both"),
        (operation("della", density=(0.1, 0.5), epsilon=(0.1, 0.1)), "0 and 1"),
        (operation("pcb", clip=0.5), "one of 0.0, 0.0001, 0.01"),
        (operation("consensus", k=1.5), "a whole number"),
        (operation("task_arithmetic", scope="model"), "no knob 'scope'"),
        (operation("linear", normalize=(True, True)), "a single value"),
        (operation("linear", weight=("much", 1.0)), "a finite number"),
        (operation("linear", weight=(float("inf"), 1.0)), "a finite number"),
    ],
)
def test_what_the_catalogue_does_not_allow_is_refused(operation, message):
    with pytest.raises(RecipeError, match=message):
        resolve(operation)


def test_an_unknown_operator_is_refused_with_the_names_there_are():
    with pytest.raises(RecipeError, match=r"'blend'.*linear, task_arithmetic"):
        find("blend")
