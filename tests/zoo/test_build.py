import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import CheckpointError, EvomergeError, SpecError
from evomerge.zoo import MODELS, ZooReport, make_zoo, score
from evomerge.zoo.folder import read_weights
from evomerge.zoo.processes import ExpertProcesses
from evomerge.zoo.recipes import EXPERTS, TINY
from evomerge.zoo.tasks import task_files

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> ZooReport:
    return make_zoo(tmp_path_factory.mktemp("zoos") / "tiny", recipe="TINY")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_zoo_holds_four_models_and_the_tasks_and_nothing_else(zoo: ZooReport) -> None:
    assert zoo.built
    assert {path.name for path in zoo.folder.iterdir()} == {
        *MODELS,
        "tasks",
        "zoo.json",
        ".lock",
    }
    for folder in zoo.models.values():
        assert {path.name for path in folder.iterdir()} == FILES
    for name, text in task_files("jd_sort5").items():
        assert (zoo.tasks / name).read_text(encoding="utf-8") == text


def test_the_models_differ_and_share_shape_and_tokenizer(zoo: ZooReport) -> None:
    states = {name: read_weights(folder) for name, folder in zoo.models.items()}
    base = states["base"]
    for name in EXPERTS:
        assert list(states[name]) == list(base)
        assert any(not torch.equal(states[name][key], base[key]) for key in base)
        for file in FILES - {"model.safetensors"}:
            expected = (zoo.models["base"] / file).read_bytes()
            assert (zoo.models[name] / file).read_bytes() == expected
    assert all(value.dtype == torch.float32 for value in base.values())


def test_a_second_call_finds_the_zoo_and_touches_nothing(zoo: ZooReport) -> None:
    before = _bytes(zoo.folder)
    again = make_zoo(zoo.folder, recipe="TINY")
    assert not again.built
    assert _bytes(zoo.folder) == before


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    zoo: ZooReport, tmp_path: Path
) -> None:
    same = make_zoo(tmp_path / "same", recipe="TINY", seed=0)
    assert _bytes(same.folder) == _bytes(zoo.folder)
    other = make_zoo(tmp_path / "other", recipe="TINY", seed=1)
    for name in MODELS:
        file = f"{name}/model.safetensors"
        assert (other.folder / file).read_bytes() != (zoo.folder / file).read_bytes()
    assert _bytes(other.tasks) == _bytes(zoo.tasks)


@pytest.mark.slow
def test_experts_trained_side_by_side_equal_those_trained_here(
    zoo: ZooReport, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.safetensors" for name in EXPERTS}
    told: list[tuple[str, int, int]] = []
    processes = ExpertProcesses(TINY, 0, files, lambda *progress: told.append(progress))
    processes.train(zoo.models["base"] / "model.safetensors")
    for name in EXPERTS:
        trained = load_file(files[name])
        expected = read_weights(zoo.models[name])
        assert all(torch.equal(trained[key], expected[key]) for key in expected)
        steps = TINY.course(name).steps
        assert [t for t in told if t[0] == name] == [
            (name, step, steps) for step in range(1, steps + 1)
        ]


@pytest.mark.slow
def test_a_failed_expert_is_reported_with_its_last_words(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.safetensors" for name in EXPERTS}
    processes = ExpertProcesses(TINY, 0, files, lambda *_: None)
    with pytest.raises(EvomergeError, match=r"(?s)Training '\w+' failed .*missing"):
        processes.train(tmp_path / "missing.safetensors")


def test_a_damaged_file_is_noticed_and_the_zoo_made_again(tmp_path: Path) -> None:
    first = make_zoo(tmp_path / "zoo", recipe="TINY")
    before = _bytes(first.folder)
    weights = first.models["ja"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert make_zoo(first.folder, recipe="TINY").built
    assert _bytes(first.folder) == before
    (first.folder / "zoo.json").write_text("{")  # and so is a broken record
    (first.folder / ".work").mkdir()
    assert make_zoo(first.folder, recipe="TINY").built
    assert _bytes(first.folder) == before


def test_a_zoo_of_older_code_is_made_again(tmp_path: Path) -> None:
    made = make_zoo(tmp_path / "zoo", recipe="TINY")
    record = made.folder / "zoo.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "digest": "old"}))
    assert make_zoo(made.folder, recipe="TINY").built


@pytest.mark.slow
def test_a_zoo_whose_maker_was_killed_is_made_again(
    zoo: ZooReport, tmp_path: Path
) -> None:
    out = tmp_path / "zoo"
    code = f"from pathlib import Path; import evomerge.zoo as z; \
z.make_zoo(Path({str(out)!r}), recipe='TINY')"
    maker = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not (out / "base").exists():
        assert maker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert not (out / "zoo.json").exists()
    assert make_zoo(out, recipe="TINY").built
    assert _bytes(out) == _bytes(zoo.folder)


def test_a_folder_with_other_content_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(SpecError, match=r"found 'thesis\.tex'.*another folder"):
        make_zoo(tmp_path, recipe="TINY")
    assert (tmp_path / "thesis.tex").read_text() == "do not lose me"


def test_a_folder_that_only_looks_like_a_zoo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_text("years of work")
    with pytest.raises(SpecError, match="found 'base'"):
        make_zoo(tmp_path, recipe="TINY")
    assert (tmp_path / "base" / "model.safetensors").exists()


def test_a_zoo_of_another_seed_is_not_overwritten(zoo: ZooReport) -> None:
    before = _bytes(zoo.folder)
    with pytest.raises(SpecError, match="Holds the zoo TINY of seed 0, but TINY of"):
        make_zoo(zoo.folder, recipe="TINY", seed=1)
    assert _bytes(zoo.folder) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo").write_text("a file")
    with pytest.raises(SpecError, match="found a file"):
        make_zoo(tmp_path / "zoo", recipe="TINY")


def test_an_unknown_recipe_and_a_bad_seed_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        make_zoo(tmp_path / "zoo", recipe="P129", seed=-1)
    assert "Expected one of P128, L2, TINY, got 'P129'" in str(caught.value)
    assert "Expected 0 or more, got -1" in str(caught.value)
    assert not (tmp_path / "zoo").exists()


def test_a_folder_scores_as_its_weights_do(zoo: ZooReport) -> None:
    folder = zoo.models["base"]
    assert score(folder, "en_hard") == score(read_weights(folder), "en_hard")


def test_scoring_something_else_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        score(tmp_path, "en_hard")
