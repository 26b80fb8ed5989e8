"""Two tiny parents to swap between, and plain transformers to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.scoring.engine import LoglikelihoodRequest
from evomerge.testing.models import Family, tiny_model

PROMPTS = tuple(
    tuple(range(start, start + 5 + start % 7)) for start in range(10, 90, 8)
)
"""Token sequences of several lengths."""


@dataclass(frozen=True)
class Parents:
    """Two tiny models of one shape, ``a`` and ``b``, and a folder for caches."""

    folder: Path
    family: Family = "llama"
    tied: bool = False
    dtype: str = "float32"

    def write(self) -> Parents:
        """Write both model folders."""
        for seed, name in enumerate("ab"):
            path = self.folder / name
            tiny_model(path, self.family, tied=self.tied, dtype=self.dtype, seed=seed)
        return self

    def fingerprint(self, name: str) -> str:
        """Return a parent's fingerprint."""
        return read_model(self.folder / name).fingerprint

    def setup(self, frame: str, settings: EngineSettings) -> WorkerSetup:
        """Describe a worker that starts from ``frame`` and can probe with ``b``."""
        return WorkerSetup(
            engine=settings,
            tasks=(),
            sources={self.fingerprint(n): str(self.folder / n) for n in "ab"},
            frame=self.fingerprint(frame),
            probe=None,
            cache_dir=str(self.folder / "cache"),
        )

    def blend(self, weight: float, n_layers: int = 4) -> Recipe:
        """Write ``weight * (a + b)``, with the first ``n_layers`` layers."""
        knobs = (("weight", (weight, weight)),)
        shared = (("normalize", False),)
        roles = (("*", Operation("linear", ("a", "b"), shared=shared, each=knobs)),)
        return Recipe(
            frame="a",
            dtype=self.dtype,
            inputs=tuple((n, Checkpoint(self.fingerprint(n))) for n in "ab"),
            embed=Slot(roles),
            slots=tuple(
                Slot(roles, layers=(("a", i), ("b", i))) for i in range(n_layers)
            ),
            head=Slot(roles),
        )


def by_hand(
    folder: Path, dtype: str, requests: list[LoglikelihoodRequest]
) -> list[tuple[float, bool]]:
    """Score with plain transformers, one request at a time, nothing batched."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    out = []
    for request in requests:
        ids = torch.tensor([request.context + request.continuation])
        with torch.inference_mode():
            logits = model(ids).logits[0, len(request.context) - 1 : -1].float()
        target = torch.tensor(request.continuation)
        chosen = logits.log_softmax(-1).gather(1, target[:, None])
        greedy = bool((logits.argmax(-1) == target).all())
        out.append((float(chosen.double().sum()), greedy))
    return out


def answers_by_hand(folder: Path, max_tokens: int) -> list[str]:
    """Continue every prompt with plain transformers, greedily, without a cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + max_tokens:
            with torch.inference_mode():
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        out.append(tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True))
    return out


def pairs() -> list[LoglikelihoodRequest]:
    """Return contexts with continuations of one to four tokens."""
    return [
        LoglikelihoodRequest(p[: -1 - i % 4], p[-1 - i % 4 :])
        for i, p in enumerate(PROMPTS)
    ]


def probed(setup: WorkerSetup, parents: Parents) -> WorkerSetup:
    """Return the set-up with ``b`` as the self-test's probe."""
    return replace(setup, probe=parents.fingerprint("b"))
