"""Two tiny parents of a family, stacks of their layers, and transformers to judge them.

The judge is a transformers model of its own for each stack: its configuration has the
stack's layers and their kinds, its weights are copied tensor by tensor, and hooks scale
what enters its layers. It runs prompt by prompt and without a cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.scoring.engine import Engine, GenerateRequest
from evomerge.testing.families import family_config, family_model, save_family
from evomerge.testing.models import HEAD_DIM, write_tokenizer
from evomerge.testing.parents import PROMPTS, pairs

N_LAYERS = 4
N_SLOTS = 9
ANSWER_TOKENS = 8
_S, _F = "sliding_attention", "full_attention"
_VOCAB, _HIDDEN = 288, 64

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "mistral": {"head_dim": HEAD_DIM},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": HEAD_DIM},
    "gemma2": {
        "head_dim": HEAD_DIM,
        "sliding_window": 6,
        "layer_types": [_S, _F, _S, _F],
    },
    "gemma3_text": {
        "head_dim": HEAD_DIM,
        "sliding_window": 6,
        "layer_types": [_S, _S, _F, _S],
    },
    "phi3": {},
}
"""``model_type`` to what sets its parents apart; 2 of 4 windows are shorter than most
prompts."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of layers of ``a`` and ``b``.

    Attributes:
        layers: Parent, layer and scale of each place.
        embed: Whose embedding.
        head: Whose final norm and head.
    """

    layers: tuple[tuple[str, int, float], ...]
    embed: str = "a"
    head: str = "a"

    @classmethod
    def plain(cls, text: str, embed: str = "a", head: str = "a") -> Stack:
        """Read ``a0 b3 ...``."""
        layers = tuple((word[0], int(word[1:]), 1.0) for word in text.split())
        return cls(layers, embed, head)

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Stack:
        """Draw one: any depth that fits, any layers, half of them scaled."""
        layers = tuple(
            (
                "ab"[rng.integers(2)],
                int(rng.integers(N_LAYERS)),
                float(rng.uniform(0.4, 2.0)) if rng.integers(2) else 1.0,
            )
            for _ in range(rng.integers(1, N_SLOTS + 1))
        )
        return cls(layers, "ab"[rng.integers(2)], "ab"[rng.integers(2)])

    @property
    def is_scaled(self) -> bool:
        """Whether any place has a scale."""
        return any(scale != 1.0 for _, _, scale in self.layers)


STACKS: Mapping[str, Stack] = {
    "identity": Stack.plain("a0 a1 a2 a3"),
    "all from b": Stack.plain("b0 b1 b2 b3", "b", "b"),
    "skip": Stack.plain("a0 a2 a3", "a", "b"),
    "repeat": Stack.plain("a0 a1 a1 a2 a1 a3"),
    "reorder": Stack.plain("b3 a0 a2 b1", "b", "a"),
    "interleave with scales": Stack(
        (("a", 0, 1.0), ("b", 1, 0.7), ("a", 2, 1.4), ("b", 1, 0.5), ("b", 3, 1.1))
    ),
    "deeper than any parent": Stack.plain("a0 b0 a1 b1 a2 b2 a2 a3 b3", "b", "b"),
    "one layer": Stack.plain("b2", "a", "b"),
}


@dataclass(frozen=True)
class Family:
    """Two parents of one family on disk."""

    folder: Path
    name: str = "llama"
    dtype: str = "float32"
    states: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def write(self) -> Family:
        """Write both."""
        (self.folder / "cache").mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate("ab"):
            model = save_family(
                self.folder / name, family_model(self.config, seed), self.dtype
            )
            write_tokenizer(self.folder / name, _VOCAB)
            self.states[name] = model.state_dict()
        return self

    @cached_property
    def config(self) -> Any:
        """The parents' configuration."""
        return self._config({})

    def _config(self, changes: Mapping[str, Any]) -> Any:
        sizes = {
            "vocab_size": _VOCAB,
            "hidden_size": _HIDDEN,
            "intermediate_size": _HIDDEN,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": _HIDDEN // HEAD_DIM,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
        }
        return family_config(self.name, **{**sizes, **FAMILIES[self.name], **changes})

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Name to fingerprint."""
        return {name: read_model(self.folder / name).fingerprint for name in "ab"}

    def setup(self, kind: str, profile: str = "slots", **engine: Any) -> WorkerSetup:
        """Describe a worker that starts from ``a`` with ``N_SLOTS`` slots."""
        settings = EngineSettings(
            kind=kind,
            dtype=self.dtype,
            max_model_len=128,
            kv_cache_bytes=16 << 20,
            profile=profile,
            slots=N_SLOTS,
        )
        prints = self.fingerprints
        return WorkerSetup(
            engine=replace(settings, **engine),
            tasks=(),
            sources={prints[name]: str(self.folder / name) for name in "ab"},
            frame=prints["a"],
            probe=prints["b"],
            cache_dir=str(self.folder / "cache"),
        )

    def recipe(self, stack: Stack) -> Recipe:
        """Write the recipe of a stack."""
        return Recipe(
            frame="a",
            dtype=self.dtype,
            inputs=tuple((n, Checkpoint(p)) for n, p in self.fingerprints.items()),
            embed=Slot(_copy(stack.embed)),
            slots=tuple(
                Slot(_copy(name), ((name, layer),), scale)
                for name, layer, scale in stack.layers
            ),
            head=Slot(_copy(stack.head)),
        )

    def with_blend(self, recipe: Recipe, place: int, weight: float) -> Recipe:
        """Merge one layer of a stack: layer 2 of ``a`` and ``b``, the rest from b."""
        operation = Operation(
            "linear",
            ("a", "b"),
            shared=(("normalize", False),),
            each=(("weight", (weight, 1.0 - weight)),),
        )
        slots = list(recipe.slots)
        slots[place] = replace(
            slots[place], roles=(("*", operation),), layers=(("a", 2), ("b", 2))
        )
        return replace(recipe, slots=tuple(slots))

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer."""
        return sum(
            tensor.nbytes
            for name, tensor in self.states["a"].items()
            if name.startswith("model.layers.2.")
        )

    def judge(self, stack: Stack, attention: str | None = None) -> Any:
        """Build the transformers model of a stack.

        Args:
            stack: What it consists of.
            attention: How transformers computes it; None leaves that to transformers.
        """
        from transformers import AutoModelForCausalLM

        changes: dict[str, Any] = {"num_hidden_layers": len(stack.layers)}
        if kinds := FAMILIES[self.name].get("layer_types"):
            changes["layer_types"] = [kinds[layer] for _, layer, _ in stack.layers]
        model = AutoModelForCausalLM.from_config(
            self._config(changes),
            dtype=getattr(torch, self.dtype),
            attn_implementation=attention,
        ).eval()
        state = {}
        for name in model.state_dict():
            found = re.match(r"model\.layers\.(\d+)\.(.*)", name)
            if found:
                source, layer, _ = stack.layers[int(found[1])]
                state[name] = self.states[source][f"model.layers.{layer}.{found[2]}"]
            else:
                embeds = "embed" in name or self.config.tie_word_embeddings
                embeds &= "norm" not in name
                state[name] = self.states[stack.embed if embeds else stack.head][name]
        model.load_state_dict(state)
        for layer, (_, _, scale) in zip(model.model.layers, stack.layers, strict=True):
            layer.register_forward_pre_hook(_scaling(scale))
        return model


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says to the fixed prompts and pairs."""

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]

    @classmethod
    def of_engine(cls, engine: Engine) -> Answers:
        """Ask an engine."""
        texts = engine.generate([GenerateRequest(p, ANSWER_TOKENS) for p in PROMPTS])
        scores = engine.loglikelihood(pairs())
        return cls(
            tuple(answer.text for answer in texts),
            tuple(score.logprob for score in scores),
        )

    @classmethod
    @torch.inference_mode()
    def of_model(cls, model: Any, tokenizer: Any) -> Answers:
        """Ask a transformers model, one prompt at a time."""
        texts, logprobs = [], []
        for prompt in PROMPTS:
            tokens = list(prompt)
            while len(tokens) < len(prompt) + ANSWER_TOKENS:
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
                tokens.append(int(logits.argmax()))
                if tokens[-1] == tokenizer.eos_token_id:
                    break
            answer = tokens[len(prompt) :]
            texts.append(tokenizer.decode(answer, skip_special_tokens=True))
        for pair in pairs():
            ids = torch.tensor([pair.context + pair.continuation])
            logits = model(ids, use_cache=False).logits[0, len(pair.context) - 1 : -1]
            target = torch.tensor(pair.continuation)[:, None]
            chosen = logits.float().log_softmax(-1).gather(1, target)
            logprobs.append(float(chosen.double().sum()))
        return cls(tuple(texts), tuple(logprobs))

    def difference(self, other: Answers) -> float:
        """Return the largest absolute difference of log-probabilities."""
        both = zip(self.logprobs, other.logprobs, strict=True)
        return max(abs(mine - theirs) for mine, theirs in both)


def _copy(name: str) -> tuple[tuple[str, Operation], ...]:
    return (("*", Operation("linear", (name,), each=(("weight", (1.0,)),))),)


def _scaling(scale: float) -> Any:
    return lambda _, args: (args[0] * scale, *args[1:])
