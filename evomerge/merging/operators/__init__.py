"""What each operator of the catalogue does to tensors.

One file per family, built from stages (sparsify, consensus, reduce, spherical) that are
plain functions on fp32 tensors. Everything is computed in fp32, differences are formed
after both operands are upcast, and nothing depends on the number of threads or on the
order tensors are merged in. Random masks are the same bits on every device.
"""

from evomerge.merging.operators.apply import ARITHMETIC, apply, apply_into

__all__ = ["ARITHMETIC", "apply", "apply_into"]
