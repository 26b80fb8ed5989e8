"""What was scored is what is exported: a living stack and its folder, loaded anew."""

from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.checkpoints import read_model
from evomerge.core.work import WorkerSetup
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.scoring.engines import open_engine
from evomerge.testing.stacked import FAMILIES, STACKS, Answers, Family, Stack

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

FOLDED = {"float32": 1e-3, "bfloat16": 1.0}
"""How far folded scales may lie off: other numbers are rounded."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_exported_stack_answers_as_the_living_engine_did(
    tmp_path: Path, name: str, dtype: str
) -> None:
    family = Family(tmp_path, name, dtype).write()
    engine = open_engine(family.setup("vllm"))
    living = {}
    for about, stack in STACKS.items():
        engine.swap(family.recipe(stack))
        living[about] = Answers.of_engine(engine)
    engine.close()
    for about, stack in STACKS.items():
        cold = open_engine(_export(family, stack, tmp_path / about.replace(" ", "_")))
        fresh = Answers.of_engine(cold)
        cold.close()
        difference = fresh.difference(living[about])
        print(f"{name} {dtype}, {about}: {difference:.2g} from the folder")  # noqa: T201
        if not stack.is_scaled:
            assert fresh == living[about], about
        assert difference <= FOLDED[dtype]
        if dtype == "float32":
            assert fresh.texts == living[about].texts


def _export(family: Family, stack: Stack, folder: Path) -> WorkerSetup:
    setup = family.setup("vllm", "weights", slots=None)
    with Sources(setup.sources, cache_dir=setup.cache_dir) as sources:
        write_model(family.recipe(stack), sources, folder)
    name = read_model(folder).fingerprint
    return replace(setup, sources={name: str(folder)}, frame=name, probe=None)
