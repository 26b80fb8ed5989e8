"""How much memory a merge needs, against what the machine has."""

from pathlib import Path

import pytest
import torch
from support.adapters import tiny_adapter

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Nested,
    Operation,
    Recipe,
    Slot,
)
from evomerge.errors import SetupError
from evomerge.merging.devices import available_memory
from evomerge.merging.memory import (
    SCRATCH_BYTES,
    check_memory,
    needed_memory,
    saying_memory_ran_out,
)
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model

LARGEST = 288 * 32
"""Entries of the embedding, the largest tensor of a tiny model."""
MATRIX = 32 * 32
GIB = 1 << 30


@pytest.fixture
def opened(tmp_path: Path) -> Sources:
    """Two models in bfloat16 and an adapter for the first."""
    paths = [
        tiny_model(tmp_path / name, seed=seed, n_layers=2, dtype="bfloat16")
        for seed, name in enumerate("ab")
    ]
    paths.append(tiny_adapter(tmp_path / "lora", paths[0]))
    return Sources(dict(zip(fingerprints(tmp_path), paths, strict=True)))


def fingerprints(folder: Path) -> list[str]:
    models = [read_model(folder / name).fingerprint for name in "ab"]
    return [*models, read_adapter(folder / "lora").fingerprint]


def merge(
    a: Input, b: Input, operation: Operation | None = None, dtype: str = "bfloat16"
) -> Recipe:
    """Merge two inputs; the embedding and the head by their average in any case."""
    plain = (("*", Operation("linear", ("a", "b"))),)
    roles = plain if operation is None else (("*", operation),)
    return Recipe(
        frame="a",
        dtype=dtype,
        inputs=(("a", a), ("b", b)),
        embed=Slot(plain),
        slots=tuple(Slot(roles, (("a", i), ("b", i))) for i in range(2)),
        head=Slot(plain),
    )


def test_every_input_counts_in_its_type_and_the_result_in_two(
    opened: Sources, tmp_path: Path
) -> None:
    a, b, lora = fingerprints(tmp_path)
    for one, dtype, width in (
        (Checkpoint(a), "bfloat16", 2 + 2 + 2 + 4),
        (Checkpoint(a), "float32", 2 + 2 + 4 + 4),
        (Adapted(a, lora), "bfloat16", 4 + 2 + 2 + 4),  # folded in float32
    ):
        needed = needed_memory(merge(one, Checkpoint(b), dtype=dtype), opened)
        assert needed == LARGEST * width + SCRATCH_BYTES


def test_what_is_merged_on_the_fly_needs_its_own_beside_the_rest(
    opened: Sources, tmp_path: Path
) -> None:
    a, b, _ = fingerprints(tmp_path)
    inner = merge(Checkpoint(a), Checkpoint(b))
    needed = needed_memory(merge(Nested(inner), Checkpoint(b)), opened)
    assert needed == LARGEST * (10 + 4 + 2 + 2 + 4) + SCRATCH_BYTES


def test_singular_vectors_need_room_for_the_matrices_they_are_of(
    opened: Sources, tmp_path: Path
) -> None:
    a, b, _ = fingerprints(tmp_path)
    spectral = Operation("tsv", ("b",), "a")
    staged = Operation("staged", ("b",), "a", shared=(("basis", "svd"),))
    plain = Operation("staged", ("b",), "a")
    for operation, copies in ((spectral, 15), (staged, 15), (plain, 0)):
        recipe = merge(Checkpoint(a), Checkpoint(b), operation)
        wanted = max(LARGEST * 10, MATRIX * (6 + copies * 8))
        assert needed_memory(recipe, opened) == wanted + SCRATCH_BYTES


def test_a_merge_is_refused_where_it_may_not_use_what_it_needs(
    opened: Sources, tmp_path: Path
) -> None:
    a, b, _ = fingerprints(tmp_path)
    recipe = merge(Checkpoint(a), Checkpoint(b))
    needed = needed_memory(recipe, opened)
    check_memory(recipe, opened, needed)
    with pytest.raises(SetupError, match=r"may need 0\.27 GB.*0\.27 GB may be used"):
        check_memory(recipe, opened, needed - 1)


def test_what_torch_says_of_too_little_memory_is_put_in_our_words() -> None:
    with pytest.raises(SetupError, match="Memory ran out"), saying_memory_ran_out():
        torch.empty(1 << 60)
    with pytest.raises(SetupError, match="Memory ran out"), saying_memory_ran_out():
        bytearray(1 << 62)
    with pytest.raises(RuntimeError, match="size"), saying_memory_ran_out():
        torch.ones(2) + torch.ones(3)


# What is free


def machine(root: Path, groups: str = "", **files: str) -> Path:
    """Write what a machine with 8 GiB available says of itself."""
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8388608 kB\n", **files}
    for name, text in ({"proc/self/cgroup": groups} | files).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="ascii")
    return root


def test_without_limits_what_the_machine_has_is_free(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path)) == 8 * GIB


def test_nothing_is_known_of_a_machine_that_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_this_machine_says() -> None:
    free = available_memory()
    assert free is None or 0 < free < 1 << 50


@pytest.mark.parametrize("path", ["/", "/work", "/host/not/here"])
def test_a_group_leaves_its_limit_less_what_is_used_but_cache(
    tmp_path: Path, path: str
) -> None:
    group = "sys/fs/cgroup" + ("/work" if path == "/work" else "")
    root = machine(
        tmp_path,
        f"0::{path}\n",
        **{
            f"{group}/memory.max": f"{4 * GIB}\n",
            f"{group}/memory.current": f"{3 * GIB}\n",
            f"{group}/memory.stat": f"anon 7\nactive_file {GIB}\ninactive_file 5\n",
        },
    )
    assert available_memory(root) == 2 * GIB + 5


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    files = {
        f"sys/fs/cgroup/{place}memory.{name}": f"{value}\n"
        for place, limit in (("", "max"), ("a/", 2 * GIB), ("a/b/", 3 * GIB))
        for name, value in (("max", limit), ("current", GIB))
    }
    assert available_memory(machine(tmp_path, "0::/a/b\n", **files)) == GIB


def test_groups_of_the_first_version_are_read(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        f"{group}/memory.limit_in_bytes": f"{1 << 63}\n",
        f"{group}/memory.usage_in_bytes": f"{GIB}\n",
        f"{group}/box/memory.limit_in_bytes": f"{3 * GIB}\n",
        f"{group}/box/memory.usage_in_bytes": f"{2 * GIB}\n",
        f"{group}/box/memory.stat": f"active_file 9\ntotal_active_file {GIB}\n",
    }
    groups = "9:name=systemd:/\n4:cpu,memory:/box\n0::/\n"
    assert available_memory(machine(tmp_path, groups, **files)) == 2 * GIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "5\n", "sys/fs/cgroup/memory.current": "7\n"}
    assert available_memory(machine(tmp_path, "0::/\n", **files)) == 0
