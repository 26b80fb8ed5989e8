"""What must hold on a GPU, and how fast it is there: one script of a few minutes.

    python benchmarks/gpu_proof.py [--device cuda] [--minutes 8]

Needs torch, transformers, safetensors, numpy, filelock and this folder; no vLLM, no
database, no installation. Everything is compared with the same merge on the CPU:

masks: random operators keep the same entries.
steps: every operator that merges models, step by step: the same bits, or how far off.
compiled: those that torch's compiler makes one pass of, from the first merge on.
swap: the engine ``hf`` swaps a merge in and equals its cold load; its self-test.
speed: a layer of the shapes of a 7 B model, base and three experts in bf16, over and
over with other weights as in a search. The floor is the bytes that must be read and
written, over the bandwidth of a large copy.

Ends by itself: what does not fit into the minutes is printed as not run. With
``--device cpu`` and a small ``--width`` the script itself can be tried anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.operation import Operation
from evomerge.merging.operators import apply, apply_into
from evomerge.merging.operators.executors.accelerator import ACCELERATOR

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear", "mixout")
COMPILED = (
    *("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"),
    *("dare_linear", "dare_ties", "della", "della_linear"),
)
KEY = "model.layers.0.mlp.up_proj.weight"
TOLERANCE = 1e-5
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at.

    Attributes:
        part: Of the script.
        name: What.
        ok: Whether it is as it must be; None for a time.
        said: How it is.
    """

    part: str
    name: str
    ok: bool | None
    said: str


def merging(name: str, n: int = 3) -> Operation:
    """Return an operator with its defaults, on ``e0``, ``e1``, ... and ``base``."""
    row = CATALOGUE[name]
    inputs = tuple(f"e{i}" for i in range(row.n_inputs or n))
    return Operation(name, inputs, "base" if row.needs_base else None)


