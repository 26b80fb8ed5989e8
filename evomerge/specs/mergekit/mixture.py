"""mergekit-moe's files: dense models as the experts of a mixture.

mergekit-moe passes over what it does not know; here that is a mistake, as a misspelt
key would make another model than was meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evomerge.checkpoints import Model
from evomerge.checkpoints.mixtures import (
    MIXTURE_FAMILIES,
    MixtureFamily,
    misfit,
    unlike,
)
from evomerge.core.mixture import DRAWN, Expert, Mixture, Parent
from evomerge.core.nearest import did_you_mean
from evomerge.errors import Problem, RecipeError, SpecError
from evomerge.specs.mergekit.mixture_schema import ExpertSpec, MixtureSpec
from evomerge.specs.mergekit.references import Named
from evomerge.specs.reading.lines import Document, placed, placing
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.reading.yamlfile import read_documents
from evomerge.specs.sources import dtype_of, folders_of, input_of, open_sources


@dataclass(frozen=True, slots=True)
class OpenedMixture:
    """A file of a mixture with the models it names.

    Attributes:
        models: Input name to model.
        warnings: What the user must see although nothing is refused.
    """

    mixture: Mixture
    models: Mapping[str, Model]
    warnings: tuple[Problem, ...] = ()

    @property
    def folders(self) -> dict[str, str]:
        """Fingerprint to folder."""
        return folders_of(self.models.values())


def is_mixture(documents: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a file describes a mixture: mergekit-moe's, or one of our own."""
    data = documents[0] if len(documents) == 1 else {}
    if "mixture" in data:
        return True
    listed = data.get("experts")
    return (
        "merge_method" not in data
        and isinstance(listed, list)
        and any(isinstance(one, Mapping) and "source_model" in one for one in listed)
    )


def open_mixture(path: Path, *, strict: bool = False) -> OpenedMixture | None:
    """Read a file of a mixture; None if it describes something else.

    It is mergekit-moe's, or the JSON of a mixture with ``paths`` beside it.

    Args:
        path: The file.
        strict: What would be a warning is a mistake.

    Raises:
        SpecError: Anything is wrong with the file or the folders it names.
    """
    documents = read_documents(path)
    if not is_mixture(documents):
        return None
    mistakes = Mistakes(path.name, strict=strict)
    with placing(*documents):
        (data,) = documents
        if "mixture" in data:
            mixture, models = _canonical(data, path, mistakes)
        else:
            mixture, models = _read(data, path, mistakes)
        mistakes.stop_if_any()
    return OpenedMixture(mixture, models, placed(mistakes.warnings, documents))


def _canonical(
    data: Document, file: Path, mistakes: Mistakes
) -> tuple[Mixture, dict[str, Model]]:
    paths = data.get("paths")
    try:
        mixture = Mixture.from_json(data)
    except RecipeError as error:
        mistakes.add("", str(error))
        raise SpecError(mistakes.found) from error
    wanted = dict(mixture.inputs)
    if not isinstance(paths, dict) or set(paths) != set(wanted):
        mistakes.add("paths", f"expected a folder for each of {', '.join(wanted)}.")
        raise SpecError(mistakes.found)
    named = {name: str(folder) for name, folder in paths.items()}
    models = open_sources(named, file.parent, mistakes, key="paths")
    for name, model in models.items():
        if input_of(model) != wanted[name]:
            mistakes.add(
                f"paths.{name}",
                f"expected fingerprint {wanted[name].fingerprint}, got "
                f"{model.fingerprint}; its content is not what the mixture has.",
            )
    return mixture, models


def _read(
    data: Document, file: Path, mistakes: Mistakes
) -> tuple[Mixture, dict[str, Model]]:
    spec, problems = validate(MixtureSpec, data, file.name)
    mistakes.found += problems
    if spec is None:
        raise SpecError(mistakes.found)
    named = Named(file, mistakes)
    base = named.name(spec.base_model, "base_model")
    experts = _experts(spec.experts, "experts", named)
    shared = _experts(spec.shared_experts or (), "shared_experts", named)
    _check(spec, experts, shared, mistakes)
    models = named.open()
    family = None
    if base in models:
        family = _family(spec, models[base], mistakes)
    if family is not None and base is not None:
        _check_models(family, base, models, named, mistakes)
    mistakes.stop_if_any()
    assert family is not None
    assert base is not None
    gate = "hidden" if spec.gate_mode == "hidden_last" else spec.gate_mode
    mixture = Mixture(
        family=family.model_type,
        base=base,
        dtype=spec.dtype or dtype_of(models[base]),
        inputs=tuple((n, cast("Parent", input_of(m))) for n, m in models.items()),
        experts=tuple(expert for expert in experts if expert is not None),
        shared=shared[0] if shared else None,
        per_token=spec.experts_per_token,
        gate=gate,
        seed=spec.evomerge.seed,
    )
    return mixture, models


