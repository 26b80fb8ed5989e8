"""What an engine makes of an architecture: swapped, tested, compared.

A merge is swapped into an engine that was started from a parent, and what it then
answers is compared with what transformers answers with the merge's own folder, prompt
by prompt, without a batch, a cache or padding; and the engine's self-test must pass.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from evomerge.checkpoints.documents import read_json
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import EvomergeError
from evomerge.scoring.engine import GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.engines import open_engine
from evomerge.specs.recipes import open_recipe

N_TOKENS = 88
"""Of the tokenizer; the tokens that stand for images come behind."""

PROMPTS = tuple(
    tuple(5 + (7 * start + 11 * i) % 80 for i in range(3 + 2 * start))
    for start in range(5)
)
"""Token sequences of several lengths, none of which speaks of an image."""
_ANSWER = 6
_MOST = 2e-4
"""By how much sums of log-probabilities may differ, in float32."""
_ROUNDINGS = 2
"""By how often what rounding does to transformers' own, in another type."""
_SETTINGS: Mapping[str, Any] = {"max_model_len": 64, "kv_cache_bytes": 16 << 20}

EXACT = "exact"


def write_words(folder: Path) -> None:
    """Give a folder a tokenizer of ``N_TOKENS`` words."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{number}": number for number in range(len(words), N_TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    text = json.dumps(settings, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n")


def serve(kind: str, file: Path, merged: Path, **settings: Any) -> str:
    """Say what an engine makes of a merge: ``exact``, or why it is not.

    Args:
        kind: Of engine.
        file: The recipe, with ``a`` as frame and ``b`` beside it.
        merged: The folder it was written to.
        settings: Of the engine, besides.
    """
    for folder in (*(file.parent / name for name in ("base", "a", "b")), merged):
        write_words(folder)
    try:
        return _served(kind, file, merged, settings)
    except EvomergeError as error:
        said = str(error).replace(f"{file.parent}/", "")
        return f"refused: {said}"
    except Exception:  # noqa: BLE001
        return f"wrong: {traceback.format_exc()[-400:]}"


def _served(kind: str, file: Path, merged: Path, settings: dict[str, Any]) -> str:
    opened = open_recipe(file)
    setup = WorkerSetup(
        engine=EngineSettings(kind, **{**_SETTINGS, **settings}),
        tasks=(),
        sources=opened.folders,
        frame=opened.models["a"].fingerprint,
        probe=opened.models["b"].fingerprint,
        cache_dir=str(file.parent / "cache"),
    )
    try:
        judge = Judge.of_folder(merged, setup.engine.dtype)
    except Exception as error:  # noqa: BLE001
        return f"not run: transformers itself: {type(error).__name__}: {error}"
    engine = open_engine(setup)
    try:
        engine.self_test()
        engine.swap(opened.recipe)
        answers = Answers.of_engine(engine)
    finally:
        engine.close()
    return answers.compared_with(judge)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says to the fixed prompts.

    Attributes:
        texts: Greedy answers.
        logprobs: Of the last half of each prompt, natural.
    """

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]

    @classmethod
    def of_engine(cls, engine: Any) -> Answers:
        """Ask an engine, everything at once."""
        texts = engine.generate([GenerateRequest(p, _ANSWER) for p in PROMPTS])
        pairs = [LoglikelihoodRequest(*_halves(p)) for p in PROMPTS]
        scores = engine.loglikelihood(pairs)
        return cls(
            tuple(answer.text for answer in texts),
            tuple(score.logprob for score in scores),
        )

    def compared_with(self, judge: Judge) -> str:
        """Say ``exact``, or by how much they differ from what transformers says.

        Not in float32, log-probabilities alone are judged, by what rounding does to
        transformers' own.
        """
        most = _most(self.logprobs, judge.logprobs)
        said = f"wrong: differs from transformers by {most:.2g} in log-probability, "
        if judge.rounding is not None:
            itself = f"which itself differs by {judge.rounding:.2g} in that type"
            return EXACT if most <= _ROUNDINGS * judge.rounding else said + itself
        both = zip(self.texts, judge.texts, strict=True)
        wrong = sum(text not in texts for text, texts in both)
        if most > _MOST or wrong:
            return f"{said}and in {wrong} of {len(PROMPTS)} answers"
        return EXACT


def _most(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(mine, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class Judge:
    """What transformers says with a folder, asked before any engine has started.

    vLLM changes transformers' classes in its process where it has none of its own.

    Attributes:
        logprobs: Of the last half of each prompt, natural, in float32.
        texts: Of each prompt, what its ``generate`` answers and what the likeliest
            tokens are without a cache: in a few classes these are not the same.
        rounding: By how much the log-probabilities differ in the type asked for.
    """

    logprobs: tuple[float, ...]
    texts: tuple[frozenset[str], ...]
    rounding: float | None

    @classmethod
    def of_folder(cls, folder: Path, dtype: str) -> Judge:
        """Ask transformers.

        Args:
            folder: The model.
            dtype: That an engine will compute in.
        """
        model, tokenizer = _loaded(folder)
        scores = tuple(map(model.score, PROMPTS))
        rounding = None
        if dtype != "float32":
            rounded, _ = _loaded(folder, dtype)
            rounding = _most(scores, tuple(map(rounded.score, PROMPTS)))
        texts = tuple(
            frozenset(
                tokenizer.batch_decode(model.continued(p), skip_special_tokens=True)
            )
            for p in PROMPTS
        )
        return cls(scores, texts, rounding)


def _loaded(folder: Path, dtype: str = "float32") -> tuple[Plain, Any]:
    import transformers

    named = read_json(folder / "config.json")["architectures"][0]
    cls = getattr(transformers, named)
    model = cls.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return Plain(model), transformers.AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Plain:
    """A transformers model, asked one prompt at a time."""

    model: Any

    @torch.inference_mode()
    def score(self, prompt: tuple[int, ...]) -> float:
        """Return the log-probability of the last half of a prompt."""
        context, rest = _halves(prompt)
        logits = self.model(input_ids=torch.tensor([prompt])).logits[0]
        chosen = logits[len(context) - 1 : -1].float().log_softmax(-1)
        return float(chosen.gather(1, torch.tensor(rest)[:, None]).double().sum())

    def continued(self, prompt: tuple[int, ...]) -> list[list[int]]:
        """Continue a prompt without a cache, and as transformers does by itself."""
        found = [self.likeliest(prompt)]
        # Several classes compute without a cache only.
        with suppress(Exception):
            found.append(self.generate(prompt))
        return found

    @torch.inference_mode()
    def likeliest(self, prompt: tuple[int, ...]) -> list[int]:
        """Continue a prompt without a cache."""
        tokens = list(prompt)
        ends = self.model.generation_config.eos_token_id
        ends = {2, *(ends if isinstance(ends, list) else [ends])}
        while len(tokens) < len(prompt) + _ANSWER:
            logits = self.model(input_ids=torch.tensor([tokens])).logits[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] in ends:
                break
        return tokens[len(prompt) :]

    def generate(self, prompt: tuple[int, ...]) -> list[int]:
        """Continue a prompt as transformers does by itself."""
        ids = torch.tensor([prompt])
        found = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_ANSWER,
            do_sample=False,
        )
        return list(map(int, found[0, len(prompt) :]))


def _halves(prompt: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    middle = (len(prompt) + 1) // 2
    return prompt[:middle], prompt[middle:]