def drawn(
    shape: Sequence[int], n: int, dtype: torch.dtype, device: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return experts near a base; many differences are equal in size."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(tuple(shape), generator=generator) * 0.02
    noise = [torch.randn(tuple(shape), generator=generator) for _ in range(n)]
    experts = [base + (one * 64).round() / 32768 for one in noise]
    return [one.to(dtype).to(device) for one in experts], base.to(dtype).to(device)


class Proof:
    """One run of the script."""

    def __init__(self, device: str, width: int) -> None:
        self.device, self.width = device, width
        self._shape = (max(width // 8, 64) + 1, max(width // 4, 96))

    def masks(self) -> Iterator[Row]:
        """Compare which entries random operators keep."""
        ACCELERATOR.pays_from = _NEVER
        for name in RANDOM:
            here, there = self._both(merging(name), torch.float32)
            same = torch.equal(here != self._base, there != self._base)
            yield Row("masks", name, same, "equal" if same else "differ")

    def steps(self) -> Iterator[Row]:
        """Compare every operator, step by step."""
        ACCELERATOR.pays_from = _NEVER
        for name, row in CATALOGUE.items():
            if row.factors_with is None and not row.statistics:
                yield self._compared("steps", name)

    def compiled(self) -> Iterator[Row]:
        """Compare what torch's compiler makes of merges, compiled at once."""
        ACCELERATOR.pays_from = 0
        for name in COMPILED:
            before = len(ACCELERATOR.used)
            row = self._compared("compiled", name)
            if self.device != "cpu" and not all(
                list(ACCELERATOR.used.values())[before:]
            ):
                row = replace(row, ok=False, said=f"{row.said}, but not compiled")
            yield row

    def swap(self) -> Iterator[Row]:
        """Swap a merge into the engine ``hf``, and run its self-test."""
        from evomerge.checkpoints import read_model
        from evomerge.core.flow.stacks import passthrough
        from evomerge.core.work import EngineSettings, WorkerSetup
        from evomerge.scoring.engines import open_engine
        from evomerge.testing.models import tiny_model

        for dtype in ("float32", "bfloat16"):
            with TemporaryDirectory() as name:
                root = Path(name)
                pair = [
                    read_model(tiny_model(root / one, dtype=dtype, seed=seed))
                    for seed, one in enumerate("ab")
                ]
                setup = WorkerSetup(
                    engine=EngineSettings("hf", dtype),
                    tasks=(),
                    sources={one.fingerprint: str(one.path) for one in pair},
                    frame=pair[0].fingerprint,
                    probe=pair[1].fingerprint,
                    cache_dir=str(root / "cache"),
                )
                engine = open_engine(setup)
                try:
                    test = engine.self_test()
                    other = pair[1]
                    recipe = passthrough("b", other.fingerprint, other.n_layers, dtype)
                    engine.swap(recipe)
                finally:
                    engine.close()
            off = (test.probe_difference, test.return_difference)
            said = f"largest difference {off[0]:g}, back {off[1]:g}"
            yield Row("swap", dtype, off == (0.0, 0.0), said)

    def speed(self) -> Iterator[Row]:
        """Merge a layer again and again, against the bytes that must move."""
        ACCELERATOR.pays_from = 0
        copy = self._bandwidth()
        yield Row("speed", "copy", None, f"{copy / 1e9:.0f} GB/s")
        experts, bases = zip(
            *(drawn(s, 3, torch.bfloat16, self.device) for s in self._layer()),
            strict=True,
        )
        out = [torch.empty_like(base) for base in bases]
        entries = sum(base.numel() for base in bases)
        for name, row in CATALOGUE.items():
            if row.spectral_with == () or row.statistics or row.factors_with == ():
                continue
            operation = merging(name)
            n = len(operation.inputs)
            memo = Kept()
            times = []
            for turn in range(5):
                candidate = _varied(operation, turn)
                began = self._now()
                for i, (base, near) in enumerate(zip(bases, experts, strict=True)):
                    own = None if operation.base is None else base
                    key = f"model.layers.0.{i}.weight"
                    apply_into(out[i], candidate, near[:n], own, key, memo)
                times.append(self._now() - began)
            moved = 2 * entries * (len(operation.reads) + 1)
            best, floor = min(times[1:]), moved / copy
            said = (
                f"{best * 1e3:.2f} ms, {best / floor:.2f} x the floor; "
                f"first {times[0] * 1e3:.0f} ms"
            )
            yield Row("speed", name, None, said)

    def _both(
        self, operation: Operation, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(operation.inputs)
        experts, base = drawn(self._shape, n, dtype, "cpu")
        self._base = base
        own = None if operation.base is None else base
        here = apply(operation, experts, own, KEY)
        far = None if own is None else own.to(self.device)
        there = apply(operation, [one.to(self.device) for one in experts], far, KEY)
        return here, there.cpu()

    def _compared(self, part: str, name: str) -> Row:
        worst = 0.0
        for dtype in (torch.float32, torch.bfloat16):
            here, there = self._both(merging(name), dtype)
            if not torch.equal(here, there):
                worst = max(worst, float((here - there).abs().max()))
        said = "the same bits" if worst == 0.0 else f"up to {worst:.2g} off"
        return Row(part, name, worst <= TOLERANCE, said)

    def _layer(self) -> list[tuple[int, int]]:
        w = self.width
        inner, keys = w * 7 // 2, max(w // 4, 1)
        attention = [(w, w), (keys, w), (keys, w), (w, w)]
        return [*attention, (inner, w), (inner, w), (w, inner)]

    def _bandwidth(self) -> float:
        n = min(1 << 30, self.width**2 * 64)
        source = torch.ones(n // 2, dtype=torch.bfloat16, device=self.device)
        target = torch.zeros_like(source)
        times = []
        for _ in range(6):
            began = self._now()
            target.copy_(source)
            times.append(self._now() - began)
        return 2 * n / min(times[1:])

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Kept:
    """A memo in memory, as a worker has one."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def recall(self, kind: Any, what: Any, compute: Callable[[], Any]) -> Any:
        """Return what is kept, working it out the first time."""
        if (kind, what) not in self._kept:
            self._kept[kind, what] = compute()
        return self._kept[kind, what]


def _varied(operation: Operation, turn: int) -> Operation:
    """Return the next candidate: other weights and densities."""
    row, n = CATALOGUE[operation.operator], len(operation.inputs)
    each = tuple(
        (knob, tuple(round(0.3 + 0.05 * (turn + i), 2) for i in range(n)))
        for knob in ("weight", "density")
        if row.knob(knob) is not None and row.either != ("t", knob)
    )
    return replace(operation, each=each)


def main() -> int:
    """Run the parts, print what is found, and say whether all is as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", help="as torch names it")
    add("--minutes", type=float, default=8.0, help="most time to take")
    add("--width", type=int, default=4096, help="hidden size of the timed layer")
    add("--parts", nargs="*", default=["masks", "steps", "compiled", "swap", "speed"])
    add("--out", type=Path, help="write the rows there too, as JSON")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device on this machine; --device cpu tries the script")
    name = "cpu" if given.device == "cpu" else torch.cuda.get_device_name(given.device)
    print(f"device: {name}\ntorch: {torch.__version__}", flush=True)
    ends = time.monotonic() + 60.0 * given.minutes
    proof, rows = Proof(given.device, given.width), []
    for part in given.parts:
        for row in getattr(proof, part)():
            rows.append(row)
            mark = {None: " ", True: "ok", False: "NO"}[row.ok]
            print(f"{mark:3}{row.part:9} {row.name:18} {row.said}", flush=True)
            if given.out:
                told = [asdict(one) for one in rows]
                given.out.write_text(json.dumps(told, indent=1))
            if time.monotonic() > ends:
                print(f"not run: what comes after {row.part} {row.name}")
                return 2
    bad = [f"{row.part} {row.name}" for row in rows if row.ok is False]
    print(f"{len(rows)} rows, {len(bad)} not as they must be", *bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
