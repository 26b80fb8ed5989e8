"""A study file's model to a study with every question answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.checkpoints import Model
from evomerge.core.recipe import Checkpoint, Input, Recipe
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.work import EngineSettings
from evomerge.errors import SpecError
from evomerge.specs.filling import filled
from evomerge.specs.flow_planner import plan_open_space
from evomerge.specs.generation_zero import GenerationZero
from evomerge.specs.keys import did_you_mean
from evomerge.specs.measured import Measured, tasks_of
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.mixing import check_mixing, merged_sources
from evomerge.specs.planned import PlannedSpace, Setting
from evomerge.specs.resolved import Baseline, ResolvedStudy
from evomerge.specs.room import engine_of, facts_of
from evomerge.specs.sources import common_layers, open_sources
from evomerge.specs.stored import allowance_of, config_of
from evomerge.specs.study import StudySpec
from evomerge.specs.vocabulary import check_source, settle

Judge = Callable[[StrategySettings, SearchSpace, int], list[str]]
"""Lists what is wrong with a strategy, given the space and the number of objectives."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a study is resolved.

    Attributes:
        base_dir: Where relative paths start; None if no file is to be read.
        file: Name of the study file, for messages.
        cache_dir: Where fingerprints are remembered, if anywhere.
        recipes: Recipes of starts by name, where they are known without their files.
        judge: Says what is wrong with a choice of strategy.
    """

    base_dir: Path | None
    file: str = "study file"
    cache_dir: Path | None = None
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    judge: Judge | None = None


def resolve(
    spec: StudySpec,
    *,
    base_dir: str | Path,
    file: str = "study file",
    cache_dir: str | Path | None = None,
    judge: Judge | None = None,
) -> ResolvedStudy:
    """Answer every question a study file leaves open, and check it with its sources.

    Args:
        spec: The study.
        base_dir: Where relative paths start: the study file's folder.
        file: Its name, for messages.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        judge: Says what is wrong with a choice of strategy, given the space and the
            number of objectives; its words are reported with all other mistakes.

    Raises:
        SpecError: Carries every mistake found.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    return resolve_at(spec, Surroundings(Path(base_dir), file, cache, judge=judge))


def resolve_at(spec: StudySpec, around: Surroundings) -> ResolvedStudy:
    """Do the work of ``resolve``, for surroundings put together by the caller."""
    mistakes = Mistakes(around.file)
    models = open_sources(
        spec.sources, around.base_dir or Path(), mistakes, cache_dir=around.cache_dir
    )
    return _Resolver(spec, around, mistakes, models).study()


def check_names(spec: StudySpec, mistakes: Mistakes) -> None:
    """Note everything that can be seen to be wrong without reading a source."""
    around = Surroundings(None, mistakes.file)
    _Resolver(spec, around, mistakes, {}).look()


@dataclass(frozen=True, slots=True)
class _Parts:
    spec: StudySpec
    setting: Setting
    planned: PlannedSpace[Blueprint]
    measured: Measured
    baselines: tuple[Baseline, ...]


