"""mergekit's files, read and written: the semantics of mergekit 0.1.5.

mergekit (Arcee AI, 2403.13257) describes a merge as one method over slices of models,
with settings by layer and by tensor. A file becomes a recipe in which every value is
decided; what mergekit passes over in silence is a warning here.
"""

from evomerge.specs.mergekit.documents import other_file, read_documents_of
from evomerge.specs.mergekit.operations import PROFILES, Profile
from evomerge.specs.mergekit.reading import ReadMerge, is_mergekit, read_mergekit
from evomerge.specs.mergekit.written.writing import WrittenMerge, write_mergekit

__all__ = [
    "PROFILES",
    "Profile",
    "ReadMerge",
    "WrittenMerge",
    "is_mergekit",
    "other_file",
    "read_documents_of",
    "read_mergekit",
    "write_mergekit",
]
