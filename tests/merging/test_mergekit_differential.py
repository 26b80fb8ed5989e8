"""Random mergekit files, merged by mergekit 0.1.5 and here, tensor by tensor.

mergekit is installed into a folder of its own, beside the environment's torch and
transformers, and runs in a process of its own. In which ways a tensor may differ was
fixed before: see ``KINDS``. ``EVOMERGE_MERGEKIT`` names a folder to keep it in,
``EVOMERGE_FILES`` another number of files.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.mergekit import mergekit_process

from evomerge.checkpoints import read_model
from evomerge.checkpoints.layers.pieces import called
from evomerge.errors import EvomergeError
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit.methods import METHODS
from evomerge.specs.recipes import open_recipe
from evomerge.testing.models import write_tokenizer

pytestmark = [pytest.mark.long, pytest.mark.timeout(7000)]

N_FILES = int(os.environ.get("EVOMERGE_FILES", "320"))
SERVER = Path(__file__).with_name("mergekit_server.py")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"tie_word_embeddings": True},
    "qwen2": {},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    | {"moe_intermediate_size": 12},
    "glm4_moe": {"n_routed_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    | {"moe_intermediate_size": 12, "n_shared_experts": 1, "first_k_dense_replace": 1},
}
N_LAYERS = 4
KINDS = {
    "equal": "to the last bits of float32, or of the type that is written",
    "mask": "random masks: another stream; as many entries left, changed as much",
    "early": "dtype bfloat16 or as stored: mergekit rounds differences before it trims "
    "or adds, so entries differ by roundings, and a few near a cut by the entry",
    "cancel": "weights of a consensus that cancel in an entry: the base here, a "
    "quotient of roundings there",
    "tie": "stored in bfloat16, where many differences are equally large: of those at "
    "a cut the first stay here, any there; as many, and as much in all",
    "cut": "an entry whose size lies within rounding of a cut: one of a tensor",
    "wider": "Arcee Fusion and RAM+: mergekit writes float32 where bfloat16 is said",
    "refused": "mergekit fails, and so do we",
    "fails": "mergekit fails, for a reason in FAILURES; we merge",
    "broken": "mergekit writes NaN or no layers; we refuse",
}
"""In which ways results may differ, and why."""
FAILURES = {
    "validate_layer_type": "it changes the number of layers, and not layer_types",
    "list index out of range": "a mixture's layer stands where a dense one stood",
    "antipodal": "tensors that are zero everywhere count as opposite",
}
"""What mergekit cannot do, and why."""
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
SPHERICAL = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock", "ram")
WIDENING = ("arcee_fusion", "ramplus_tl")
CUT = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion", "ramplus_tl")
FILTERS = ("self_attn", "mlp", "experts", "gate_up_proj", "down_proj", "o_proj")
FILTERS += ("layernorm", "norm", "embed_tokens", "lm_head", "q_proj", "mlp.gate", "*")


@pytest.fixture(scope="module")
def mergekit(tmp_path_factory):
    """A process that merges by mergekit."""
    with mergekit_process(SERVER, tmp_path_factory.mktemp("mergekit")) as process:
        yield process


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Four models of each family in float32, and in bfloat16 with norms in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    sizes = {"vocab_size": 288, "hidden_size": 16, "intermediate_size": 24}
    sizes |= {"num_hidden_layers": N_LAYERS, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 64}
    for family, own in FAMILIES.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **(sizes | own))
        base = AutoModelForCausalLM.from_config(config).float()
        for i, name in enumerate(("base", "m1", "m2", "m3")):
            random = torch.Generator().manual_seed(100 + i)
            with torch.no_grad():
                for weight in base.parameters():
                    noise = torch.randn(weight.shape, generator=random)
                    weight.copy_(weight + 0.05 * noise if i else noise)
            place = folder / family / name
            base.save_pretrained(place)
            write_tokenizer(place, 288)
            mixed = folder / f"{family}-mixed" / name
            base.save_pretrained(mixed)
            write_tokenizer(mixed, 288)
            narrow(mixed)
    return folder


def narrow(folder):
    """Store a model in bfloat16, its norms in float32."""
    file = folder / "model.safetensors"
    tensors = {
        name: tensor if "norm" in name else tensor.bfloat16()
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))


class Writer:
    """Draws a mergekit file."""

    def __init__(self, rng: np.random.Generator, folder: Path) -> None:
        self.rng = rng
        self.folder = folder
        self.method = METHODS[str(rng.choice(list(METHODS)))]

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def value(self, name: str) -> Any:
        low, high = {
            "weight": (0.1, 1.5),
            "density": (0.3, 0.8),
            "gamma": (0.01, 0.1),
            "epsilon": (0.05, 0.15),
            "t": (0.05, 0.95),
            "scale": (0.5, 1.5),
            "lambda": (0.5, 1.5),
            "select_topk": (0.2, 1.0),
            "r": (0.05, 0.3),
            "alpha": (0.1, 0.5),
            "tol": (1e-6, 1e-5),
            "eps": (1e-9, 1e-8),
        }.get(name, (0.0, 1.0))
        return round(float(self.rng.uniform(low, high)), 3 if low > 1e-3 else 12)

    def setting(self, name: str, kind: str) -> Any:
        if kind == "bool":
            return bool(self.rng.integers(2))
        if kind == "int":
            return int(self.rng.integers(5, 15))
        if name == "epsilon" and self.method.name in ("ram", "ramplus_tl"):
            return 1e-5
        plain = self.gradient(name)
        if not self.chance(0.4):
            return plain
        words = self.rng.choice(FILTERS[:-1], size=int(self.rng.integers(1, 3)))
        cases = [{"filter": str(w), "value": self.gradient(name)} for w in words]
        last = {"value": plain} | ({"filter": "*"} if self.chance(0.3) else {})
        return [*cases, last]

    def gradient(self, name: str) -> Any:
        if not self.chance(0.35):
            return self.value(name)
        return [self.value(name) for _ in range(int(self.rng.integers(2, 5)))]

    def parameters(self, scopes: tuple[str, ...], part: float) -> dict[str, Any]:
        return {
            p.name: self.setting(p.name, p.kind)
            for p in self.method.parameters
            if p.scope in scopes and (p.required or self.chance(part))
        }

    def write(self) -> dict[str, Any]:
        method, rng = self.method, self.rng
        n = {1: 1, 2: 2}.get(method.most or 0, int(rng.integers(3, 5)))
        n = 3 if method.most_others == 2 else n
        names = ["base", *rng.permutation(["m1", "m2", "m3"])[: n - 1]]
        each = ("input", "non_base")
        with_base = method.base != "ignored"
        data: dict[str, Any] = {"merge_method": method.name}
        if with_base or self.chance(0.3):
            data["base_model"] = self.path("base")
        if self.chance(0.35 if n > 1 else 0.5):
            data["slices"] = [
                {"sources": [self.source(name, cut, each) for name in names]}
                | ({"parameters": self.parameters(("shared",), 0.5)})
                for cut in self.cuts()
            ]
        else:
            data["models"] = [
                {"model": self.path(name), "parameters": self.parameters(each, 0.6)}
                for name in names
                if name != "base" or not with_base or self.chance(0.5)
            ]
        data["parameters"] = self.parameters(("shared",), 0.5)
        self.types(data)
        if self.chance(0.15):
            data["tokenizer_source"] = str(rng.choice(["union", self.path("m1")]))
            if data["tokenizer_source"] == self.path("m1") and "m1" not in names:
                data["tokenizer_source"] = "union"
        return data

    def cuts(self) -> list[tuple[int, int]]:
        middle = int(self.rng.integers(1, N_LAYERS))
        return [(0, middle), (middle - int(self.chance(0.4)), N_LAYERS)]

    def source(self, name: str, cut: tuple[int, int], each: tuple[str, ...]) -> Any:
        out = {"model": self.path(name), "layer_range": list(cut)}
        return out | {"parameters": self.parameters(each, 0.6)}

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def types(self, data: dict[str, Any]) -> None:
        draw = self.rng.random()
        if draw < 0.6:
            data["dtype"] = "float32"
        elif draw < 0.75:
            data |= {"dtype": "float32", "out_dtype": "bfloat16"}
        elif draw < 0.85:
            data["dtype"] = "bfloat16"


def ours(file: Path) -> dict[str, torch.Tensor]:
    """Merge here, and name and join tensors as transformers holds them."""
    opened = open_recipe(file)
    family = str(next(iter(opened.models.values())).config["model_type"])
    parts: dict[str, list[tuple[list[Any], torch.Tensor]]] = {}
    with Sources(opened.folders) as sources:
        for name, tensor in materialise(opened.recipe, sources):
            words = name.split(".")
            order = [int(w) if w.isdigit() else w for w in words]
            parts.setdefault(called(name, family), []).append((order, tensor.clone()))
    return {name: joined(found) for name, found in parts.items()}


def joined(found: list[tuple[list[Any], torch.Tensor]]) -> torch.Tensor:
    if len(found) == 1 and "experts" not in found[0][0]:
        return found[0][1]
    by_expert: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for words, tensor in found:
        expert = words[words.index("experts") + 1]
        by_expert.setdefault(expert, []).append((words[-2], tensor))
    # Gate before up: gate_proj, up_proj, and w1, w3 stand in the order of the alphabet.
    return torch.stack(
        [
            torch.cat([t for _, t in sorted(by_expert[e], key=lambda p: p[0])])
            for e in sorted(by_expert)
        ]
    )


def kind_of(
    method: str,
    data: dict[str, Any],
    mine: torch.Tensor,
    theirs: torch.Tensor,
    inputs: list[torch.Tensor],
) -> str | None:
    """Tell in which way a tensor differs; None if in no way that was foreseen."""
    if mine.shape != theirs.shape:
        return None
    if mine.dtype != theirs.dtype:
        said = "bfloat16" if data.get("dtype") == "bfloat16" else "nothing"
        is_wider = theirs.dtype == torch.float32 and str(mine.dtype)[6:] == said
        return "wider" if is_wider and method in WIDENING else None
    largest = max(float(tensor.abs().max()) for tensor in inputs) * 2
    a, b = mine.double(), theirs.double()
    gap = (a - b).abs()
    wide = 2.0**-7 if mine.dtype == torch.bfloat16 else 2.0**-20
    # Angles, and factors with poles, lose digits in float32.
    if method in SPHERICAL:
        wide = max(wide, 2.0**-15)
    bound = wide * max(largest, float(b.abs().max()))
    far = gap > bound
    if not bool(far.any()):
        return "equal"
    if method in RANDOM:
        return "mask" if is_another_mask(a, b, inputs, bound) else None
    close = gap <= 2.0**-5 * max(largest, float(b.abs().max()))
    if is_early(data, inputs) and float(close.double().mean()) > 0.9:
        return "early"
    return of_a_cut(method, far, alike(a, b, inputs, 0.05), inputs)


def is_early(data: dict[str, Any], inputs: list[torch.Tensor]) -> bool:
    """Tell whether mergekit computes in bfloat16."""
    said = data.get("dtype")
    return said == "bfloat16" or (said is None and inputs[0].dtype == torch.bfloat16)


def of_a_cut(
    method: str, far: torch.Tensor, strong: bool, inputs: list[torch.Tensor]
) -> str | None:
    """Tell why single entries are kept here and not there."""
    n, of = int(far.sum()), far.numel()
    coarse = inputs[0].dtype == torch.bfloat16
    if coarse and method in CUT and (n <= 4 or (strong and n < 0.15 * of)):
        return "tie"
    if method in CUT and n <= max(1, of // 500):
        return "cut"
    return "cancel" if method.endswith("ties") and n < 0.01 * of else None


def alike(
    a: torch.Tensor, b: torch.Tensor, inputs: list[torch.Tensor], within: float
) -> bool:
    """Tell whether two merges change the base by as much.

    Args:
        a: One.
        b: The other.
        inputs: What the models hold of the tensor, the base's first.
        within: How far the two changes may be apart, as a part of the larger.
    """
    base = inputs[0].double()
    one, other = float((a - base).norm()), float((b - base).norm())
    return abs(one - other) <= within * max(one, other)


def is_another_mask(
    a: torch.Tensor, b: torch.Tensor, inputs: list[torch.Tensor], bound: float
) -> bool:
    """Tell whether two merges may come from one density and two streams of numbers.

    Entries that no model changes are as many in both, and the changes are as large, as
    far as chance lets them: five standard deviations, each counted for entries that
    are drawn one by one.
    """
    base = inputs[0].double()
    n = base.numel()
    left = [float(((each - base).abs() <= bound).double().mean()) for each in (a, b)]
    middle = sum(left) / 2
    spread = (2 * max(middle * (1 - middle), 1 / n) / n) ** 0.5
    if abs(left[0] - left[1]) > 5 * spread:
        return False
    squares = [(each - base).square() for each in (a, b)]
    deviation = sum(float(each.var()) for each in squares) / n
    gap = abs(float(squares[0].mean() - squares[1].mean()))
    return gap <= 5 * deviation**0.5 + bound**2


def test_random_files_give_what_mergekit_gives(mergekit, models, tmp_path, capsys):
    found: Counter[tuple[str, str]] = Counter()
    methods: Counter[str] = Counter()
    odd: list[str] = []
    for i in range(N_FILES):
        rng = np.random.default_rng(1000 + i)
        family = list(FAMILIES)[i % len(FAMILIES)]
        folder = models / (f"{family}-mixed" if rng.random() < 0.2 else family)
        data = Writer(rng, folder).write()
        file, out = tmp_path / f"{i}.yml", tmp_path / f"out{i}"
        file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        mergekit.stdin.write(json.dumps({"file": str(file), "out": str(out)}) + "\n")
        mergekit.stdin.flush()
        failed = json.loads(mergekit.stdout.readline()).get("error")
        methods[data["merge_method"]] += 1
        for kind, text in compared(file, data, failed, out, folder):
            found[family, kind] += 1
            if kind not in KINDS:
                odd.append(f"{file.name} {folder.name} {data['merge_method']}: {text}")
    with capsys.disabled():
        for family in FAMILIES:
            rows = {k: n for (f, k), n in sorted(found.items()) if f == family}
            sys.stdout.write(f"\n{family}: {rows}")
        sys.stdout.write(f"\nmethods: {dict(methods)}\n")
    assert not odd, "\n".join(odd)


def compared(file, data, failed, out, folder):
    """Yield in which way each tensor of a file differs."""
    try:
        mine = ours(file)
    except EvomergeError as error:
        if failed:
            yield "refused", failed
            return
        theirs = load_file(out / "model.safetensors")
        whole = all(bool(torch.isfinite(tensor).all()) for tensor in theirs.values())
        yield "not refused there" if whole else "broken", str(error)
        return
    if failed:
        known = any(words in failed for words in FAILURES)
        yield "fails" if known else "fails there", failed
        return
    theirs = load_file(out / "model.safetensors")
    if mine.keys() != theirs.keys():
        yield "other tensors", str(sorted(mine.keys() ^ theirs.keys())[:3])
        return
    stored = inputs_of(folder)
    for name, expected in theirs.items():
        inputs = stored[source_of(name, data)]
        kind = kind_of(data["merge_method"], data, mine[name], expected, inputs)
        gap = float((mine[name].double() - expected.double()).abs().max())
        yield kind or "new", f"{name} {mine[name].dtype} {expected.dtype} gap {gap:.3g}"


def source_of(name: str, data: dict[str, Any]) -> str:
    """Return what the models call the tensor a result's is merged of."""
    cuts = [each["sources"][0]["layer_range"] for each in data.get("slices", [])]
    layers = [layer for start, end in cuts for layer in range(start, end)]
    words = name.split(".")
    if layers and "layers" in words:
        place = words.index("layers") + 1
        words[place] = str(layers[int(words[place])])
    return ".".join(words)


