"""The same recipe gives the same bytes, however the work is cut and shared out."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from support.single_steps import single_steps

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.merging.devices import on_threads
from evomerge.merging.operators.loops import arrays as parts_of_tensors
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model

N_LAYERS = 2
OPERATORS = (
    *("linear", "ties", "dare_ties", "karcher", "tsv"),
    # Other thinnings of the same merges.
    *(pytest.param(name, marks=pytest.mark.long) for name in ("della", "breadcrumbs")),
)


class Parents:
    def __init__(self, root: Path) -> None:
        # Matrices of 256 x 256 and more: enough for compiled code, and for parts of it.
        size = {"hidden": 256, "n_layers": N_LAYERS, "dtype": "bfloat16"}
        models = {
            name: read_model(tiny_model(root / name, seed=seed, **size))  # type: ignore[arg-type]
            for seed, name in enumerate(("base", "a", "b"))
        }
        self.root = root
        self.paths = {model.fingerprint: model.path for model in models.values()}
        self.prints = {name: model.fingerprint for name, model in models.items()}

    def recipe(self, operator: str) -> Recipe:
        base = None if operator in ("linear", "karcher") else "base"
        operation = Operation(operator, ("a", "b"), base)
        roles = (("*", operation),)
        layers = [tuple((name, i) for name in self.prints) for i in range(N_LAYERS)]
        return Recipe(
            frame="base",
            dtype="bfloat16",
            inputs=tuple((n, Checkpoint(p)) for n, p in self.prints.items()),
            embed=Slot(roles),
            slots=tuple(Slot(roles, fed) for fed in layers),
            head=Slot(roles),
        )

    def interrupt(self, operator: str, name: str) -> None:
        """Begin a merge and stop it half way."""

        def stop(done: int, total: int) -> None:
            if 2 * done > total:
                raise KeyboardInterrupt

        out, recipe = self.root / operator / name, self.recipe(operator)
        with Sources(self.paths) as sources, pytest.raises(KeyboardInterrupt):
            write_model(recipe, sources, out, progress=stop)
        assert not out.exists()

    def digest(self, operator: str, name: str, cache: Path | None = None) -> str:
        """Merge, and name the bytes of the weights."""
        with Sources(self.paths, cache_dir=cache) as sources:
            out = self.root / operator / name
            write_model(self.recipe(operator), sources, out)
        weights = (out / "model.safetensors").read_bytes()
        return hashlib.blake2b(weights).hexdigest()


@contextmanager
def parts(size: int) -> Iterator[None]:
    """Give threads parts of so many entries."""
    with patch.object(parts_of_tensors, "WORTHWHILE", size):
        yield


@pytest.mark.slow  # compiles
@pytest.mark.timeout(300)
@pytest.mark.parametrize("operator", OPERATORS)
def test_one_recipe_one_digest(operator: str, tmp_path: Path) -> None:
    parents = Parents(tmp_path)
    with on_threads(1):
        expected = parents.digest(operator, "one thread")
    found = {}
    with on_threads(4):
        found["four threads"] = parents.digest(operator, "four threads")
        with parts(1 << 13):
            found["small parts"] = parents.digest(operator, "small parts")
    with on_threads(7), parts(3 * parts_of_tensors.BLOCK):
        found["seven threads"] = parents.digest(operator, "seven threads")
    with single_steps():
        found["step by step"] = parents.digest(operator, "step by step")
    parents.interrupt(operator, "begun again")
    found["begun again"] = parents.digest(operator, "begun again")
    cache = tmp_path / "cache"
    for name in ("cold", "warm"):
        found[name] = parents.digest(operator, name, cache)
    assert found == dict.fromkeys(found, expected)
