"""Writing a merged model: whole, loadable anywhere, or not there at all."""

import errno
import json
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from evomerge.checkpoints import INDEX, read_header, read_model
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Checkpoint, Nested, Operation, Recipe, Slot
from evomerge.errors import CandidateError, ExportError
from evomerge.merging.materialise import materialise
from evomerge.merging.output.shards import plan_shards, tensor_bytes
from evomerge.merging.output.writer import RECIPE_NAME, write_model
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


def average(folders: dict[str, Path], dtype: str = "float32") -> tuple[Recipe, Sources]:
    """Write the mean of some models; the last one is the frame."""
    models = {name: read_model(folder) for name, folder in folders.items()}
    n_layers = next(iter(models.values())).n_layers
    roles = (("*", Operation("linear", tuple(models))),)
    recipe = Recipe(
        frame=list(models)[-1],
        dtype=dtype,
        inputs=tuple((name, Checkpoint(m.fingerprint)) for name, m in models.items()),
        embed=Slot(roles),
        slots=tuple(
            Slot(roles, tuple(dict.fromkeys(models, layer).items()))
            for layer in range(n_layers)
        ),
        head=Slot(roles),
    )
    return recipe, Sources({m.fingerprint: m.path for m in models.values()})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Recipe, Sources]:
    return average(
        {name: tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
    )


def left_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [(True, True), (False, False), (True, False)])
def test_plain_transformers_loads_what_was_merged(
    tmp_path: Path, family: str, dtype: str, tied: tuple[bool, bool]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = {
        name: tiny_model(tmp_path / name, family, tied=tie, seed=seed, n_layers=2)  # type: ignore[arg-type]
        for seed, (name, tie) in enumerate(zip("ab", tied, strict=True))
    }
    recipe, sources = average(folders, dtype)
    written = write_model(recipe, sources, tmp_path / "out", shard_bytes=30_000)
    assert len(written.shards) > 1
    model, info = AutoModelForCausalLM.from_pretrained(
        written.path, output_loading_info=True
    )
    assert not any(info.values())
    assert model.dtype == getattr(torch, dtype)
    state = model.state_dict()
    for name, tensor in materialise(recipe, sources):
        assert torch.equal(state[name], tensor)
    same = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert same == all(tied)
    tokenizer = AutoTokenizer.from_pretrained(written.path)
    assert tokenizer.decode(tokenizer("the cat")["input_ids"]) == "the cat"
    assert model.generation_config.eos_token_id == 2


@pytest.mark.parametrize("shard_bytes", [1, 10_000, 60_000, 5_000_000_000])
def test_every_shard_size_holds_the_same_model(
    tmp_path: Path, pair: tuple[Recipe, Sources], shard_bytes: int
) -> None:
    recipe, sources = pair
    written = write_model(recipe, sources, tmp_path / "out", shard_bytes=shard_bytes)
    found: dict[str, torch.Tensor] = {}
    for name in written.shards:
        with safe_open(written.path / name, "pt") as shard:
            assert shard.metadata() == {"format": "pt"}
        found |= load_file(written.path / name)
    expected = dict(materialise(recipe, sources))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert written.size_bytes == sum(tensor.nbytes for tensor in found.values())
    model = read_model(written.path)
    assert model.size_bytes == written.size_bytes
    assert (INDEX in left_in(written.path)) == (len(written.shards) > 1)
    if len(written.shards) > 1:
        index = json.loads((written.path / INDEX).read_text())
        assert index["metadata"]["total_size"] == written.size_bytes


def test_the_first_tensor_is_aligned(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    written = write_model(*pair, tmp_path / "out", shard_bytes=10_000)
    for name in written.shards:
        first = next(iter(read_header(written.path / name).values()))
        assert first.offset % 8 == 0


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1),
    st.integers(1, 200),
)
def test_shards_keep_the_order_and_the_limit(
    shapes: list[tuple[int, int]], limit: int
) -> None:
    tensors = {f"t{i}": (torch.bfloat16, shape) for i, shape in enumerate(shapes)}
    shards = plan_shards(tensors, limit)
    assert [name for shard in shards for name in shard.tensors] == list(tensors)
    assert len({shard.name for shard in shards}) == len(shards)
    for shard in shards:
        assert shard.tensors
        assert shard.size_bytes <= limit or len(shard.tensors) == 1
    for one, two in pairwise(shards):
        first = next(iter(two.tensors.values()))
        assert one.size_bytes + tensor_bytes(first) > limit


def test_one_parent_written_is_that_parent(tmp_path: Path) -> None:
    model = read_model(tiny_model(tmp_path / "a", "qwen2", tied=True))
    recipe = passthrough("a", model.fingerprint, model.n_layers, "float32")
    sources = Sources({model.fingerprint: model.path})
    written = write_model(recipe, sources, tmp_path / "out")
    again = read_model(written.path)
    assert dict(again.config) == dict(model.config)
    assert again.tokenizer_digest == model.tokenizer_digest
    stored = load_file(model.path / "model.safetensors")
    copied = load_file(written.path / "model.safetensors")
    assert stored.keys() == copied.keys()
    assert all(torch.equal(stored[name], copied[name]) for name in stored)


def test_the_frame_gives_tokenizer_and_generation_settings(tmp_path: Path) -> None:
    folders = {name: tiny_model(tmp_path / name) for name in "ab"}
    for name, folder in folders.items():
        (folder / "chat_template.jinja").write_text(name)
        (folder / "generation_config.json").write_text(json.dumps({"top_k": name}))
    recipe, sources = average(folders)
    # The frame of a nested recipe is found through it.
    nested = replace(
        recipe, inputs=(("a", recipe.input("a")), ("b", Nested(recipe))), frame="b"
    )
    for number, one in enumerate((recipe, nested)):
        out = write_model(one, sources, tmp_path / f"out{number}").path
        assert (out / "chat_template.jinja").read_text() == "b"
        assert json.loads((out / "generation_config.json").read_text()) == {
            "top_k": "b"
        }
        assert (out / "tokenizer.json").read_bytes() == (
            folders["b"] / "tokenizer.json"
        ).read_bytes()


