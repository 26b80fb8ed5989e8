"""The operator's file: what studies of strangers may do on a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from evomerge.core.policy import ENGINE_OPTIONS
from evomerge.specs.reading.spec import Positive, Spec

_Option = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class PolicySpec(Spec):
    """What studies may do; what is not written is refused."""

    version: Literal[1] = Field(default=1, description="Version of this file's form.")
    allow_task_code: StrictBool = Field(
        default=False,
        description="Tasks may run code of their own, where a study says "
        "`trust_code: true`. Whoever may submit then has all that the service's system "
        "user has.",
    )
    allow_remote_code: StrictBool = Field(
        default=False,
        description="`engine.options` may hold `trust_remote_code`: engines run code "
        "that lies beside a model.",
    )
    roots: tuple[str, ...] = Field(
        default=(),
        description="Folders whose files studies may read, with all below them, links "
        "followed: models, adapters, data. A study's own files may always be read.",
    )
    hub: Literal["allow", "deny"] = Field(
        default="deny",
        description="Whether models and data sets may be fetched from a hub, with the "
        "service's own token.",
    )
    engine_options: tuple[_Option, ...] = Field(
        default=tuple(sorted(ENGINE_OPTIONS)),
        description="Names that `engine.options` of a study may hold; if not given "
        "those that change how fast engines are and how exactly they compute: "
        + ", ".join(f"`{name}`" for name in sorted(ENGINE_OPTIONS))
        + ".",
    )
    max_workers: Positive | None = Field(
        default=None, description="Most engines that one study has at once."
    )
    max_trials: Positive | None = Field(
        default=None,
        description="Most candidates of a study, over all its stages; a study then has "
        "to say `budget.trials`.",
    )
    max_items: Positive | None = Field(
        default=None,
        description="Most scored items of a study; it then has to say `budget.items`.",
    )
    max_minutes: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Longest a study may be searched, in minutes; it then has to say "
        "a time in its budget.",
    )
