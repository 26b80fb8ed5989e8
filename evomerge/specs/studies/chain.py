"""The stages of a study, one after another: checked at once, begun one by one.

While a stage runs, the later ones are kept beside it as plain data. What they take is
not known yet: they are checked with stand-ins, merges like those that can come of the
earlier stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.core.flow.blueprint import FlowBlueprint
from evomerge.core.recipes.recipe import VERSION, Recipe
from evomerge.errors import SpecError
from evomerge.specs.completing.context import Judge, Surroundings
from evomerge.specs.completing.resolve import resolve_among, resolve_at
from evomerge.specs.completing.stage import Part, Stage, Taken
from evomerge.specs.persistence import (
    CUT_VERSION,
    LATER,
    RECIPE_VERSION,
    cut_of,
    groups_from,
    recipe_version_of,
)
from evomerge.specs.planning.flow_planner import flow_kind
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.schema.measures import CUT
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import open_sources
from evomerge.specs.studies.restored import written

_KEPT = ("study", "recipes", "groups")
"""Parts of a configuration that a stage is begun from."""


def resolve_parts(
    parts: Sequence[Part],
    *,
    base_dir: Path,
    file: str,
    cache_dir: Path | None = None,
    judge: Judge | None = None,
    versions: tuple[int, int] = (VERSION, CUT),
) -> tuple[ResolvedStudy, ...]:
    """Answer every question that the searches of a file leave open.

    Args:
        parts: As read.
        base_dir: Where relative paths start: the study file's folder.
        file: Its name, for messages.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        judge: Says what is wrong with a choice of strategy.
        versions: Of the recipes that points become, and of the cut into blocks.

    Returns:
        One study for each part. Those that take something have stand-ins for it; the
        first one's allowance holds the stages to come.

    Raises:
        SpecError: Carries every mistake found, in any of them.
    """
    noted = Mistakes(file)
    noted.unknown = any(part.spec.space.unknown is not None for part in parts)
    models = open_sources(
        parts[0].spec.sources,
        base_dir,
        noted,
        cache_dir=cache_dir,
        statistics=parts[0].spec.statistics,
    )
    around = Surroundings(
        base_dir,
        file,
        cache_dir,
        judge=judge,
        recipe_version=versions[0],
        cut=versions[1],
    )
    chain = _Chain(models, around, noted)
    studies = [chain.resolved(part) for part in parts]
    noted.stop_if_any()
    first, *others = [study for study in studies if study is not None]
    if others:
        later = [pending(study) for study in others]
        first = replace(first, allowance={**first.allowance, LATER: later})
    return first, *others


def pending(study: ResolvedStudy) -> dict[str, Any]:
    """Return what is kept of a stage until it begins."""
    stage = replace(_stage_of(study), taken={})
    return {
        RECIPE_VERSION: recipe_version_of(study.config),
        CUT_VERSION: cut_of(study.config),
        **{key: study.config[key] for key in _KEPT if key in study.config},
        "stage": stage.to_json(),
        "allowance": dict(study.allowance),
    }


@dataclass(frozen=True, slots=True)
class Pending:
    """A stage that has not begun.

    Attributes:
        name: Of its study in the database.
        stage: What it takes.
        kept: All that is known of it.
        later: The stages after it.
    """

    name: str
    stage: Stage
    kept: Mapping[str, Any]
    later: tuple[Mapping[str, Any], ...]

    @classmethod
    def after(cls, allowance: Mapping[str, Any]) -> Pending | None:
        """Return the stage that follows a study, if there is one."""
        kept, *later = allowance.get(LATER) or [None]
        if kept is None:
            return None
        stage = Stage.from_json(kept["stage"])
        return cls(kept["study"]["name"], stage, kept, tuple(later))

    def begin(
        self, taken: Mapping[str, Taken], *, cache_dir: Path | None = None
    ) -> ResolvedStudy:
        """Return the stage as a study of its own.

        Args:
            taken: What became of each of its takes.
            cache_dir: Where fingerprints are remembered, if anywhere.

        Raises:
            SpecError: A source is gone, or what is taken does not fit.
        """
        allowance = self.kept["allowance"]
        file = str(allowance["file"])
        data = written(self.kept, allowance)
        spec, problems = validate(StudySpec, data, file)
        if spec is None or problems:
            raise SpecError(problems)
        recipes = {n: Recipe.from_json(r) for n, r in self.kept["recipes"].items()}
        around = Surroundings(
            Path.cwd(),
            file,
            cache_dir,
            recipes,
            stage=replace(self.stage, taken=taken),
            accepted=True,
            later=self.later,
            recipe_version=recipe_version_of(self.kept),
            cut=cut_of(self.kept),
            surveyed=groups_from(self.kept),
        )
        return resolve_at(spec, around)


class _Chain:
    """Resolves parts in order, with what can come of one as stand-ins in the next."""

    def __init__(
        self, models: Mapping[str, Model], around: Surroundings, noted: Mistakes
    ) -> None:
        self._models = models
        self._around = around
        self._noted = noted
        self._unread = tuple(noted.found)
        self._stand_ins: dict[str, tuple[Recipe, ...]] = {}
        self._moved: set[str] = set()

    def resolved(self, part: Part) -> ResolvedStudy | None:
        """Return the study, None if it cannot be told; mistakes are noted."""
        stage = part.stage
        if stage is None:
            return self._resolve(part, self._around)
        if any(one.stage not in self._stand_ins for one in stage.take.values()):
            return None  # there is nothing to take, for a reason that is noted
        self._check_layers(part, stage)
        studies = [
            self._resolve(part, replace(self._around, stage=one))
            for one in self._filled(stage)
        ]
        study = studies[0]
        if study is not None:
            self._stand_ins[stage.name] = tuple(_stand_ins(study))
            flow = part.spec.space.flow
            kind = None if flow is None else flow_kind(flow.kind)
            if kind is not None and not kind.keeps_depth:
                self._moved.add(stage.name)
        return study

    def _resolve(self, part: Part, around: Surroundings) -> ResolvedStudy | None:
        around = replace(around, recipes=part.recipes)
        mistakes = part.mistakes(self._noted.file)
        mistakes.found += self._unread
        around = replace(around, surveyed=part.surveyed)
        mistakes.warnings += self._noted.warnings
        try:
            return resolve_among(self._models, part.spec, around, mistakes)
        except SpecError as error:
            known = {problem.where for problem in self._noted.found}
            new = [one for one in error.problems if one.where not in known]
            self._noted.found += new
            return None

    def _filled(self, stage: Stage) -> Iterator[Stage]:
        """Yield the stage with usual stand-ins, then with the smallest and largest."""
        choices = {name: self._stand_ins[one.stage] for name, one in stage.take.items()}
        for size in range(max(map(len, choices.values()), default=1)):
            taken = {
                name: Taken(recipes[min(size, len(recipes) - 1)])
                for name, recipes in choices.items()
            }
            yield replace(stage, taken=taken)

    def _check_layers(self, part: Part, stage: Stage) -> None:
        """Note stacks of any order that would be merged layer by layer."""
        for name, take in stage.take.items():
            if take.stage in self._moved and _merges(part.spec, name):
                self._noted.add(
                    f"{part.places['take']}.{name}",
                    "expected a stage that keeps layers in their places: those of "
                    f"{take.stage!r} may come in any order and number, and here they "
                    "would be merged with other layers one by one. Name its stacks "
                    "in flow.sources alone.",
                )


def _merges(spec: StudySpec, name: str) -> bool:
    """Tell whether a space merges the layers of a source one by one."""
    space = spec.space
    if space.flow is not None and not space.operator:
        return False
    return space.base == name or not space.experts or name in space.experts


def _stand_ins(study: ResolvedStudy) -> Iterator[Recipe]:
    """Yield what the search begins with, and the smallest and largest of its kind."""
    usual = study.blueprint.recipe(study.space.start())
    yield usual
    if isinstance(study.blueprint, FlowBlueprint):
        stock = study.blueprint.flow.stock
        if stock.shallowest < stock.deepest:
            longest = usual.slots + usual.slots[-1:] * stock.deepest
            for depth in (stock.shallowest, stock.deepest):
                yield replace(usual, slots=longest[:depth])


def _stage_of(study: ResolvedStudy) -> Stage:
    return Stage.from_json(study.config["stage"])
