"""What can be known of a model folder without loading it.

Configuration, tensor names and shapes, content fingerprint, tensor roles and tokenizer
facts are read here with the standard library alone, so a coordinator on a machine
without torch can check every source before a GPU is touched. Folders come from
strangers: headers, indices and names are checked before they are believed, and pickle
files are never opened.
"""

from evomerge.checkpoints.compatibility import compatibility, remarks
from evomerge.checkpoints.configs.layer_types import LayerType, restacked
from evomerge.checkpoints.fingerprint import remembered
from evomerge.checkpoints.header import HEADER_ALIGNMENT, TensorInfo, read_header
from evomerge.checkpoints.layers.layout import HEAD_WEIGHT, Layout, Place
from evomerge.checkpoints.layers.names import BUFFER
from evomerge.checkpoints.layers.pieces import Piece
from evomerge.checkpoints.model import Model, read_model
from evomerge.checkpoints.tokenizers.tokenizer import TOKENIZER_FILES
from evomerge.checkpoints.weights import INDEX

__all__ = [
    "BUFFER",
    "HEADER_ALIGNMENT",
    "HEAD_WEIGHT",
    "INDEX",
    "LayerType",
    "Layout",
    "Model",
    "Piece",
    "Place",
    "TOKENIZER_FILES",
    "TensorInfo",
    "compatibility",
    "read_header",
    "read_model",
    "remarks",
    "remembered",
    "restacked",
]