def _experts(
    written: Sequence[ExpertSpec], key: str, named: Named
) -> list[Expert | None]:
    """Read experts; None in the place of one whose model cannot be read."""
    out: list[Expert | None] = []
    for i, one in enumerate(written):
        name = named.name(one.source_model, f"{key}.{i}.source_model")
        scale = 1.0 if one.residual_scale is None else one.residual_scale
        prompts = tuple(one.positive_prompts or ()), tuple(one.negative_prompts or ())
        expert = name and Expert(name, *prompts, scale, one.noise_scale or 0.0)
        out.append(expert or None)
    return out


def _check(
    spec: MixtureSpec,
    experts: Sequence[Expert | None],
    shared: Sequence[Expert | None],
    mistakes: Mistakes,
) -> None:
    if len(experts) < max(spec.experts_per_token, 1):
        mistakes.add(
            "experts",
            f"expected at least {spec.experts_per_token}, as experts_per_token says, "
            f"got {len(experts)}.",
        )
    if len(shared) > 1:
        mistakes.add("shared_experts", f"expected one at most, got {len(shared)}.")
    both = [("experts", spec.experts), ("shared_experts", spec.shared_experts or ())]
    for key, written in both:
        for i, one in enumerate(written):
            _check_prompts(spec.gate_mode, one, f"{key}.{i}", mistakes)
    said = {(one.positive_prompts, one.negative_prompts) for one in spec.experts}
    if spec.gate_mode not in DRAWN and len(spec.experts) > 1 and len(said) == 1:
        mistakes.add(
            "experts",
            "expected prompts that differ, got the same for every expert: the router "
            "could not tell them apart.",
        )
    names = {expert.source for expert in experts if expert is not None}
    if len(names) == 1 and len(experts) > 1:
        mistakes.warn(
            "experts",
            "are all of one model: the mixture computes what that model does, and "
            "costs more. That is only of use if it is trained further.",
        )


def _check_prompts(gate: str, expert: ExpertSpec, key: str, mistakes: Mistakes) -> None:
    if gate in DRAWN:
        if expert.positive_prompts or expert.negative_prompts:
            mistakes.warn(key, f"has prompts, which change nothing with {gate}.")
    elif not expert.positive_prompts:
        mistakes.add(
            f"{key}.positive_prompts",
            f"expected at least one prompt of what is to be sent to it: {gate} makes "
            "the router of them.",
        )
    elif not all((*expert.positive_prompts, *(expert.negative_prompts or ()))):
        mistakes.add(key, "expected prompts with some text, got an empty one.")


def _family(spec: MixtureSpec, base: Model, mistakes: Mistakes) -> MixtureFamily | None:
    """Return what the mixture becomes; None, and a mistake noted, if nothing fits."""
    word = (spec.architecture or "").lower()
    known = {one.called.lower(): one for one in MIXTURE_FAMILIES.values()}
    if word.startswith("deepseek"):
        mistakes.add(
            "architecture",
            "expected mixtral, qwen or qwen3, got deepseek: mergekit-moe writes one "
            "that needs code of its own, which nothing here runs.",
        )
        return None
    fits = [one for name, one in known.items() if name.startswith(word)]
    if not fits:
        mistakes.add(
            "architecture",
            f"expected one of {', '.join(known)}, or how one begins, got "
            f"{spec.architecture!r}{did_you_mean(word, known)}",
        )
        return None
    shared = bool(spec.shared_experts)
    kind = str(base.config.get("model_type"))
    found = [one for one in fits if one.shares == shared and kind in one.dense]
    if found:
        return found[0]
    made_of = "; ".join(
        f"{one.called}{' (with a shared expert)' if one.shares else ''} of "
        f"{', '.join(one.dense)}"
        for one in MIXTURE_FAMILIES.values()
    )
    mistakes.add(
        "base_model",
        f"expected a model that a mixture {'with' if shared else 'without'} a shared "
        f"expert can be made of, got one of {kind}. There are: {made_of}.",
    )
    return None


def _check_models(
    family: MixtureFamily,
    base: str,
    models: Mapping[str, Model],
    named: Named,
    mistakes: Mistakes,
) -> None:
    if said := unlike(family, models[base]):
        mistakes.add("base_model", f"{said}.")
    for name, model in models.items():
        if said := misfit(family, models[base], model):
            mistakes.add(named.references[name].said, f"{said}.")
