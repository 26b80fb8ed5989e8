"""mergekit-evolve's files, as studies of our own."""

from evomerge.specs.mergekit.evolve.converting import (
    ConvertedStudy,
    EvolveOptions,
    convert_study,
)

__all__ = ["ConvertedStudy", "EvolveOptions", "convert_study"]