def test_recipe_and_extra_texts_stand_beside_the_weights(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    recipe, sources = pair
    card = "# 合成\n"
    out = write_model(recipe, sources, tmp_path / "out", extra={"README.md": card}).path
    assert (out / "README.md").read_text(encoding="utf-8") == card
    stored = json.loads((out / RECIPE_NAME).read_text())
    assert Recipe.from_json(stored).digest == recipe.digest


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/tmp/x",
        "a/b",
        ".",
        "..",
        "",
        ".hidden",
        "nul\0",
        "config.json",
        INDEX,
        "tokenizer.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
    ],
)
def test_an_extra_file_cannot_leave_the_folder_or_replace_a_part(
    tmp_path: Path, pair: tuple[Recipe, Sources], name: str
) -> None:
    with pytest.raises(ExportError, match="plain file name"):
        write_model(*pair, tmp_path / "out", extra={name: "x"})
    assert left_in(tmp_path) == {"a", "b"}


def test_progress_counts_up_to_all_bytes_before_the_folder_appears(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        assert not (tmp_path / "out").exists()
        seen.append((done, total))

    written = write_model(*pair, tmp_path / "out", progress=progress)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (written.size_bytes, written.size_bytes)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(
    tmp_path: Path, pair: tuple[Recipe, Sources], kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("precious")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="exists already"):
        write_model(*pair, out)
    assert left_in(tmp_path) == {"a", "b", "out"}
    assert kind != "file" or out.read_text() == "precious"


def test_a_small_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, pair: tuple[Recipe, Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_050_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"No disk space .* 1\.1 MB are free"):
        write_model(*pair, tmp_path / "out")
    assert left_in(tmp_path) == {"a", "b"}


def test_a_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write_model(*pair, tmp_path / "file" / "out")


def test_a_candidate_that_is_not_finite_leaves_nothing(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    recipe, sources = pair
    huge = Operation("linear", ("a", "b"), each=(("weight", (1e30, -1.000001e30)),))
    bad = replace(recipe, dtype="float16", head=Slot((("*", huge),)))
    with pytest.raises(CandidateError, match="not finite"):
        write_model(bad, sources, tmp_path / "out")
    assert left_in(tmp_path) == {"a", "b"}


def test_a_disk_that_becomes_full_leaves_nothing(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # To a writer, a limit on file size is a disk that takes no more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ExportError, match=r"became full .* is removed"):
            write_model(*pair, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(tmp_path) == {"a", "b"}


_KILLED = """
import json, os, signal, sys
from evomerge.core.recipes.recipe import Recipe
from evomerge.merging.sources import Sources
from evomerge.merging.output.writer import write_model

recipe, paths, out = json.loads(sys.stdin.read())

def die(done, total):
    if done * 2 > total:
        os.kill(os.getpid(), signal.SIGKILL)

write_model(Recipe.from_json(recipe), Sources(paths), out, progress=die)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_writer_leaves_no_folder_of_that_name(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    recipe, sources = pair
    paths = {read_model(tmp_path / n).fingerprint: str(tmp_path / n) for n in "ab"}
    task = json.dumps([recipe.to_json(), paths, str(tmp_path / "out")])
    done = subprocess.run(
        [sys.executable, "-c", _KILLED], input=task, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    (partial,) = left_in(tmp_path) - {"a", "b"}
    assert partial.startswith(".out.partial-")
    written = write_model(recipe, sources, tmp_path / "out")
    assert read_model(written.path).n_layers == 4
    assert left_in(tmp_path) == {"a", "b", "out"}


_HOLDING = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_another_process_still_writes_is_left_alone(
    tmp_path: Path, pair: tuple[Recipe, Sources]
) -> None:
    partial = tmp_path / ".out.partial-1"
    partial.mkdir()
    (tmp_path / ".out.partial-2").mkdir()
    (tmp_path / ".other.partial-3").mkdir()
    command = [sys.executable, "-c", _HOLDING, str(partial)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"held\n"
        write_model(*pair, tmp_path / "out")
        assert left_in(tmp_path) - {"a", "b", "out"} == {
            partial.name,
            ".other.partial-3",
        }
        holder.stdin.close()


def test_a_file_system_without_locks_is_written_to_and_loses_nothing(
    tmp_path: Path, pair: tuple[Recipe, Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".out.partial-1").mkdir()
    write_model(*pair, tmp_path / "out")
    assert left_in(tmp_path) == {"a", "b", "out", ".out.partial-1"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_is_bounded_by_a_few_tensors_not_by_the_model(tmp_path: Path) -> None:
    size = {"hidden": 1024, "n_layers": 8, "vocab": 1024}
    folders = {
        name: tiny_model(tmp_path / name, seed=seed, **size)  # type: ignore[arg-type]
        for seed, name in enumerate("ab")
    }
    recipe, sources = average(folders)

    def anonymous_bytes() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) * 1024

    # The first merge of a process compiles; that space does not grow with the model.
    write_model(recipe, sources, tmp_path / "first")
    before, peak = anonymous_bytes(), 0

    def progress(done: int, total: int) -> None:
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    written = write_model(recipe, sources, tmp_path / "out", progress=progress)
    assert written.size_bytes > 200e6
    # The largest tensor has 4 MB; a merge holds its result and some scratch space.
    assert peak - before < 40e6
