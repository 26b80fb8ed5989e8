"""evomerge searches for the best way to merge language models.

Start with :mod:`evomerge.api`; the command line is a thin layer over it.
"""

__version__ = "0.1.0"
