"""Whether a strategy has become too slow for the study it serves."""

SLOW_SHARE = 0.2
"""Share of a generation's scoring time that asking for it may take."""
NOTICED_S = 0.5
"""Below this nobody minds, however fast the scoring."""


def is_outgrown(asked_s: float, n_candidates: int, trial_s: float) -> bool:
    """Tell whether asking holds the search up.

    Args:
        asked_s: Seconds it took to ask for a generation.
        n_candidates: Candidates in it.
        trial_s: Wall seconds a trial takes, over all workers together.
    """
    return asked_s > max(NOTICED_S, SLOW_SHARE * trial_s * n_candidates)
