"""What every store must do, as tests."""

from __future__ import annotations

from evomerge.testing.store_outcomes import OutcomeContract
from evomerge.testing.store_studies import StudyContract
from evomerge.testing.store_trials import TrialContract


class StoreContract(StudyContract, TrialContract, OutcomeContract):
    """Inherit, and give a fixture ``url`` that names a fresh database."""
