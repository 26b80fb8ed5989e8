"""The materialiser: equal to merging plain state dicts, whatever the shape of it."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import Model, read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import (
    Checkpoint,
    Input,
    Nested,
    Operation,
    Recipe,
    Slot,
    Transformed,
)
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.materialise import (
    describe,
    materialise,
    merged_config,
)
from evomerge.merging.sources import Sources
from evomerge.merging.views.merged import Merged
from evomerge.testing.models import tiny_model

N_LAYERS = 3
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Parents:
    """Tiny models by name, with what a plain reader finds in them."""

    def __init__(self, root: Path, **kinds: Mapping[str, object]) -> None:
        self.models: dict[str, Model] = {}
        self.states: dict[str, dict[str, torch.Tensor]] = {}
        for seed, (name, kind) in enumerate(kinds.items()):
            size = {"n_layers": N_LAYERS, "seed": seed} | dict(kind)
            folder = tiny_model(root / name, **size)  # type: ignore[arg-type]
            self.reread(name, folder)

    def reread(self, name: str, folder: Path) -> None:
        self.models[name] = read_model(folder)
        # The library maps the file, which a test may write anew.
        stored = load_file(folder / "model.safetensors")
        self.states[name] = {key: tensor.clone() for key, tensor in stored.items()}
        paths = {model.fingerprint: model.path for model in self.models.values()}
        self.sources = Sources(paths)

    def input(self, name: str) -> Input:
        return Checkpoint(self.models[name].fingerprint)

    def linear(
        self,
        weights: Mapping[str, float],
        *,
        frame: str | None = None,
        layers: Sequence[Mapping[str, int]] | None = None,
        dtype: str = "float32",
    ) -> Recipe:
        """Write a plain weighted sum, slot by slot."""
        operation = Operation(
            "linear",
            tuple(weights),
            shared=(("normalize", False),),
            each=(("weight", tuple(weights.values())),),
        )
        roles = (("*", operation),)
        fed = layers or [dict.fromkeys(weights, i) for i in range(N_LAYERS)]
        names = {*weights, frame or next(iter(weights))}
        return Recipe(
            frame=frame or next(iter(weights)),
            dtype=dtype,
            inputs=tuple((name, self.input(name)) for name in sorted(names)),
            embed=Slot(roles),
            slots=tuple(Slot(roles, layers=tuple(layer.items())) for layer in fed),
            head=Slot(roles),
        )

    def merge(self, recipe: Recipe, **how: bool) -> dict[str, torch.Tensor]:
        return dict(materialise(recipe, self.sources, **how))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Parents:
    return Parents(tmp_path_factory.mktemp("llama"), a={}, b={}, c={})


def assert_equal(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_parent_alone_comes_out_bit_for_bit(
    tmp_path: Path, family: str, tied: bool, dtype: str
) -> None:
    parents = Parents(tmp_path, a={"family": family, "tied": tied, "dtype": dtype})
    recipe = passthrough("a", parents.models["a"].fingerprint, N_LAYERS, dtype)
    assert_equal(parents.merge(recipe), parents.states["a"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3))
def test_a_weighted_sum_equals_the_sum_of_state_dicts(
    parents: Parents, weights: list[float]
) -> None:
    recipe = parents.linear(dict(zip("abc", weights, strict=True)))
    found = parents.merge(recipe)
    for name in parents.states["a"]:
        expected = sum(
            w * parents.states[p][name].double()
            for p, w in zip("abc", weights, strict=True)
        )
        assert torch.allclose(found[name].double(), expected, rtol=0, atol=1e-5)


def test_the_result_is_rounded_once_from_fp32(tmp_path: Path) -> None:
    kind = {"dtype": "bfloat16"}
    parents = Parents(tmp_path, a=kind, b=kind)
    found = parents.merge(parents.linear({"a": 0.3, "b": 0.7}, dtype="bfloat16"))
    fine = parents.merge(parents.linear({"a": 0.3, "b": 0.7}))
    assert_equal(found, {name: t.bfloat16() for name, t in fine.items()})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, N_LAYERS - 1)] * 2), min_size=1, max_size=5))
def test_a_slot_takes_any_layer_of_each_input(
    parents: Parents, layers: list[tuple[int, int]]
) -> None:
    fed = [{"a": i, "b": j} for i, j in layers]
    recipe = parents.linear({"a": 1.0, "b": 2.0}, layers=fed)
    found = parents.merge(recipe)
    a, b = parents.states["a"], parents.states["b"]
    for slot, (i, j) in enumerate(layers):
        for suffix in ("mlp.up_proj.weight", "input_layernorm.weight"):
            expected = (
                a[f"model.layers.{i}.{suffix}"] + 2 * b[f"model.layers.{j}.{suffix}"]
            )
            assert torch.equal(found[f"model.layers.{slot}.{suffix}"], expected)
    assert merged_config(recipe, parents.sources)["num_hidden_layers"] == len(layers)
    assert len(found) == 3 + 9 * len(layers)


def test_layers_may_come_from_models_of_different_depth(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={}, deep={"n_layers": 6})
    keep = passthrough("deep", parents.models["deep"].fingerprint, 6, "float32")
    recipe = replace(keep, inputs=(*keep.inputs, ("a", parents.input("a"))), frame="a")
    assert_equal(parents.merge(recipe), parents.states["deep"])
    assert merged_config(recipe, parents.sources)["num_hidden_layers"] == 6


def test_each_role_has_its_own_operation(parents: Parents) -> None:
    def only(name: str) -> Operation:
        return Operation("linear", (name,), each=(("weight", (1.0,)),))

    roles = (("attn", only("b")), ("norm", only("c")), ("*", only("a")))
    recipe = parents.linear({"a": 1.0, "b": 1.0, "c": 1.0})
    slots = tuple(replace(slot, roles=roles) for slot in recipe.slots)
    found = parents.merge(replace(recipe, slots=slots, head=Slot(roles)))
    states = parents.states
    layer = "model.layers.1."
    for name, owner in {
        layer + "self_attn.k_proj.weight": "b",
        layer + "mlp.down_proj.weight": "a",
        layer + "post_attention_layernorm.weight": "c",
        "model.norm.weight": "c",
        HEAD: "a",
    }.items():
        assert torch.equal(found[name], states[owner][name]), name


def test_a_tensors_name_goes_before_its_role(parents: Parents) -> None:
    def only(name: str) -> Operation:
        return Operation("linear", (name,), each=(("weight", (1.0,)),))

    roles = (("self_attn.k_proj.weight", only("b")), ("attn", only("c")))
    recipe = parents.linear({"a": 1.0, "b": 1.0, "c": 1.0})
    slots = tuple(
        replace(slot, roles=(*roles, ("*", only("a")))) for slot in recipe.slots
    )
    found = parents.merge(replace(recipe, slots=slots))
    owners = {"self_attn.k_proj": "b", "self_attn.v_proj": "c", "mlp.up_proj": "a"}
    for tensor, owner in owners.items():
        name = f"model.layers.1.{tensor}.weight"
        assert torch.equal(found[name], parents.states[owner][name]), name


def test_the_base_is_read_from_its_own_layer(parents: Parents) -> None:
    operation = Operation(
        "task_arithmetic",
        ("b",),
        base="a",
        shared=(("lambda", 1.0), ("normalize", False)),
        each=(("weight", (0.5,)),),
    )
    recipe = parents.linear({"a": 1.0, "b": 1.0}, layers=[{"a": 2, "b": 0}])
    slot = replace(recipe.slots[0], roles=(("*", operation),))
    found = parents.merge(replace(recipe, slots=(slot,)))
    suffix = "mlp.up_proj.weight"
    base = parents.states["a"][f"model.layers.2.{suffix}"]
    other = parents.states["b"][f"model.layers.0.{suffix}"]
    expected = base + 0.5 * (other - base)
    assert torch.allclose(found[f"model.layers.0.{suffix}"], expected)


def test_a_repeated_layer_draws_the_same_random_mask(parents: Parents) -> None:
    operation = Operation(
        "dare_linear",
        ("b", "c"),
        base="a",
        shared=(("seed", 3),),
        each=(("density", (0.5, 0.5)), ("weight", (1.0, 1.0))),
    )
    names = {"a": 0.0, "b": 0.0, "c": 0.0}
    fed = [dict.fromkeys(names, i) for i in (1, 0, 1)]
    recipe = parents.linear(names, layers=fed)
    slots = tuple(replace(slot, roles=(("*", operation),)) for slot in recipe.slots)
    found = parents.merge(replace(recipe, slots=slots))
    up = [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)]
    assert torch.equal(up[0], up[2])
    assert not torch.equal(up[0], up[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_nested_recipe_equals_its_model_written_first(
    parents: Parents, tmp_path: Path, dtype: str
) -> None:
    inner = parents.linear({"a": 0.5, "b": 0.25}, layers=[{"a": 2, "b": 1}] * N_LAYERS)
    inner = replace(inner, dtype=dtype)
    operation = Operation(
        "linear",
        ("c", "n"),
        shared=(("normalize", False),),
        each=(("weight", (0.5, 2.0)),),
    )
    roles = (("*", operation),)
    recipe = Recipe(
        frame="n",
        dtype="float32",
        inputs=(("c", parents.input("c")), ("n", Nested(inner))),
        embed=Slot(roles),
        slots=tuple(Slot(roles, (("c", i), ("n", i))) for i in range(N_LAYERS)),
        head=Slot(roles),
    )
    middle = parents.merge(inner)
    expected = {
        name: 0.5 * parents.states["c"][name] + 2.0 * middle[name].float()
        for name in middle
    }
    found = parents.merge(recipe)
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.allclose(found[name], expected[name], atol=1e-6)
    config = merged_config(recipe, parents.sources)
    assert (config["num_hidden_layers"], config["dtype"]) == (N_LAYERS, "float32")


@pytest.mark.parametrize("frame", ["a", "b"])
def test_tied_parents_give_a_tied_model(tmp_path: Path, frame: str) -> None:
    parents = Parents(tmp_path, a={"tied": True}, b={"tied": True})
    recipe = parents.linear({"a": 0.5, "b": 0.5}, frame=frame)
    found = parents.merge(recipe)
    assert HEAD not in found
    assert Merged(recipe, parents.sources).tied
    assert merged_config(recipe, parents.sources)["tie_word_embeddings"] is True


@pytest.mark.parametrize("frame", ["a", "b"])
def test_one_untied_parent_unties_all(tmp_path: Path, frame: str) -> None:
    parents = Parents(tmp_path, a={"tied": True}, b={})
    recipe = parents.linear({"a": 0.5, "b": 0.5}, frame=frame)
    found = parents.merge(recipe)
    a, b = parents.states["a"], parents.states["b"]
    assert torch.equal(found[EMBED], 0.5 * a[EMBED] + 0.5 * b[EMBED])
    assert torch.equal(found[HEAD], 0.5 * a[EMBED] + 0.5 * b[HEAD])
    assert not Merged(recipe, parents.sources).tied
    assert merged_config(recipe, parents.sources)["tie_word_embeddings"] is False


def test_a_frame_that_is_not_merged_does_not_decide_the_tie(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={"tied": True}, b={})
    recipe = parents.linear({"a": 1.0}, frame="b")
    assert Merged(recipe, parents.sources).tied
    assert HEAD not in parents.merge(recipe)


def test_a_tied_result_can_be_given_a_head_of_its_own(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={"tied": True}, b={"tied": True})
    recipe = parents.linear({"a": 0.5, "b": 0.5})
    found = parents.merge(recipe, untie=True)
    assert torch.equal(found[HEAD], found[EMBED])
    assert list(found)[-1] == HEAD


def test_an_untied_result_has_one_head_either_way(parents: Parents) -> None:
    recipe = parents.linear({"a": 1.0, "b": 1.0})
    assert_equal(parents.merge(recipe, untie=True), parents.merge(recipe))


def test_tables_are_left_out_and_other_buffers_copied_from_the_frame(
    tmp_path: Path,
) -> None:
    parents = Parents(tmp_path, a={}, b={})
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    counts = "model.layers.0.self_attn.counts"
    for parent, value in (("a", 1.5), ("b", 2.5)):
        state = dict(parents.states[parent])
        for layer in range(N_LAYERS):
            state[name.format(layer)] = torch.full((16,), value + layer)
        state[counts] = torch.arange(3)
        folder = parents.models[parent].path
        save_file(state, folder / "model.safetensors")
        parents.reread(parent, folder)
    fed = [{"a": 2, "b": 0}, {"a": 0, "b": 1}]
    shallow = parents.linear({"a": 0.5, "b": 0.5}, layers=fed[:1], dtype="bfloat16")
    with pytest.raises(RecipeError, match=r"attn\.counts"):
        parents.merge(shallow)
    even = parents.linear(
        {"a": 0.5, "b": 0.5}, layers=[{"a": 0, "b": 0}], dtype="bfloat16"
    )
    found = parents.merge(even)
    assert name.format(0) not in found
    assert torch.equal(found[counts], torch.arange(3))


def test_what_is_described_is_what_comes(parents: Parents) -> None:
    recipe = parents.linear({"a": 1.0, "b": 1.0}, dtype="bfloat16")
    found = parents.merge(recipe)
    described = describe(recipe, parents.sources)
    assert list(described.items()) == [
        (name, (tensor.dtype, tuple(tensor.shape))) for name, tensor in found.items()
    ]


def test_layer_types_follow_the_layers_that_feed_the_slots(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={})
    types = ["full_attention", "sliding_attention", "full_attention"]
    file = parents.models["a"].path / "config.json"
    text = file.read_text().rstrip().rstrip("}")
    file.write_text(f'{text}, "layer_types": {types}}}'.replace("'", '"'))
    parents.reread("a", file.parent)
    recipe = parents.linear({"a": 1.0}, layers=[{"a": i} for i in (1, 1, 0, 2)])
    config = merged_config(recipe, parents.sources)
    assert config["layer_types"] == [types[i] for i in (1, 1, 0, 2)]


def test_a_result_that_is_not_finite_is_the_candidates_fault(parents: Parents) -> None:
    recipe = parents.linear({"a": 1e30, "b": 1e30})
    with pytest.raises(CandidateError, match=EMBED) as caught:
        parents.merge(replace(recipe, dtype="float16"))
    assert "too large for float16" in str(caught.value)


def test_a_bad_number_in_a_parent_names_the_merged_tensor(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={}, b={})
    name = "model.layers.1.mlp.up_proj.weight"
    state = dict(parents.states["b"])
    state[name][0, 0] = float("nan")
    folder = parents.models["b"].path
    save_file(state, folder / "model.safetensors")
    parents.reread("b", folder)
    with pytest.raises(CandidateError, match=f"{name}.*1 of 1024 entries"):
        parents.merge(parents.linear({"a": 0.5, "b": 0.5}))


def test_transformations_this_version_does_not_have_are_refused(
    parents: Parents,
) -> None:
    source = Transformed(Checkpoint("0" * 32), "magic", "s")
    recipe = parents.linear({"a": 1.0})
    inputs = {**dict(recipe.inputs), "a": source}
    recipe = replace(recipe, inputs=tuple(inputs.items()))
    with pytest.raises(RecipeError, match="transformed by 'magic'"):
        parents.merge(recipe)


def test_only_layers_have_scales(parents: Parents) -> None:
    recipe = parents.linear({"a": 1.0})
    head = replace(recipe.head, scale=0.5)
    with pytest.raises(RecipeError, match=r"Slot head has a scale of 0\.5"):
        parents.merge(replace(recipe, head=head))


def test_a_layer_that_an_input_lacks_is_refused(parents: Parents) -> None:
    recipe = parents.linear({"a": 1.0, "b": 1.0}, layers=[{"a": 0, "b": 3}])
    with pytest.raises(RecipeError, match="layer 3 of input 'b', which has 3"):
        parents.merge(recipe)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Operation("linaer", ("a", "b")), "linaer"),
        (Operation("slerp", ("a",)), "slerp"),
        (Operation("linear", ("a",), each=(("weigth", (1.0,)),)), "weigth"),
    ],
)
def test_a_false_operation_is_refused_before_the_first_tensor(
    parents: Parents, operation: Operation, says: str
) -> None:
    recipe = replace(
        parents.linear({"a": 1.0, "b": 1.0}), head=Slot((("*", operation),))
    )
    with pytest.raises(RecipeError, match=says):
        next(materialise(recipe, parents.sources))


def test_a_role_without_an_operation_is_refused_before_the_first_tensor(
    parents: Parents,
) -> None:
    recipe = parents.linear({"a": 1.0})
    ((_, keep),) = recipe.head.roles
    with pytest.raises(RecipeError, match="No operation for role 'head'"):
        next(
            materialise(replace(recipe, head=Slot((("norm", keep),))), parents.sources)
        )


def test_parents_of_another_family_are_refused(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={}, b={"family": "qwen2"})
    with pytest.raises(RecipeError, match="do not have the same tensors"):
        parents.merge(parents.linear({"a": 0.5, "b": 0.5}))


def test_parents_of_another_size_are_refused(tmp_path: Path) -> None:
    parents = Parents(tmp_path, a={}, b={"hidden": 64})
    with pytest.raises(RecipeError, match="shape"):
        parents.merge(parents.linear({"a": 0.5, "b": 0.5}))
    with pytest.raises(RecipeError, match="the frame has shape"):
        parents.merge(parents.linear({"b": 1.0}, frame="a"))


def test_the_parents_are_left_as_they_were(parents: Parents) -> None:
    recipe = parents.linear({"a": 3.0, "b": -1.0})
    for _, tensor in materialise(recipe, parents.sources):
        tensor.fill_(7)
    for name, expected in parents.states["a"].items():
        found = parents.sources.tensor(parents.models["a"].fingerprint, name)
        assert torch.equal(found, expected)


def test_no_merged_tensor_is_kept_once_the_next_is_asked_for(parents: Parents) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    recipe = parents.linear({"a": 1.0, "b": 1.0})
    for _, tensor in materialise(recipe, parents.sources):
        assert sum(ref() is not None for ref in alive) <= 1
        alive.append(weakref.ref(tensor))
    assert len(alive) == 3 + 9 * N_LAYERS
