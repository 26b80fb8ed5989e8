"""Answers to prompts with images, and how likely a continuation of one is.

How a family takes images in, with a cache, and where tokens that stand for them are, is
known to transformers' own ``generate``: it calls the model, and each next token is
chosen here as for text. Prompts are put together only where they need no padding, and
where the model is found to answer then as it answers each alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from evomerge.errors import CandidateError, CheckpointError
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
)
from evomerge.scoring.hf.batches import BATCH_TOKENS, Generator, Row
from evomerge.scoring.hf.decoding import choose
from evomerge.scoring.hf.processor import Encoded, Processor
from evomerge.scoring.images import ImagePrompt, made_up

BATCH_BYTES = 256 << 20
"""Most bytes of prepared images in one batch."""
_MOST = 0.02
"""Difference of logits, as a share of the largest, that rounding does not explain."""


class ImageReader:
    """A model that is shown images.

    Attributes:
        processor: Of the model's folder.
    """

    def __init__(self, speaker: Generator, processor: Processor) -> None:
        """Show made-up images to a model.

        Raises:
            CheckpointError: It does not take them.
        """
        refuse_text_alone(speaker.forward.model)
        self.processor = processor
        self._speaker = speaker
        self._batches = self._takes_several()

    def prompts(self) -> list[ImagePrompt]:
        """Return fixed prompts with made-up images, for self-tests."""
        text = f"{self.processor.image_token} a 1"
        return [ImagePrompt(text, (image,)) for image in made_up()]

    def answer(
        self, requests: Sequence[GenerateRequest], max_rows: int
    ) -> list[Completion]:
        """Continue prompts with images; answers in the order asked.

        Raises:
            CandidateError: The model's logits are not finite.
        """
        answers: dict[int, Completion] = {}
        rows_at_once = max_rows if self._batches else 1
        for places, tensors in self._alike(requests, rows_at_once):
            rows = [Row(requests[place], self._speaker) for place in places]
            self._decode(rows, tensors)
            answers |= {
                place: row.finish() for place, row in zip(places, rows, strict=True)
            }
        return [answers[place] for place in range(len(requests))]

    @torch.inference_mode()
    def loglikelihood(self, request: LoglikelihoodRequest) -> Loglikelihood:
        """Score one continuation, not empty, of a prompt with images."""
        assert request.shown is not None
        first = len(request.context) - 1
        read = self.processor.encode(request.shown).tensors
        logits = self._logits(_continued(read, request.continuation[:-1]))[0, first:]
        target = torch.tensor(request.continuation, device=logits.device).unsqueeze(1)
        chosen = logits.log_softmax(-1).gather(1, target)
        greedy = (logits >= logits.gather(1, target)).sum(-1) == 1
        total = float(chosen.double().sum())
        if total - total != 0.0:
            raise CandidateError(
                "The model's log-probabilities are not finite, although its weights "
                "are: its activations overflow."
            )
        return Loglikelihood(total, bool(greedy.all()))

    def _takes_several(self) -> bool:
        """Tell whether several prompts at once give what each gives alone."""
        try:
            read = [self.processor.encode(prompt) for prompt in self.prompts()]
            alone = torch.cat([self._logits(one.tensors) for one in read])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{type(self._speaker.forward.model).__name__} computes nothing for an "
                f"image as its processor prepares it: {type(error).__name__}: {error}. "
                "Compare the processor's files with those of the published model."
            ) from error
        try:
            together = self._logits(_stacked(read))
        except (RuntimeError, ValueError, TypeError, LookupError):
            return False
        scale = alone.abs().max().clamp_min(1e-6)
        return bool((together - alone).abs().max() <= _MOST * scale)

    def _alike(
        self, requests: Sequence[GenerateRequest], max_rows: int
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield places of requests that go together, and what the model is given."""
        batch: dict[int, Encoded] = {}
        for place in sorted(
            range(len(requests)), key=lambda p: len(requests[p].prompt)
        ):
            request = requests[place]
            assert request.shown is not None
            read = self.processor.encode(request.shown)
            if batch:
                n = len(batch) + 1
                longest = len(request.prompt) + request.max_tokens
                size = sum(one.nbytes for one in read.tensors.values())
                other = next(iter(batch.values())).shapes != read.shapes
                full = n > max_rows or n * longest > BATCH_TOKENS
                if other or full or n * size > BATCH_BYTES:
                    yield list(batch), _stacked(list(batch.values()))
                    batch = {}
            batch[place] = read
        if batch:
            yield list(batch), _stacked(list(batch.values()))

    @torch.inference_mode()
    def _decode(self, rows: list[Row], tensors: Mapping[str, torch.Tensor]) -> None:
        from transformers import GenerationConfig

        model = self._speaker.forward.model
        chooser = _Chooser(rows)
        ways = GenerationConfig(
            do_sample=False,
            pad_token_id=0,
            max_new_tokens=max(row.limit for row in rows),
        )
        # What a folder says of sampling is not asked for, as with text.
        own, model.generation_config = model.generation_config, ways
        try:
            model.generate(
                **self._given(tensors),
                logits_processor=[chooser.choose],
                stopping_criteria=[chooser.ended],
            )
        finally:
            model.generation_config = own
            self._forget()

    def _logits(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits of every place, ``(n_rows, n_tokens, n_vocab)``, float32."""
        with torch.inference_mode():
            try:
                out = self._speaker.forward.model(**self._given(tensors))
            finally:
                self._forget()
        logits: torch.Tensor = out.logits.float()
        return logits

    def _given(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        model = self._speaker.forward.model
        return {
            name: one.to(model.device, model.dtype if one.is_floating_point() else None)
            for name, one in tensors.items()
        }

    def _forget(self) -> None:
        """Drop what a model keeps of where images stood, which is of this prompt."""
        for module in self._speaker.forward.model.modules():
            if getattr(module, "rope_deltas", None) is not None:
                module.rope_deltas = None


def refuse_text_alone(model: Any) -> None:
    """Refuse a model without a vision tower.

    Raises:
        CheckpointError: It reads text alone.
    """
    from transformers.models.auto import modeling_auto

    name = type(model).__name__
    if name not in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values():
        raise CheckpointError(
            f"{name} reads text alone, so no image can be shown to it; take a frame "
            "with a vision tower, or tasks without images."
        )


class _Chooser:
    """Chooses each row's next token in place of ``generate``."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def choose(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token possible, of logits ``(n_rows, n_vocab)``."""
        del ids
        chosen = choose(scores, self._rows)
        for row, token in zip(self._rows, chosen, strict=True):
            if row.open:
                row.add(token)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, torch.tensor(chosen, device=scores.device)[:, None], 0)

    def ended(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Tell which rows are done."""
        del scores
        return torch.tensor([not row.open for row in self._rows], device=ids.device)


def _stacked(read: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    names = read[0].tensors
    return {name: torch.cat([one.tensors[name] for one in read]) for name in names}


def _continued(
    read: Mapping[str, torch.Tensor], tokens: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Put text behind a prompt: whatever is said of each token says so of text."""
    shape = read["input_ids"].shape
    more = torch.tensor([list(tokens)], dtype=torch.long)
    out = {}
    for name, one in read.items():
        if one.shape != shape or one.is_floating_point():
            out[name] = one
            continue
        value = {"input_ids": more, "attention_mask": torch.ones_like(more)}
        out[name] = torch.cat([one, value.get(name, torch.zeros_like(more))], dim=1)
    return out