class _Resolver:
    def __init__(
        self,
        spec: StudySpec,
        around: Surroundings,
        mistakes: Mistakes,
        models: Mapping[str, Model],
    ) -> None:
        self._around = around
        self._mistakes = mistakes
        self._models = models
        self._spec = filled(spec, models)

    def look(self) -> _Parts | None:
        """Put everything together and note every mistake."""
        spec = self._spec
        self._check_sources()
        setting = self._setting()
        measured = Measured(spec, self._mistakes)
        once = tuple(dict.fromkeys(spec.space.experts))
        space = spec.space.model_copy(update={"experts": once})
        planned = plan_open_space(space, setting, "space", self._mistakes)
        baselines: tuple[Baseline, ...] = ()
        if planned is not None and not self._has_strange_sources():
            if not planned.is_guess:
                self._check_strategy(planned, measured)
            zero = GenerationZero(
                spec,
                setting,
                planned,
                self._around.base_dir,
                self._around.recipes,
                self._mistakes,
            )
            baselines = zero.baselines()
        labels = {b.label for b in baselines} or set(spec.sources)
        measured.constraints(spec, labels)
        if planned is None:
            return None
        return _Parts(spec, setting, planned, measured, baselines)

    def study(self) -> ResolvedStudy:
        """Return the study.

        Raises:
            SpecError: Carries every mistake found.
        """
        parts = self.look()
        self._mistakes.stop_if_any()
        if parts is None:
            raise SpecError(self._mistakes.found)
        spec, setting = parts.spec, parts.setting
        engine = self._engine(parts)
        labels = [baseline.label for baseline in parts.baselines]
        constraints = parts.measured.constraints(spec, labels)
        tasks = tasks_of(spec)
        others = [name for name in _by_use(spec) if name != setting.frame]
        return ResolvedStudy(
            name=spec.name,
            seed=spec.seed,
            space=parts.planned.space,
            blueprint=parts.planned.blueprint,
            objectives=parts.measured.objectives,
            constraints=constraints,
            tasks=tasks,
            engine=engine,
            sources=self._models,
            inputs={name: setting.inputs[name] for name in self._models},
            frame=setting.frame,
            probe=_probe(others, setting.inputs),
            dtype=setting.dtype,
            baselines=parts.baselines,
            strategy=_strategy(spec),
            workers=None if spec.workers == "auto" else spec.workers,
            timeout_s=spec.timeout_s,
            budget=Budget(
                spec.budget.trials, spec.budget.items, spec.budget.total_seconds
            ),
            n_blocks=sum(task.n_blocks for task in tasks),
            config=config_of(spec, self._models, parts.planned.space, parts.baselines),
            allowance=allowance_of(spec, self._models, self._around.file),
        )

    def _setting(self) -> Setting:
        spec = self._spec
        # Names stand in for fingerprints that cannot be read; nothing of that is kept.
        inputs: dict[str, Input] = {name: Checkpoint(name) for name in spec.sources}
        inputs |= settle(
            self._models,
            spec.vocabulary,
            base=spec.space.base,
            frame=str(spec.frame),
            mistakes=self._mistakes,
            same_depth=spec.space.flow is None,
        )
        check_mixing(spec.space, self._models, str(spec.frame), self._mistakes)
        merged = merged_sources(spec.space)
        return Setting(
            inputs=inputs,
            n_layers=common_layers(
                {n: m for n, m in self._models.items() if n in merged} or self._models
            ),
            frame=str(spec.frame),
            dtype=str(spec.dtype),
            seed=spec.seed,
            depths={name: model.n_layers for name, model in self._models.items()},
        )

    def _engine(self, parts: _Parts) -> EngineSettings:
        """Return the engine's settings.

        Raises:
            SpecError: It cannot run the candidates.
        """
        spec, setting = parts.spec, parts.setting
        facts = facts_of(
            parts.planned.blueprint,
            parts.baselines,
            self._models,
            frame=setting.frame,
            dtype=spec.engine.dtype or setting.dtype,
        )
        engine = engine_of(spec.engine, facts, setting.dtype, self._mistakes)
        self._mistakes.stop_if_any()
        return engine

    def _named(self) -> list[tuple[str, str]]:
        """Return every place that names a source, with the name."""
        space = self._spec.space
        out = [(f"space.experts.{i}", name) for i, name in enumerate(space.experts)]
        if space.base is not None:
            out.append(("space.base", space.base))
        return [*out, ("frame", str(self._spec.frame))]

    def _has_strange_sources(self) -> bool:
        return any(name not in self._spec.sources for _, name in self._named())

    def _check_sources(self) -> None:
        known = list(self._spec.sources)
        strange: set[str] = set()
        for key, name in self._named():
            if name not in known and name not in strange:
                strange.add(name)
                self._mistakes.add(
                    key, f"unknown source {name!r}{did_you_mean(name, known)}"
                )
        check_source(self._spec.vocabulary, known, self._mistakes)
        experts = self._spec.space.experts
        for i, name in enumerate(experts):
            if name in experts[:i]:
                self._mistakes.add(
                    f"space.experts.{i}",
                    f"expected each expert once, got {name!r} again.",
                )

    def _check_strategy(
        self, planned: PlannedSpace[Blueprint], measured: Measured
    ) -> None:
        if not self._mistakes.any_at("space") and not planned.space.axes:
            self._mistakes.add(
                "space.knobs",
                "expected at least one open choice, got none; write `search`, or a "
                "mapping with low and high, for a knob.",
            )
        if self._around.judge is None:
            return
        said = self._around.judge(
            _strategy(self._spec), planned.space, len(measured.objectives)
        )
        if said:
            self._mistakes.add("strategy", "; ".join(said) + ".")


def _strategy(spec: StudySpec) -> StrategySettings:
    written = spec.strategy
    return StrategySettings(written.kind, written.generation_size, written.options)


def _by_use(spec: StudySpec) -> list[str]:
    """Return the sources, those that are merged first."""
    return list(dict.fromkeys((*spec.space.experts, *sorted(spec.sources))))


def _probe(others: Sequence[str], inputs: Mapping[str, Input]) -> str | None:
    """Return which source the self-test swaps in: best one that is a folder as is."""
    plain = [name for name in others if isinstance(inputs[name], Checkpoint)]
    return next(iter((*plain, *others)), None)
