import pytest

from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.recipe import Operation
from evomerge.core.roles import for_role
from evomerge.errors import RecipeError

TIES = Operation(
    "ties",
    ("a", "b"),
    "base",
    shared=(("lambda", 0.8), ("consensus", "count")),
    each=(("weight", (0.6, 0.4)), ("density", (0.3, 0.5))),
)


@pytest.mark.parametrize("role", ["attn", "mlp", "embed", "head", "expert"])
def test_matrices_keep_the_operation_itself(role):
    assert for_role(TIES, role) is TIES


@pytest.mark.parametrize("role", ["norm", "bias", "router"])
def test_vectors_get_task_arithmetic_with_the_same_weights(role):
    assert for_role(TIES, role) == Operation(
        "task_arithmetic",
        ("a", "b"),
        "base",
        shared=(("lambda", 0.8), ("normalize", True)),
        each=(("weight", (0.6, 0.4)),),
    )


def test_an_operator_without_base_becomes_an_average():
    operation = Operation("slerp", ("a", "b"), shared=(("t", 0.25),))
    assert for_role(operation, "norm") == Operation(
        "linear", ("a", "b"), each=(("weight", (0.75, 0.25)),)
    )


def test_a_base_turns_nuslerp_into_task_arithmetic():
    operation = Operation("nuslerp", ("a", "b"), "base", each=(("weight", (1.0, 3.0)),))
    assert for_role(operation, "norm") == Operation(
        "task_arithmetic", ("a", "b"), "base", each=(("weight", (0.25, 0.75)),)
    )


@pytest.mark.parametrize("policy", ["self", "same"])
def test_norm_policy_self_keeps_the_operation_for_norms_and_biases(policy):
    assert for_role(TIES, "norm", policy) is TIES
    assert for_role(TIES, "bias", policy) is TIES
    assert for_role(TIES, "router", policy).operator == "task_arithmetic"


def test_norm_policy_base_takes_the_base_alone():
    assert for_role(TIES, "norm", "base") == Operation(
        "linear", ("base",), each=(("weight", (1.0,)),)
    )
    assert for_role(TIES, "attn", "base") is TIES


def test_an_embed_policy_speaks_for_the_embedding_and_the_head():
    for role in ("embed", "head"):
        assert for_role(TIES, role) is TIES
        assert for_role(TIES, role, None, "same") is TIES
        assert for_role(TIES, role, None, "linear").operator == "task_arithmetic"
        alone = for_role(TIES, role, None, "base")
        assert alone.operator == "linear"
        assert alone.inputs == ("base",)
    assert for_role(TIES, "attn", None, "base") is TIES
    knots = Operation("knots", ("a", "b"), "base")
    assert for_role(knots, "embed").operator == "task_arithmetic"
    assert for_role(knots, "embed", None, "same") is knots


@pytest.mark.parametrize(
    ("stages", "embed"),
    [
        ({}, "staged"),
        ({"sparsify": "magnitude"}, "staged"),
        ({"basis": "svd"}, "task_arithmetic"),
        ({"basis": "core"}, "task_arithmetic"),
        ({"post": "flat"}, "task_arithmetic"),
    ],
)
def test_singular_vectors_are_not_taken_of_rows_of_tokens(stages, embed):
    staged = Operation("staged", ("a", "b"), "base", shared=tuple(stages.items()))
    assert for_role(staged, "embed").operator == embed
    assert for_role(staged, "attn") is staged
    assert for_role(staged, "norm").operator == "task_arithmetic"


@pytest.mark.parametrize(
    ("stages", "normalize"),
    [
        ({"reduce": "sum"}, False),
        ({"reduce": "mean"}, True),
        ({"reduce": "max"}, True),
        ({"reduce": "energy"}, True),
        ({"post": "flat"}, True),
    ],
)
def test_vectors_of_stages_get_the_sum_or_the_mean(stages, normalize):
    staged = Operation("staged", ("a", "b"), "base", shared=tuple(stages.items()))
    assert dict(for_role(staged, "norm").shared)["normalize"] is normalize


def test_an_operator_that_is_a_weighted_sum_stays_itself():
    for name in ("task_arithmetic", "bcwi"):
        operation = Operation(name, ("a", "b"), "base")
        assert for_role(operation, "norm", "linear") is operation


def test_policy_base_without_a_base_is_refused():
    with pytest.raises(RecipeError, match="needs a base"):
        for_role(Operation("slerp", ("a", "b")), "norm", "base")


def test_unknown_roles_and_policies_are_refused():
    with pytest.raises(RecipeError, match="Unknown role 'gate'"):
        for_role(TIES, "gate")
    with pytest.raises(RecipeError, match="norm_policy must be"):
        for_role(TIES, "norm", "median")
    with pytest.raises(RecipeError, match="embed_policy must be"):
        for_role(TIES, "embed", None, "median")


@pytest.mark.parametrize(
    ("operation", "weights"),
    [
        (Operation("sce", ("a", "b"), "base"), (0.5, 0.5)),
        (Operation("consensus", ("a", "b"), "base"), (1.0, 1.0)),
        (Operation("pcb", ("a", "b"), "base", each=(("weight", (1, 2)),)), (0.5, 1.0)),
        (Operation("arcee_fusion", ("a",), "base"), (0.5,)),
    ],
)
def test_an_operator_without_weights_leaves_vectors_to_its_share(operation, weights):
    plain = for_role(operation, "norm")
    assert plain.operator == "task_arithmetic"
    assert dict(plain.each)["weight"] == weights


@pytest.mark.parametrize("name", sorted(CATALOGUE))
@pytest.mark.parametrize("role", ROLES)
def test_every_policy_gives_an_operation_that_is_stable(name, role):
    operator = CATALOGUE[name]
    base = "base" if operator.needs_base else None
    names = ("a", "b")[: operator.n_inputs]
    operation = for_role(Operation(name, names, base), role)
    assert for_role(operation, role) == operation
