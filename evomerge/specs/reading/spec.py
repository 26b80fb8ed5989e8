"""What all models of written files share."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from evomerge.checkpoints.configs.meanings import KINDS, Kind

Value = StrictBool | StrictInt | StrictFloat | StrictStr
"""A plain value of a knob or an option."""

Allowed = Annotated[
    Annotated[tuple[Kind, ...], Field(min_length=1)] | None,
    Field(
        description="Kinds of differences in what models compute with equal weights "
        "that are merged all the same, with a warning: "
        + ", ".join(f"`{kind}`" for kind in KINDS)
        + "."
    ),
]
"""What a file insists on."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
"""A name that becomes part of axis names, labels and file names."""

Positive = Annotated[int, Field(gt=0)]

Few = Annotated[int, Field(gt=0, le=1024)]
"""A count of what is made one by one, before anything is searched."""

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Listed = BeforeValidator(_listed)
"""Lets a single word stand for a list of one."""


class Spec(BaseModel):
    """Part of a file: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True
    )
