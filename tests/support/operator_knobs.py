"""Knobs of every operator that merges models, as tests share them.

What tests share is compiled once: a loop is compiled anew for other element types,
another number of inputs, and other knobs that it has no need to look at.
"""

from evomerge.core.digest import Scalar

WEIGHT = (0.25, 0.5, -0.5)
POSITIVE = (0.25, 0.5, 1.0)
DENSITY = (0.3, 0.6, 1.0)
GAMMA = (0.1,) * 3

KNOBS: dict[str, dict[str, Scalar | tuple[Scalar, ...]]] = {
    "linear": {"weight": (0.2, 0.5, 0.3)},
    "task_arithmetic": {"weight": WEIGHT, "lambda_": 0.75},
    "ties": {"weight": POSITIVE, "density": DENSITY, "lambda_": 0.75},
    "dare_linear": {"weight": WEIGHT, "density": DENSITY},
    "dare_ties": {"weight": POSITIVE, "density": DENSITY},
    "slerp": {"t": 0.3},
    "nuslerp": {"t": 0.3},
    "multislerp": {"weight": (0.2, 0.5, 0.3)},
    "karcher": {"weight": (0.2, 0.5, 0.3)},
    "tsv": {"weight": WEIGHT, "lambda_": 0.75},
    "iso_c": {"weight": WEIGHT, "lambda_": 0.75},
    "iso_cts": {"weight": WEIGHT, "lambda_": 0.75},
    "knots": {"weight": POSITIVE, "density": DENSITY},
    "wudi": {"weight": (0.2, 0.5, 0.3), "lambda_": 0.75},
    "breadcrumbs": {"weight": WEIGHT, "density": DENSITY, "gamma": GAMMA},
    "breadcrumbs_ties": {"density": DENSITY, "gamma": (0.3, 0.2, 0.1)},
    "della": {"weight": POSITIVE, "density": DENSITY},
    "della_linear": {"weight": WEIGHT, "density": DENSITY},
    "mixout": {"p": 0.4},
    "model_stock": {},
    "bcwi": {"alpha": 0.3},
    "sce": {"select_topk": 0.5},
    "magmax": {},
    "ram": {"epsilon": 0.125},
    "ramplus_tl": {"epsilon": 0.125},
    "pcb": {"weight": (0.5, 1.2, 2.0), "r": 0.3},
    "consensus": {"lambda_t": 0.6},
    "emr": {},
    "arcee_fusion": {},
    "nearswap": {"t": 0.25},
    "staged": {"weight": WEIGHT},
    "core_space": {"weight": WEIGHT},
}
"""Distinct knobs for three inputs, or for as many as an operator takes."""
