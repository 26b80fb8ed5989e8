"""Sums and elections in one pass on an accelerator, compiled by torch.

Taken step by step a merge reads and writes its blocks ten times and more. Here one
kernel is compiled for each form: element types, what drops entries, how signs are
elected. All numbers of a candidate are given as tensors, so another candidate is no new
form.

Compiling takes seconds, and an accelerator is fast even step by step: a form is
compiled once so much was merged by it that it pays. A single merge rarely comes to
that, a search does.

The bits must be those of the step-by-step path. Compilers are told to round as torch
does, and are not trusted: what a form writes first is compared with that path, and one
that differs in a bit, or cannot be compiled, is never used again by this process.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import torch

from evomerge.merging.operators.device.device_job import Form, Job, StepByStep
from evomerge.merging.operators.device.formulas import Formula, Vote, formula
from evomerge.merging.operators.loops.arrays import MOST_INPUTS, SMALL
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.onepass import Rule, Total
from evomerge.merging.operators.loops.thinning import Steps, Thin

_log = logging.getLogger(__name__)

_PAYS_FROM = 1 << 35
"""Entries of inputs that take, step by step, about as long as a form to be compiled."""
_OPTIONS = {
    # No multiply-add in one rounding, and no rounding left out.
    "emulate_precision_casts": True,
    "cpp.enable_floating_point_contract_flag": "off",
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "compile_threads": 1,  # one kernel is not worth a pool of processes
}

Compiler = Callable[[Form], Formula]


def compiled(form: Form) -> Formula:
    """Return the formula of a form as one compiled pass; compiled when first called.

    Raises:
        RuntimeError: torch's compiler is switched off; without it the formula would
            take more memory than single steps.
    """
    if torch._dynamo.config.disable:
        raise RuntimeError("torch's compiler is switched off")
    return torch.compile(  # type: ignore[call-overload] # as torch 2.13 forgot one
        formula(form.thinning, form.vote),
        fullgraph=True,
        options=_OPTIONS,
        isolate_recompiles=True,
    )


class Fused:
    """Merges by compiled forms, each of them checked before it is trusted.

    Safe to use from several threads.

    Attributes:
        pays_from: A form is compiled once merges by it have read so many entries.
    """

    def __init__(
        self, compiler: Compiler = compiled, pays_from: int = _PAYS_FROM
    ) -> None:
        self.pays_from = pays_from
        self._compiler = compiler
        self._read: Counter[Form] = Counter()
        self._code: dict[Form, Formula] = {}
        self._trusted: dict[Form, bool] = {}
        self._lock = threading.Lock()

    @property
    def used(self) -> Mapping[Form, bool]:
        """Every form that was tried, and whether its code is used."""
        return dict(self._trusted)

    def add(
        self,
        deltas: Deltas,
        total: Total,
        thin: Thin | None,
        out: torch.Tensor,
        steps: StepByStep,
    ) -> bool:
        """Write ``base + scale * sum(f_i thin(x_i - base)) / divisor`` to ``out``.

        Args:
            deltas: The inputs.
            total: How they are added up.
            thin: What is dropped; says what it does.
            out: The result.
            steps: The same merge step by step.

        Returns:
            Whether the merge is written and every number of it is finite.
        """
        return self._merge(Job(deltas, thin, total, None, out), steps)

    def elect(
        self,
        deltas: Deltas,
        thin: Thin,
        rule: Rule,
        out: torch.Tensor,
        steps: StepByStep,
    ) -> bool:
        """Write ``base + scale * (merged agreeing differences)`` to ``out``.

        Args:
            deltas: The inputs.
            thin: What is dropped; says what it does.
            rule: How signs are elected.
            out: The result.
            steps: The same merge step by step.

        Returns:
            Whether the merge is written and every number of it is finite.
        """
        mixed = rule.normalize and min(rule.weights) < 0.0
        vote = Vote(rule.count, rule.plain, rule.normalize, mixed)
        total = Total(rule.weights, scale=rule.scale)
        return self._merge(Job(deltas, thin, total, vote, out), steps)

    def _merge(self, job: Job, steps: StepByStep) -> bool:
        form = job.form()
        if form not in self._trusted:
            with self._lock:
                if form not in self._trusted:
                    self._read[form] += job.size
                    pays = self._read[form] > self.pays_from
                    return pays and self._run(job, form) and self._try(job, form, steps)
        return self._trusted[form] and self._run(job, form)

    def _run(self, job: Job, form: Form) -> bool:
        try:
            if form not in self._code:
                self._code[form] = self._compiler(form)
            return job.run(self._code[form])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in any way they like
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            self._give_up(form, f"it fails with {said!r}")
            return False

    def _try(self, job: Job, form: Form, steps: StepByStep) -> bool:
        """Find out whether code that has just merged can be trusted."""
        if job.agrees(steps):
            self._trusted[form] = True
        else:
            self._give_up(form, "its bits are not those of single steps")
        return self._trusted[form]

    def _give_up(self, form: Form, why: str) -> None:
        self._trusted[form] = False
        _log.warning(
            "Code compiled for one form of merge is not used: %s. Such merges go step "
            "by step in this process, which is slower; the results are the same. %s",
            why,
            form,
        )


FUSED = Fused()
"""What was compiled in this process."""


def can_fuse_on_device(deltas: Deltas, thin: Thin | None, out: torch.Tensor) -> bool:
    """Tell whether a merge lies on an accelerator and is one that code is compiled for.

    That is for contiguous tensors of fp32, bf16 and fp16.
    """
    known = thin is None or (isinstance(thin, Steps) and thin.are_alike)
    fits = deltas.n >= SMALL and len(deltas) <= MOST_INPUTS
    if not _is_accelerator(deltas.device) or not known or not fits:
        return False
    return all(
        tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and tensor.device == out.device
        and tensor.is_contiguous()
        for tensor in (*deltas.sources(), out)
    )


def _is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"
