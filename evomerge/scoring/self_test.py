"""Proof that swapped weights behave as cold-loaded ones.

The engine, cold-loaded with the frame A, is measured; the probe parent B is swapped
in and compared with a cold load of B; A is swapped back and compared with itself.
Swapping the same weights in would prove nothing: a stale copy is invisible to it.

A cold load of B is measured once for one kind of engine and device, and kept as JSON
beside a lock, so that workers starting together do not each make it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from evomerge.checkpoints import read_model
from evomerge.core.digest import digest
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import CheckpointError, SelfTestError
from evomerge.scoring.engine import (
    Engine,
    GenerateRequest,
    ImageEngine,
    LoglikelihoodRequest,
    RewardingEngine,
    SelfTest,
)
from evomerge.scoring.images import ImagePrompt, processor_digest
from evomerge.scoring.localise import locked

N_SEQUENCES = 6
ANSWER_TOKENS = 12
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """What one model answers to the fixed questions.

    Attributes:
        logprobs: Natural log-probabilities of fixed continuations.
        answers: Text and number of tokens of fixed prompts' greedy answers.
    """

    logprobs: tuple[float, ...]
    answers: tuple[tuple[str, int], ...]

    @classmethod
    def take(cls, engine: Engine) -> Probe:
        """Ask an engine the fixed questions; a reward model rates them."""
        if hasattr(engine, "rewards"):
            sequences = _sequences(len(engine.tokenizer), engine.max_length)
            return cls(tuple(cast(RewardingEngine, engine).rewards(sequences)), ())
        scores = engine.loglikelihood(cls.pairs(engine))
        # Asked after the scoring, so that whatever that cached takes part as well.
        answers = engine.generate(cls.prompts(engine))
        return cls(
            tuple(score.logprob for score in scores),
            tuple((answer.text, answer.n_tokens) for answer in answers),
        )

    @staticmethod
    def pairs(engine: Engine) -> list[LoglikelihoodRequest]:
        """Return the fixed contexts, with and without an image, and what is scored."""
        sequences = _sequences(len(engine.tokenizer), engine.max_length)
        return [
            LoglikelihoodRequest(tokens[:place], tokens[place : place + 1])
            for tokens in sequences
            for place in range(1, len(tokens), max(1, len(tokens) // 4))
        ] + [
            LoglikelihoodRequest(tokens, (token,), prompt)
            for tokens, prompt in _shown(engine)
            for token in sequences[-1][:4]
        ]

    @staticmethod
    def prompts(engine: Engine) -> list[GenerateRequest]:
        """Return the fixed prompts, with and without an image."""
        return [
            GenerateRequest(tokens, ANSWER_TOKENS)
            for tokens in _sequences(len(engine.tokenizer), engine.max_length)
        ] + [
            GenerateRequest(tokens, ANSWER_TOKENS, shown=prompt)
            for tokens, prompt in _shown(engine)
        ]

    def difference(self, other: Probe) -> float:
        """Return the largest absolute difference of log-probabilities."""
        pairs = zip(self.logprobs, other.logprobs, strict=True)
        return max(abs(mine - theirs) for mine, theirs in pairs)


ColdProbe = Callable[[WorkerSetup], Probe]
"""Measures a set-up's frame in an engine of its own, loaded from its folder."""


def run_self_test(
    engine: Engine, setup: WorkerSetup, cold_probe: ColdProbe
) -> SelfTest:
    """Swap the probe parent in and back, comparing with cold loads.

    Args:
        engine: Freshly loaded with the frame; it holds the frame again afterwards.
        setup: Names the frame, the probe and the folder for kept measurements.
        cold_probe: Called where no kept measurement of the probe fits.

    Raises:
        SelfTestError: Something differs; the message names what, and by how much.
    """
    frame = Probe.take(engine)
    probe_difference = None
    swap_s = 0.0
    if setup.probe is not None and setup.probe != setup.frame:
        cold = kept_probe(engine.facts, setup, cold_probe)
        report = engine.swap(whole(setup, setup.probe))
        swap_s = report.materialise_s + report.swap_s
        hot = Probe.take(engine)
        probe_difference = compare(hot, cold, "the probe parent, swapped in,", setup)
        if hot == frame:
            raise SelfTestError(
                "The probe parent answers exactly as the frame does, so the self-test "
                "proves nothing; give two parents with different weights."
            )
    report = engine.swap(whole(setup, setup.frame))
    return_difference = compare(
        Probe.take(engine), frame, "the frame, swapped back,", setup
    )
    swap_s = swap_s or report.materialise_s + report.swap_s
    return SelfTest(probe_difference, return_difference, swap_s)


