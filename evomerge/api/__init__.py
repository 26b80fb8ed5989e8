"""The typed Python API; every command of the CLI calls one function of it.

Searching: ``prepare`` or ``take_up`` a study, then ``search``, then ``following`` for
the next stage, if there are stages. Reading: ``status``,
``stages``, ``front``, ``trials``. Writing models: ``export``, ``merge``. Recipe files:
``convert_recipe``. Around it: ``check``, ``doctor``, ``zoo``. Databases: ``studies``,
``attempts``, ``delete``, ``upgrade``, ``audit``. Importing this module loads no heavy
library; functions load what they need.
"""

from evomerge.api.checking import CheckReport, check
from evomerge.api.exporting import Export, Exported, export, zoo
from evomerge.api.health import EngineCheck, Finding, doctor
from evomerge.api.housekeeping import (
    AttemptRow,
    Audit,
    Removal,
    StudyRow,
    Upgrade,
    attempts,
    audit,
    delete,
    removal,
    studies,
    upgrade,
)
from evomerge.api.merging import Means, merge
from evomerge.api.placing import Prepared, Where
from evomerge.api.preparing import following, prepare, take_up
from evomerge.api.progress import StageRow, stages
from evomerge.api.reading import Best, FrontRow, Status, TrialRow, front, status, trials
from evomerge.api.recipes import Conversion, convert_recipe
from evomerge.api.recipes import Form as RecipeForm
from evomerge.api.running import RunReport, search
from evomerge.core.study import Budget

__all__ = [
    "AttemptRow",
    "Audit",
    "Best",
    "Budget",
    "CheckReport",
    "Conversion",
    "EngineCheck",
    "Export",
    "Exported",
    "Finding",
    "FrontRow",
    "Means",
    "Prepared",
    "RecipeForm",
    "Removal",
    "RunReport",
    "StageRow",
    "Status",
    "StudyRow",
    "TrialRow",
    "Upgrade",
    "Where",
    "attempts",
    "audit",
    "check",
    "convert_recipe",
    "delete",
    "doctor",
    "export",
    "following",
    "front",
    "merge",
    "prepare",
    "removal",
    "search",
    "stages",
    "status",
    "studies",
    "take_up",
    "trials",
    "upgrade",
    "zoo",
]
