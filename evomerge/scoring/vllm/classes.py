"""vLLM's classes of models that see, for their text alone, without torchvision.

vLLM's classes of such models import transformers' image processors, and those import
torchvision, before anybody has shown them an image. Where it is not installed, they are
imported with placeholders in its place, which raise where they would be used. vLLM is
told to serve text only anyhow: it builds no tower and asks for no processor.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vllm import ModelRegistry
from vllm.model_executor.models.registry import _LazyRegisteredModel

_ABSENT = "torchvision"


class _Kind(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Placeholder(metaclass=_Kind):
    """Stands for whatever a module that is not installed would have given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Refuse to be used.

        Raises:
            ModuleNotFoundError: Always.
        """
        raise ModuleNotFoundError(
            f"{_ABSENT} is not installed, so this engine serves text only; use "
            "engine.kind: hf for images."
        )


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder


class _Placeholders(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_absent = name.partition(".")[0] == _ABSENT
        return ModuleSpec(name, self, is_package=True) if is_absent else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""


@contextmanager
def placeholders() -> Iterator[None]:
    """Let torchvision be imported for as long as this lasts, and be of no use."""
    from transformers.utils import import_utils

    # What is asked for once is remembered: it is not there.
    import_utils.is_torchvision_available()
    import_utils.is_torchvision_v2_available()
    finder = _Placeholders()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] == _ABSENT]:
            del sys.modules[name]


class _WithoutImages(_LazyRegisteredModel):
    """A class of vLLM's registry that is imported with placeholders if need be."""

    def load_model_cls(self) -> type[Any]:
        """Import the class."""
        try:
            return super().load_model_cls()
        except ModuleNotFoundError:
            with placeholders():
                return super().load_model_cls()


def serve_without_torchvision() -> None:
    """Let this process's vLLM import its classes of models that see; idempotent."""
    if importlib.util.find_spec(_ABSENT) is not None:
        return
    known = ModelRegistry.models
    for name, found in known.items():
        if type(found) is _LazyRegisteredModel:
            known[name] = _WithoutImages(found.module_name, found.class_name)