def inputs_of(folder: Path) -> dict[str, list[torch.Tensor]]:
    """Return what the models hold of each tensor, the base's first."""
    out: dict[str, list[torch.Tensor]] = {}
    for name in ("base", "m1", "m2", "m3"):
        for key, tensor in held(folder / name).items():
            out.setdefault(key, []).append(tensor)
    return out


def held(folder: Path) -> dict[str, torch.Tensor]:
    """Return a model's tensors, named and joined as transformers holds them."""
    family = str(read_model(folder).config["model_type"])
    parts: dict[str, list[tuple[list[Any], torch.Tensor]]] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        order = [int(w) if w.isdigit() else w for w in name.split(".")]
        parts.setdefault(called(name, family), []).append((order, tensor))
    return {name: joined(found) for name, found in parts.items()}


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "glm4_moe"])
def test_by_rows_the_experts_of_a_layer_turn_into_each_other(
    mergekit, models, tmp_path, family, with_base
):
    folder = models / family
    data: dict[str, Any] = {
        "merge_method": "nuslerp",
        "dtype": "float32",
        "parameters": {"nuslerp_row_wise": True, "nuslerp_flatten": False},
        "models": [
            {"model": str(folder / name), "parameters": {"weight": weight}}
            for name, weight in (("m1", 0.6), ("m2", 0.9))
        ],
    }
    if with_base:
        data["base_model"] = str(folder / "base")
    file, out = tmp_path / "rows.yml", tmp_path / "out"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    mergekit.stdin.write(json.dumps({"file": str(file), "out": str(out)}) + "\n")
    mergekit.stdin.flush()
    assert not json.loads(mergekit.stdout.readline())
    mine, theirs = ours(file), load_file(out / "model.safetensors")
    n_fused = 0
    for name, inputs in inputs_of(folder).items():
        base, one, other = (tensor.double() for tensor in inputs[:3])
        start = base if with_base else torch.zeros_like(base)
        if base.dim() < 2:
            continue
        exact = start + turned(one - start, other - start, 0.6)
        torch.testing.assert_close(mine[name].double(), exact, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs[name].double(), exact, rtol=0, atol=1e-5)
        n_fused += base.dim() == 3
    assert n_fused


def turned(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Interpolate vectors along the first axis on the arc between them, fp64."""
    lengths = a.norm(dim=0, keepdim=True) * b.norm(dim=0, keepdim=True)
    cosine = ((a * b).sum(dim=0, keepdim=True) / lengths).clamp(-1, 1)
    theta = cosine.acos()
    return (((1 - t) * theta).sin() * a + (t * theta).sin() * b) / theta.sin()
