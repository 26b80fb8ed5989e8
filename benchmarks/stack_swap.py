"""Time for a candidate of a data-flow search: how long until its layers are in place.

Two random Llamas whose layers have the size of a model of 1 B parameters, few of them.
Each way of changing the stack runs in a process of its own:

    pool       every layer has a slot: a stack is bound, nothing is copied
    in place   slots whose weights lie as stored: changed layers are copied
    slots      slots whose weights vLLM packs: changed layers are loaded layer by layer
    weights    the frame's layers in order, all of them loaded layer by layer
    fresh      a new engine for each candidate

The yardstick is a plain copy of the bytes that change, from the page cache to memory
that is in use, measured in turn with the swaps.

    python benchmarks/stack_swap.py [--hidden 2048] [--layers 4] [--repeats 8] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As in a worker: Ray gives each one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WAYS = ("pool", "in place", "slots", "weights", "fresh")
DTYPE = "bfloat16"


@dataclass
class Cost:
    """What one way costs; medians, in milliseconds.

    Attributes:
        layers: Layers a candidate changes.
        bytes_moved: Bytes written into the engine for a candidate.
        swap_ms: From recipe to engine, the reading of the sources included.
        copy_ms: A plain copy of the bytes of the changed layers.
        resident_mb: Memory of the process at the end, the mapped sources included.
    """

    way: str
    layers: int
    bytes_moved: int
    swap_ms: float
    copy_ms: float
    resident_mb: float

    @property
    def ratio(self) -> float:
        """How many plain copies a swap takes."""
        return self.swap_ms / self.copy_ms


def write_parents(folder: Path, hidden: int, layers: int) -> None:
    """Write two random Llamas in bfloat16: the MLP is four times as wide as hidden."""
    import torch
    from safetensors.torch import save_file

    from evomerge.testing.models import HEAD_DIM, write_tokenizer

    inner, heads = 4 * hidden, hidden // HEAD_DIM
    keys = max(1, heads // 4) * HEAD_DIM
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 288,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys // HEAD_DIM,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "dtype": DTYPE,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    for seed, name in enumerate("ab"):
        random = torch.Generator().manual_seed(seed)
        wanted: dict[str, tuple[int, ...]] = {
            "model.embed_tokens": (288, hidden),
            "lm_head": (288, hidden),
            "model.norm": (hidden,),
        }
        for layer in range(layers):
            wanted |= {f"model.layers.{layer}.{k}": s for k, s in shapes.items()}
        tensors = {
            f"{key}.weight": torch.empty(shape, dtype=torch.bfloat16).normal_(
                0.0, hidden**-0.5, generator=random
            )
            for key, shape in wanted.items()
        }
        (folder / name).mkdir()
        path = folder / name / "model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))
        write_tokenizer(folder / name, 288)


def recipes(prints: dict[str, str], layers: int, way: str) -> Iterator[Any]:
    """Yield candidates of which each changes every layer; a pool's change the order."""
    from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot

    copies = {
        name: (("*", Operation("linear", (name,), each=(("weight", (1.0,)),))),)
        for name in "ab"
    }
    place = 0
    while True:
        stack = [("ab"[place % 2], i) for i in range(layers)]
        if way == "pool":
            stack = [
                ("ab"[(place + i) % 2], (place + i) % layers)
                for i, _ in enumerate(stack)
            ]
        yield Recipe(
            frame="a",
            dtype=DTYPE,
            inputs=tuple((name, Checkpoint(prints[name])) for name in "ab"),
            embed=Slot(copies["a"]),
            slots=tuple(Slot(copies[name], ((name, i),)) for name, i in stack),
            head=Slot(copies["a"]),
        )
        place += 1


def measure(way: str, folder: Path, layers: int, repeats: int) -> Cost:
    """Swap candidates in and time each, in turn with a plain copy."""
    from evomerge.checkpoints import read_model
    from evomerge.core.work import EngineSettings, WorkerSetup
    from evomerge.merging.sources import Sources
    from evomerge.scoring.engines import open_engine

    prints = {name: read_model(folder / name).fingerprint for name in "ab"}
    sources = {prints[name]: str(folder / name) for name in "ab"}
    stacks = way not in ("weights", "fresh")
    settings = EngineSettings(
        kind="vllm",
        dtype=DTYPE,
        max_model_len=64,
        kv_cache_bytes=64 << 20,
        profile={"pool": "pool"}.get(way, "slots") if stacks else "weights",
        slots=(2 * layers if way == "pool" else layers) if stacks else None,
        in_place=way == "in place",
    )
    setup = WorkerSetup(settings, (), sources, prints["a"], None, str(folder / "cache"))
    copy = _Copy(Sources(sources), list(sources), layers)
    copies, swaps, moved = [], [], 0
    if way == "fresh":
        for _ in range(max(1, repeats // 4)):
            begun = time.perf_counter()
            open_engine(setup).close()
            swaps.append(time.perf_counter() - begun)
            copies.append(copy.again())
    else:
        engine = open_engine(setup)
        candidates = recipes(prints, layers, way)
        for index in range(repeats + 2 * layers):
            recipe = next(candidates)
            begun = time.perf_counter()
            report = engine.swap(recipe)
            seconds = time.perf_counter() - begun
            if index >= 2 * layers:  # by now a pool holds every layer
                swaps.append(seconds)
                copies.append(copy.again())
                moved = report.size_bytes
        engine.close()
    return Cost(
        way,
        layers,
        moved,
        1e3 * statistics.median(swaps),
        1e3 * statistics.median(copies),
        _resident_mb(),
    )


class _Copy:
    """A plain copy of every layer of one parent, then of the other."""

    def __init__(self, sources: Any, prints: list[str], layers: int) -> None:
        self._tensors = [
            [
                sources.tensor(one, name)
                for name in sources.model(one).tensors
                if ".layers." in name
            ]
            for one in prints
        ]
        self._targets = [tensor.clone() for tensor in self._tensors[0]]
        self._turn = 0
        self.again()
        self.again()

    def again(self) -> float:
        """Copy; return the seconds it took."""
        self._turn = 1 - self._turn
        begun = time.perf_counter()
        for target, tensor in zip(
            self._targets, self._tensors[self._turn], strict=True
        ):
            target.copy_(tensor)
        return time.perf_counter() - begun


def _resident_mb() -> float:
    text = Path("/proc/self/status")
    if not text.exists():
        return float("nan")
    line = next(row for row in text.read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every way, each in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_parents(Path(name), options.hidden, options.layers)
        for way in options.ways:
            command = [sys.executable, __file__, "--child", name, "--ways", way]
            command += ["--layers", str(options.layers)]
            command += ["--repeats", str(options.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder = Path(options.child)
        cost = measure(options.ways[0], folder, options.layers, options.repeats)
        print(json.dumps(asdict(cost) | {"ratio": cost.ratio}))
        return
    rows = run(options)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{'way':<10}{'ms':>10}{'MB moved':>10}{'copy ms':>10}{'ratio':>8}{'RSS MB':>8}"
    )
    for row in rows:
        print(
            f"{row['way']:<10}{row['swap_ms']:>10.1f}{row['bytes_moved'] / 1e6:>10.1f}"
            f"{row['copy_ms']:>10.1f}{row['ratio']:>8.2f}{row['resident_mb']:>8.0f}"
        )


if __name__ == "__main__":
    main()
