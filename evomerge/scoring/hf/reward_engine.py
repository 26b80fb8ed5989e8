"""An engine of reward models: classifiers of one output, which rates a whole text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.core.work import WorkerSetup
from evomerge.errors import CandidateError, Problem, RequestError, SpecError
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
)
from evomerge.scoring.hf.living_model import LivingModel
from evomerge.scoring.hf.model import machine_faults


class RewardEngine(LivingModel):
    """One reward model in this process; see ``Engine`` and ``RewardingEngine``."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Load the frame.

        Raises:
            SpecError: Stacks are asked for, or transformers does not know an option.
            CheckpointError: The frame cannot be loaded.
            WorkerError: The machine failed, for example for want of memory.
        """
        if setup.engine.stacks:
            said = "expected `weights` for reward models, which run as they are."
            raise SpecError([Problem("engine.profile", said)])
        super().__init__(setup)

    @torch.inference_mode()
    def rewards(self, texts: Sequence[tuple[int, ...]]) -> list[float]:
        """Rate texts, one at a time; see ``RewardingEngine``."""
        self._require_whole()
        for place, text in enumerate(texts):
            if not 0 < len(text) <= self.max_length:
                raise RequestError(
                    f"Text {place} has {len(text)} tokens; expected 1 to "
                    f"{self.max_length}, which this engine holds."
                )
        found = []
        with machine_faults("rate texts"):
            for text in texts:
                ids = torch.tensor([text], device=self._device)
                # Said, so that no class takes a token of the text for padding.
                out = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
                found.append(float(out.logits.float().reshape(-1)[0]))
        if not all(value - value == 0.0 for value in found):
            raise CandidateError(
                "The model's rewards are not finite, although its weights are: its "
                "activations overflow."
            )
        return found

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Refuse: a reward model writes nothing."""
        raise RequestError(_NO_TEXT)

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Refuse: a reward model expects nothing."""
        raise RequestError(_NO_TEXT)


_NO_TEXT = (
    "The frame is a reward model, which gives no tokens; score it by tasks of rewards "
    "(task: preference)."
)
