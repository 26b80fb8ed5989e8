"""The typed Python API; every command of the CLI calls one function of it.

In Python: ``run`` a study, or ``load`` it by name; ``Study`` does the rest. Below that,
searching: ``prepare`` or ``take_up`` a study, then ``search``, then ``following`` for
the next stage, if there are stages. Reading: ``status``, ``stages``, ``front``,
``trials``, ``show``, ``scan``. Writing models: ``export``, ``merge``. Recipe files:
``convert_recipe``, ``convert_study``. Around it: ``init``, ``check``, ``compare``,
``doctor``, ``zoo``, ``real_zoo``, ``convert_gguf``. Databases: ``studies``,
``attempts``, ``delete``, ``upgrade``, ``audit``. A name is loaded when it is first
asked for, so importing this module loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge import extras

if TYPE_CHECKING:  # what the table below says, for type checkers
    from evomerge.api.checking import CheckReport as CheckReport
    from evomerge.api.checking import check as check
    from evomerge.api.drafting import Beginning as Beginning
    from evomerge.api.drafting import Begun as Begun
    from evomerge.api.drafting import init as init
    from evomerge.api.health import EngineCheck as EngineCheck
    from evomerge.api.health import Finding as Finding
    from evomerge.api.health import doctor as doctor
    from evomerge.api.housekeeping import AttemptRow as AttemptRow
    from evomerge.api.housekeeping import Audit as Audit
    from evomerge.api.housekeeping import PartRow as PartRow
    from evomerge.api.housekeeping import Removal as Removal
    from evomerge.api.housekeeping import StudyRow as StudyRow
    from evomerge.api.housekeeping import Upgrade as Upgrade
    from evomerge.api.housekeeping import attempts as attempts
    from evomerge.api.housekeeping import audit as audit
    from evomerge.api.housekeeping import delete as delete
    from evomerge.api.housekeeping import removal as removal
    from evomerge.api.housekeeping import studies as studies
    from evomerge.api.housekeeping import upgrade as upgrade
    from evomerge.api.making import convert_gguf as convert_gguf
    from evomerge.api.making import real_zoo as real_zoo
    from evomerge.api.means import Means as Means
    from evomerge.api.models.comparing import Compared as Compared
    from evomerge.api.models.comparing import compare as compare
    from evomerge.api.models.exporting import Export as Export
    from evomerge.api.models.exporting import Exported as Exported
    from evomerge.api.models.exporting import export as export
    from evomerge.api.models.exporting import zoo as zoo
    from evomerge.api.models.recipes import Conversion as Conversion
    from evomerge.api.models.recipes import RecipeForm as RecipeForm
    from evomerge.api.models.recipes import convert_recipe as convert_recipe
    from evomerge.api.models.recipes import convert_study as convert_study
    from evomerge.api.models.recipes import merge as merge
    from evomerge.api.preparing import following as following
    from evomerge.api.preparing import prepare as prepare
    from evomerge.api.preparing import take_up as take_up
    from evomerge.api.results.progress import StageRow as StageRow
    from evomerge.api.results.progress import stages as stages
    from evomerge.api.results.reading import Best as Best
    from evomerge.api.results.reading import FrontRow as FrontRow
    from evomerge.api.results.reading import Status as Status
    from evomerge.api.results.reading import TrialRow as TrialRow
    from evomerge.api.results.reading import front as front
    from evomerge.api.results.reading import status as status
    from evomerge.api.results.reading import trials as trials
    from evomerge.api.results.showing import Shown as Shown
    from evomerge.api.results.showing import show as show
    from evomerge.api.running import Prepared as Prepared
    from evomerge.api.running import RunReport as RunReport
    from evomerge.api.running import Where as Where
    from evomerge.api.running import search as search
    from evomerge.api.scanning import Block as Block
    from evomerge.api.scanning import Scan as Scan
    from evomerge.api.scanning import scan as scan
    from evomerge.api.study import Study as Study
    from evomerge.api.study import load as load
    from evomerge.api.study import run as run
    from evomerge.core.study import Budget as Budget
    from evomerge.specs.mergekit.evolve import ConvertedStudy as ConvertedStudy
    from evomerge.specs.mergekit.evolve import EvolveOptions as EvolveOptions

_NAMES = {
    "evomerge.api.checking": ("CheckReport", "check"),
    "evomerge.api.models.comparing": ("Compared", "compare"),
    "evomerge.api.drafting": ("Beginning", "Begun", "init"),
    "evomerge.api.models.exporting": ("Export", "Exported", "export", "zoo"),
    "evomerge.api.health": ("EngineCheck", "Finding", "doctor"),
    "evomerge.api.housekeeping": (
        "AttemptRow",
        "PartRow",
        "Audit",
        "Removal",
        "StudyRow",
        "Upgrade",
        "attempts",
        "audit",
        "delete",
        "removal",
        "studies",
        "upgrade",
    ),
    "evomerge.api.making": ("convert_gguf", "real_zoo"),
    "evomerge.api.means": ("Means",),
    "evomerge.api.preparing": ("following", "prepare", "take_up"),
    "evomerge.api.results.progress": ("StageRow", "stages"),
    "evomerge.api.results.reading": (
        "Best",
        "FrontRow",
        "Status",
        "TrialRow",
        "front",
        "status",
        "trials",
    ),
    "evomerge.api.models.recipes": (
        "Conversion",
        "RecipeForm",
        "convert_recipe",
        "convert_study",
        "merge",
    ),
    "evomerge.api.running": ("Prepared", "RunReport", "Where", "search"),
    "evomerge.api.scanning": ("Block", "Scan", "scan"),
    "evomerge.api.results.showing": ("Shown", "show"),
    "evomerge.api.study": ("Study", "load", "run"),
    "evomerge.core.study": ("Budget",),
    "evomerge.specs.mergekit.evolve": ("ConvertedStudy", "EvolveOptions"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evomerge.steps import step  # costs --help milliseconds

    with (
        step("loading"),
        extras.named(),
    ):  # the light client has this module and nothing below it
        found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