def compare(hot: Probe, cold: Probe, who: str, setup: WorkerSetup) -> float:
    """Return the difference of two measurements that must be equal.

    Raises:
        SelfTestError: They are not.
    """
    difference = hot.difference(cold)
    wrong = sum(
        mine != theirs for mine, theirs in zip(hot.answers, cold.answers, strict=True)
    )
    if difference or wrong:
        raise SelfTestError(
            f"Self-test of the {setup.engine.kind} engine: {who} differs from its cold "
            f"load by up to {difference:.3g} in log-probability (expected exactly 0), "
            f"and {wrong} of {len(cold.answers)} greedy answers differ. This engine "
            f"would score wrong models; {_instead(setup)}."
        )
    return difference


def _instead(setup: WorkerSetup) -> str:
    if setup.engine.kind != "hf":
        return "use engine.kind: hf for these parents"
    if setup.engine.stacks:
        return (
            "use engine.profile: weights for these parents. Layers may compute by "
            "their number or by how many there are (DiffLlama, MiniCPM3)"
        )
    return "use engine.kind: vllm, or other parents"


def whole(setup: WorkerSetup, fingerprint: str) -> Recipe:
    """Write the recipe of one parent as it stands, in the engine's element type.

    Raises:
        CheckpointError: Its folder is missing or broken.
    """
    model = read_model(setup.sources[fingerprint], cache_dir=setup.cache_dir)
    return passthrough("whole", fingerprint, model.n_layers, setup.engine.dtype)


def kept_probe(
    facts: Mapping[str, Any], setup: WorkerSetup, cold_probe: ColdProbe
) -> Probe:
    """Return the probe parent's cold measurement, made only if none is kept.

    Args:
        facts: Of the engine that will be compared with it.
        setup: Names the probe and the folder.
        cold_probe: Makes the measurement.

    Raises:
        WorkerError: Another worker holds the lock for too long.
    """
    probe = setup.probe
    assert probe is not None
    cold = replace(setup, frame=probe, probe=None)
    return kept(facts, setup, probe, lambda: cold_probe(cold))


def kept(
    facts: Mapping[str, Any],
    setup: WorkerSetup,
    name: str,
    measure: Callable[[], Probe],
) -> Probe:
    """Return a cold measurement, made only if none is kept.

    Args:
        facts: Of the engine that will be compared with it.
        setup: Names the folder for what is kept, and the engine's limits.
        name: Digest of what is measured.
        measure: Makes the measurement.

    Raises:
        WorkerError: Another worker holds the lock for too long.
    """
    path = _path(facts, setup, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), "measuring what engines are compared with"):
        known = _read(path)
        if known is None:
            known = measure()
            _write(path, known)
    return known


def _path(facts: Mapping[str, Any], setup: WorkerSetup, name: str) -> Path:
    # Whatever may change the last bit of a sum belongs into the name.
    found = digest(
        {
            "version": _VERSION,
            "facts": dict(facts),
            "options": {k: repr(v) for k, v in setup.engine.options.items()},
            "limits": [setup.engine.max_model_len, setup.engine.max_num_seqs],
            "in_place": setup.engine.in_place,
            "probe": name,
            "images": processor_digest(setup.sources[setup.frame]),
            "machine": platform.machine(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
        }
    )
    return Path(setup.cache_dir) / "self_test" / f"{found}.json"


def _sequences(vocab_size: int, max_length: int) -> list[tuple[int, ...]]:
    """Return fixed token sequences of several lengths, spread over the vocabulary."""
    longest = max(2, min(48, max_length - ANSWER_TOKENS - 1))
    out = []
    state = 12345
    for index in range(N_SEQUENCES):
        length = max(2, longest * (index + 1) // N_SEQUENCES)
        tokens = []
        for _ in range(length):
            # A linear congruential generator: the same numbers everywhere, for good.
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            tokens.append((state >> 33) % vocab_size)
        out.append(tuple(tokens))
    return out


def _shown(engine: Engine) -> list[tuple[tuple[int, ...], ImagePrompt]]:
    """Return fixed prompts with images and their tokens; none for most models."""
    if not hasattr(type(engine), "images"):
        return []
    try:
        images = cast(ImageEngine, engine).images
    except CheckpointError:
        return []  # said by whoever has a task with images
    prompts = [(images.processor.encode(one).tokens, one) for one in images.prompts()]
    most = engine.max_length - ANSWER_TOKENS
    return [(tokens, one) for tokens, one in prompts if len(tokens) < most]


def _read(path: Path) -> Probe | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        answers = tuple((str(text), int(n)) for text, n in data["answers"])
        return Probe(tuple(map(float, data["logprobs"])), answers)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: it is made again


def _write(path: Path, probe: Probe) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(asdict(probe)), encoding="utf-8")
    scratch.replace(path)
