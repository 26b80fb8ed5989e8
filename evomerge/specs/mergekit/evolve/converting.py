"""A configuration of mergekit-evolve as a study file, with what has no equal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints import hub
from evomerge.errors import Problem, SpecError
from evomerge.specs.canonical import yaml_text
from evomerge.specs.mergekit.evolve.genome import Genome, read_genome
from evomerge.specs.mergekit.evolve.schema import EvolveSpec
from evomerge.specs.mergekit.evolve.scoring import Scoring, read_scoring
from evomerge.specs.mergekit.references import ModelPath, Named
from evomerge.specs.reading.lines import placed, placing
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.reading.yamlfile import read_yaml
from evomerge.specs.sources import is_folder

_WIDTH = 88


@dataclass(frozen=True, slots=True)
class EvolveOptions:
    """What mergekit-evolve takes on its command line, with its defaults.

    Attributes:
        max_fevals: Candidates.
        vllm: Score with vLLM, and otherwise with transformers.
        sigma0: First step, in units of a weight.
        random_seed: Here of the whole search.
        timeout_s: Longest the search may take, in seconds.
        population: Candidates of a generation.
        task_paths: Folders with task files.
    """

    max_fevals: int = 100
    vllm: bool = False
    sigma0: float = 1 / 6
    random_seed: int = 0
    timeout_s: float | None = None
    population: int | None = None
    task_paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ConvertedStudy:
    """A study file.

    Attributes:
        text: The file.
        notes: What has no equal, or means something else, with its place.
    """

    text: str
    notes: tuple[Problem, ...]


def convert_study(
    file: Path, beside: Path, options: EvolveOptions | None = None
) -> ConvertedStudy:
    """Turn a configuration of mergekit-evolve into a study file.

    Args:
        file: The configuration.
        beside: Folder that the study file is to lie in: relative paths start there.
        options: The command line.

    Raises:
        SpecError: Carries every mistake of the file.
    """
    options = options or EvolveOptions()
    document = read_yaml(file)
    mistakes = Mistakes(file.name)
    with placing(document):
        if "genome" not in document:
            mistakes.add(
                "",
                "expected a configuration of mergekit-evolve, with genome and tasks, "
                f"got {', '.join(map(str, document)) or 'nothing'}. `evomerge merge` "
                "takes files of merges, `evomerge run` study files.",
            )
            mistakes.stop_if_any()
        spec, problems = validate(EvolveSpec, document, file.name)
        mistakes.found += problems
        if spec is None:
            raise SpecError(mistakes.found)
        named = Named(file, mistakes)
        genome = read_genome(spec.genome, named, mistakes)
        sources = _sources(named, beside, mistakes)
        scoring = read_scoring(spec, options.task_paths, beside, mistakes)
        mistakes.stop_if_any()
    assert genome is not None
    _say_search(scoring, mistakes)
    notes = placed(mistakes.warnings, [document])
    written = {name: sources[name] for name in genome.sources}
    text = _text(file.name, notes, _parts(written, genome, scoring, options))
    return ConvertedStudy(text, notes)


def _sources(named: Named, beside: Path, mistakes: Mistakes) -> dict[str, str]:
    return {
        name: "+".join(_written(part, beside, mistakes) for part in reference.parts)
        for name, reference in named.references.items()
    }


def _written(part: ModelPath, beside: Path, mistakes: Mistakes) -> str:
    folder = Path(part.path).expanduser()
    if is_folder(folder) and part.revision is None:
        return os.path.relpath(folder.absolute(), beside.absolute())
    if hub.parse(str(part)) is None:
        mistakes.add(
            part.path,
            "expected a model folder, from the current one or from the file's, or a "
            "hub id as org/name or org/name@revision; there is none of that name.",
        )
    return str(part)


def _say_search(scoring: Scoring, mistakes: Mistakes) -> None:
    mistakes.warn(
        "genome",
        "has no bounds in mergekit-evolve; here weights end at 2, densities begin at "
        "0.001, and values are rounded to a thousandth of their range. Parents and "
        "their plain average are scored first, free of charge.",
    )
    if len(scoring.objectives) > 1:
        mistakes.warn("tasks", "give two objectives, which COMO-CatCMA searches.")


def _parts(
    sources: Mapping[str, str],
    genome: Genome,
    scoring: Scoring,
    options: EvolveOptions,
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the study in parts, each with a comment above it."""
    frame = {} if genome.frame is None else {"frame": genome.frame}
    words = {} if genome.vocabulary is None else {"vocabulary": genome.vocabulary}
    kind = "cma" if len(scoring.objectives) == 1 else "comocatcma"
    strategy: dict[str, Any] = {"kind": kind}
    if options.population is not None:
        strategy["generation_size"] = options.population
    sigma = round(options.sigma0 * genome.spread, 6)
    strategy["options"] = {"sigma": sigma}
    budget: dict[str, Any] = {"trials": options.max_fevals}
    if options.timeout_s is not None:
        budget["seconds"] = options.timeout_s
    return [
        (
            "The models; relative paths start at this file.",
            {"sources": dict(sources), **frame, **words, "dtype": "bfloat16"},
        ),
        (
            "What is merged, as mergekit does it, and what is searched.",
            {"space": genome.space},
        ),
        ("What candidates are tested on.", {"tasks": dict(scoring.tasks)}),
        ("What is wanted of them.", {"objectives": list(scoring.objectives)}),
        (
            f"CMA-ES; its first step is {options.sigma0:.4g} of a gene.",
            {"strategy": strategy, "seed": options.random_seed},
        ),
        (
            "`vllm` keeps one engine and is much faster; `hf` is plain transformers.",
            {"engine": {"kind": "vllm" if options.vllm else "hf"}},
        ),
        ("When to stop.", {"budget": budget}),
    ]


def _text(
    name: str, notes: Sequence[Problem], parts: Sequence[tuple[str, Mapping[str, Any]]]
) -> str:
    lines = _comment(f"Made from {name}, a configuration of mergekit-evolve.")
    if notes:
        lines += _comment("What has no equal there or here, or differs:")
    for note in notes:
        lines += _comment(f"* {note}", "    ")
    for said, data in parts:
        lines += ["", *_comment(said), yaml_text(data).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="#" + indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
