"""The search loop: who gets work, what is recorded, when a strategy is asked and told.

``lifecycle`` and ``replay`` decide and touch nothing; ``coordinator`` is the only
place with effects, and has three collaborators: a store, a pool and a strategy.
"""
