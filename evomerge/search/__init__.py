"""The search loop: who gets work, what is recorded, when a strategy is asked and told.

``lifecycle``, ``required_items`` and ``replay`` decide and touch nothing: the first
turns the ``messages`` of workers and store into instructions, which the ``executor``
carries out. ``coordinator`` holds the study through outages of the database; a
``study_run`` is one hold of its lease, and everything it knows was read from the store;
the ``dispatcher`` has the workers, who outlive it.
"""
