"""The search loop: who gets work, what is recorded, when a strategy is asked and told.

``lifecycle``, ``sheet`` and ``replay`` decide and touch nothing. ``coordinator`` holds
the study through outages of the database; a ``tenure`` is one hold of its lease, and
everything it knows was read from the store; the ``dispatcher`` has the workers, who
outlive it.
"""
