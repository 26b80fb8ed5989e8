"""A study file's model to a study with every question answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.configs.families import gives_reward
from evomerge.core.recipes.recipe import Checkpoint, Input
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import Budget, Sampling, StrategySettings
from evomerge.core.survey import IMAGE_ENGINE, no_images
from evomerge.core.work import EngineSettings
from evomerge.errors import SpecError
from evomerge.specs.completing.context import Judge, Surroundings
from evomerge.specs.completing.engine_options import option_mistakes
from evomerge.specs.completing.engine_sizes import engine_of, facts_of
from evomerge.specs.completing.generation_zero import GenerationZero, begun_at
from evomerge.specs.completing.measures import Measured, asked_of, tasks_of
from evomerge.specs.completing.source_names import (
    check_sources,
    filled,
    has_strange_sources,
)
from evomerge.specs.completing.stage import Part, composed_among, take_in
from evomerge.specs.misfits import check_mixing, merged_sources, note_unscored
from evomerge.specs.persistence import (
    CUT_VERSION,
    LATER,
    allowance_of,
    config_of,
    groups_to_json,
)
from evomerge.specs.planning.flow_planner import plan_open_space
from evomerge.specs.planning.planned import PlannedSpace, Setting
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.resolved import Baseline, ResolvedStudy
from evomerge.specs.schema.measures import FINALISTS
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import common_layers, open_sources
from evomerge.specs.vocabulary import settle

_TAKEN = "an earlier stage"
"""Stands for the folder of a source that has none."""


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
    stage = around.stage
    places = {} if stage is None else {"take": f"stages.{stage.number}.take"}
    mistakes = Mistakes(around.file, places=places)
    mistakes.unknown = spec.space.unknown is not None
    models = open_sources(
        spec.sources,
        around.base_dir or Path(),
        mistakes,
        cache_dir=around.cache_dir,
        statistics=spec.statistics,
    )
    return resolve_among(models, spec, around, mistakes)


def resolve_among(
    models: Mapping[str, Model],
    spec: StudySpec,
    around: Surroundings,
    mistakes: Mistakes,
) -> ResolvedStudy:
    """Do the same among sources that are open.

    Args:
        models: Those that could be read, in order of their names.
        spec: The study.
        around: Where it is resolved.
        mistakes: Where to note what is wrong.

    Raises:
        SpecError: Carries every mistake found.
    """
    return _Resolver(spec, around, mistakes, models).study()


def check_names(part: Part, mistakes: Mistakes, judge: Judge | None = None) -> None:
    """Note everything that can be seen to be wrong without reading a source."""
    around = Surroundings(
        None, mistakes.file, stage=part.stage, surveyed=part.surveyed, judge=judge
    )
    _Resolver(part.spec, around, mistakes, {}).look()


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
        self._around, self._mistakes, self._models = around, mistakes, models
        mistakes.allow = around.allowed(spec.allow)
        self._stage = around.stage
        taken = {} if around.stage is None else around.stage.recipes
        # A taken recipe is a source like any other, but in no folder.
        self._all = {**models, **composed_among(taken, models)}
        if around.stage is not None:
            names = dict.fromkeys(around.stage.take, _TAKEN)
            spec = spec.model_copy(update={"sources": {**spec.sources, **names}})
        self._spec = filled(spec, models, taken)

    def look(self) -> _Parts | None:
        """Put everything together and note every mistake."""
        spec = self._spec
        check_sources(spec, self._mistakes)
        for warning in self._around.surveyed.warnings:
            self._mistakes.warn(f"tasks.{warning.where}", warning.message)
        setting = self._setting()
        measured = Measured(spec, self._mistakes, self._around.surveyed.facts)
        once = tuple(dict.fromkeys(spec.space.experts))
        space = spec.space.model_copy(update={"experts": once})
        planned = plan_open_space(space, setting, "space", self._mistakes)
        baselines: tuple[Baseline, ...] = ()
        self._check_strategy(planned)
        self._check_engine()
        self._check_images()
        if planned is not None and not has_strange_sources(spec):
            zero = GenerationZero(
                spec,
                setting,
                planned,
                self._around.base_dir,
                self._around.recipes,
                self._mistakes,
            )
            baselines = zero.baselines()
            if not planned.is_guess:
                begun = begun_at(planned.space, spec.start)
                planned = replace(planned, space=begun)
        labels = {b.label for b in baselines} or set(spec.sources)
        measured.constraints(spec, labels)
        if planned is None:
            return None
        spec = spec.model_copy(update={"objectives": measured.written})
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
        goals = (*parts.measured.objectives, *(c.objective for c in constraints))
        tasks = asked_of(
            tasks_of(spec, self._around.surveyed.members, self._around.cut), goals
        )
        others = [
            name
            for name in _by_use(spec)
            if name != setting.frame and name in self._models
        ]
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
            start_patience_s=spec.start_patience_s,
            budget=Budget(
                spec.budget.trials, spec.budget.items, spec.budget.total_seconds
            ),
            sampling=_sampling(spec),
            n_blocks=sum(task.n_blocks for task in tasks),
            config=self._config(parts),
            allowance={
                **allowance_of(spec, self._models, self._around.file),
                **({LATER: list(self._around.later)} if self._around.later else {}),
            },
            warnings=tuple(self._mistakes.warnings),
            items=self._around.surveyed.items,
            image_tasks=self._image_tasks(),
        )

    def _config(self, parts: _Parts) -> dict[str, Any]:
        version, space = self._around.recipe_version, parts.planned.space
        config = config_of(parts.spec, self._models, space, parts.baselines, version)
        if self._around.cut > 1:
            config[CUT_VERSION] = self._around.cut
        if self._stage is not None:
            config["stage"] = self._stage.to_json()
        if groups := self._around.surveyed.members:
            config["groups"] = groups_to_json(groups)
        return config

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
        if self._stage is not None:
            inputs |= take_in(
                self._stage,
                self._all,
                inputs,
                frame=str(spec.frame),
                same_depth=spec.space.flow is None,
                mistakes=self._mistakes,
            )
        check_mixing(spec.space, self._all, str(spec.frame), self._mistakes)
        merged = merged_sources(spec.space)
        return Setting(
            inputs=inputs,
            n_layers=common_layers(
                {n: m for n, m in self._all.items() if n in merged} or self._all
            ),
            frame=str(spec.frame),
            dtype=str(spec.dtype),
            seed=spec.seed,
            models=self._all,
            version=self._around.recipe_version,
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
            self._all,
            frame=setting.frame,
            dtype=spec.engine.dtype or setting.dtype,
        )
        frame = self._all[setting.frame]
        engine = engine_of(
            spec.engine, facts, setting.dtype, self._mistakes, frame=frame
        )
        self._mistakes.stop_if_any()
        return engine

    def _check_engine(self) -> None:
        """Note arguments that vLLM does not take; of a recorded study it says so."""
        engine = self._spec.engine
        if engine.kind == "vllm" and not self._around.accepted:
            for name, said in option_mistakes(engine.options):
                self._mistakes.add(f"engine.options.{name}", said)
        frame = self._all.get(str(self._spec.frame))
        if frame is not None and not self._around.accepted:
            key, kind = f"sources.{self._spec.frame}", self._spec.engine.kind
            note_unscored(frame, kind, key, self._mistakes)
            if kind == "hf":
                self._check_rewards(frame)

    def _check_rewards(self, frame: Model) -> None:
        rates = gives_reward(frame.config)
        for name, facts in self._around.surveyed.facts.items():
            if facts.rewards is not rates and name in self._spec.tasks:
                wanted, got = "a task of rewards, as `preference`", "a reward model"
                if facts.rewards:
                    wanted, got = "a task of tokens", "a model that gives tokens"
                said = f"expected {wanted}: sources.{self._spec.frame} is {got}."
                self._mistakes.add(f"tasks.{name}", said)

    def _check_images(self) -> None:
        kind = self._spec.engine.kind
        if kind == IMAGE_ENGINE or self._around.accepted:
            return
        for name in self._image_tasks():
            self._mistakes.add(f"tasks.{name}", f"{no_images(kind)}.")

    def _image_tasks(self) -> tuple[str, ...]:
        facts = self._around.surveyed.facts
        return tuple(n for n in self._spec.tasks if n in facts and facts[n].images)

    def _check_strategy(self, planned: PlannedSpace[Blueprint] | None) -> None:
        space = SearchSpace(())
        is_known = planned is not None and not has_strange_sources(self._spec)
        if planned is not None and is_known and not planned.is_guess:
            space = planned.space
            if not self._mistakes.any_at("space") and not space.axes:
                self._mistakes.add(
                    "space.knobs",
                    "expected at least one open choice, got none; write `search`, or "
                    "a mapping with low and high, for a knob.",
                )
        if self._around.judge is None:
            return
        n_objectives = len(self._spec.objectives) or 1
        is_sampled = self._spec.items.share is not None
        said = self._around.judge(
            _strategy(self._spec), space, n_objectives, is_sampled
        )
        if said:
            self._mistakes.add("strategy", "; ".join(said) + ".")


def _strategy(spec: StudySpec) -> StrategySettings:
    written = spec.strategy
    return StrategySettings(written.kind, written.generation_size, written.options)


def _sampling(spec: StudySpec) -> Sampling | None:
    share, finalists = spec.items.share, spec.items.finalists
    return None if share is None else Sampling(share, finalists or FINALISTS)


def _by_use(spec: StudySpec) -> list[str]:
    """Return the sources, those that are merged first."""
    return list(dict.fromkeys((*spec.space.experts, *sorted(spec.sources))))


def _probe(others: Sequence[str], inputs: Mapping[str, Input]) -> str | None:
    """Return which source the self-test swaps in: best one that is a folder as is."""
    plain = [name for name in others if isinstance(inputs[name], Checkpoint)]
    return next(iter((*plain, *others)), None)
