"""Tasks that show images, scored by real models that see."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from support.image_models import (
    FAMILIES,
    IMAGE_TASK,
    coloured,
    solid_rows,
    write_image_task,
    write_seeing_models,
)

from evomerge.core.policy import Policy, confined
from evomerge.core.scoring_protocol import ItemRole
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import (
    CheckpointError,
    RequestError,
    SelfTestError,
    SpecError,
)
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.scoring import images as task_images
from evomerge.scoring.engine import GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.harness.scored_tasks import LmEvalTasks
from evomerge.scoring.hf.engine import HfEngine
from evomerge.scoring.hf.processor import Processor
from evomerge.scoring.images import ImageError, ImagePrompt, RgbImage
from evomerge.scoring.self_test import N_SEQUENCES, Probe
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.scoring.survey import Surveyor
from evomerge.specs.recipes import open_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MERGE = (
    "operator: task_arithmetic\nbase: base\nexperts: [a, b]\n"
    "knobs: {weight: 0.5}\nparts: {vision: linear}\n"
    "sources: {base: base, a: a, b: b}\ndtype: float32\n"
)
QUICK = ("gemma3", "qwen3_vl")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of models of a family, written once."""
    root = tmp_path_factory.mktemp("seeing")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            write_seeing_models(root / family, family)
            (root / family / "merge.yaml").write_text(MERGE)
        return root / family

    return folder


def setup_of(folder: Path, cache: Path, frame: str = "a") -> WorkerSetup:
    opened = open_recipe(folder / "merge.yaml")
    return WorkerSetup(
        engine=EngineSettings("hf", max_model_len=96),
        tasks=(),
        sources=opened.folders,
        frame=opened.models[frame].fingerprint,
        probe=opened.models["b"].fingerprint,
        cache_dir=str(cache),
    )


@pytest.fixture
def engine(seeing: Callable[[str], Path], tmp_path: Path) -> Iterator[HfEngine]:
    opened = HfEngine(setup_of(seeing("llava"), tmp_path / "cache"))
    yield opened
    opened.close()


def shown(engine: HfEngine, n: int = 4) -> list[GenerateRequest]:
    """Return prompts of several lengths with images of several sizes."""
    processor = engine.images.processor
    prompts = [
        ImagePrompt(
            f"w5 {processor.image_token} {'w6 ' * (k % 2)}{question}",
            (RgbImage.read(image, Path()),),
        )
        for k, (image, question, _) in enumerate(solid_rows(n))
    ]
    return [GenerateRequest(processor.encode(p).tokens, 6, shown=p) for p in prompts]


def answers_of_transformers(folder: Path, asked: list[GenerateRequest]) -> list[str]:
    """Ask a folder one prompt at a time, by transformers alone."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), Processor(str(folder))
    texts = []
    for request in asked:
        assert request.shown is not None
        given = processor.encode(request.shown).tensors
        out = model.generate(**given, max_new_tokens=6, do_sample=False)
        answer = out[0, given["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(answer, skip_special_tokens=True))
    return texts


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(one, marks=() if one in QUICK else pytest.mark.long)
        for one in FAMILIES
    ],
)
def test_a_merge_with_its_tower_is_swapped_in_and_answers_as_its_folder_does(
    family: str, seeing: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = seeing(family)
    opened = open_recipe(folder / "merge.yaml")
    with Sources(opened.folders) as sources:
        write_model(opened.recipe, sources, tmp_path / "out")
    engine = HfEngine(setup_of(folder, tmp_path / "cache"))
    try:
        asked = shown(engine)
        found = engine.self_test()
        assert (found.probe_difference, found.return_difference) == (0.0, 0.0)
        before = [one.text for one in engine.generate(asked)]
        engine.swap(opened.recipe)
        after = [one.text for one in engine.generate(asked)]
        tokens = (20, 21)
        pair = LoglikelihoodRequest(asked[0].prompt, tokens, asked[0].shown)
        (score,) = engine.loglikelihood([pair])
    finally:
        engine.close()
    assert before == answers_of_transformers(folder / "a", asked)
    assert after == answers_of_transformers(tmp_path / "out", asked)
    assert len(set(after)) > 1  # the image is seen
    assert before != after
    if family != "qwen3_5":  # its tokenizer's class reads no words of this kind
        wanted = logprob(tmp_path / "out", pair)
        assert score.logprob == pytest.approx(wanted, abs=1e-4)


def logprob(folder: Path, pair: LoglikelihoodRequest) -> float:
    """Score a continuation token by token, each as the last of a prompt."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    assert pair.shown is not None
    processor, total = Processor(str(folder)), 0.0
    for n, token in enumerate(pair.continuation):
        words = " ".join(f"w{one}" for one in pair.continuation[:n])
        prompt = replace(pair.shown, text=f"{pair.shown.text} {words}".strip())
        given = processor.encode(prompt).tensors
        with torch.inference_mode():
            last = model(**given).logits[0, -1]
        total += float(last.log_softmax(-1)[token])
    return total


def test_the_self_test_sees_a_tower_that_is_not_swapped(
    engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = engine._loader.put

    def put_text(name: str, tensor: torch.Tensor) -> None:
        if "vision" not in name:
            put(name, tensor)

    monkeypatch.setattr(engine._loader, "put", put_text)
    with pytest.raises(SelfTestError, match="the probe parent, swapped in, differs"):
        engine.self_test()


def test_stacks_of_a_model_that_sees_are_tested_with_images_too(
    seeing: Callable[[str], Path], tmp_path: Path
) -> None:
    setup = setup_of(seeing("qwen3_vl"), tmp_path / "cache")
    slots = replace(setup.engine, profile="slots", slots=7)
    engine = HfEngine(replace(setup, engine=slots))
    found = engine.self_test()
    assert (found.probe_difference, found.return_difference) == (0.0, 0.0)
    assert len(Probe.prompts(engine)) == N_SEQUENCES + 2
    engine.close()


def test_text_is_answered_alike_before_and_after_an_image(
    seeing: Callable[[str], Path], tmp_path: Path
) -> None:
    engine = HfEngine(setup_of(seeing("qwen3_vl"), tmp_path / "cache"))
    text = [GenerateRequest((5, 6, 7, 8)[:n], 6) for n in (2, 4)]
    before = engine.generate(text)
    images = engine.generate(shown(engine))
    assert engine.generate(text) == before
    mixed = [text[0], *shown(engine), text[1]]
    assert engine.generate(mixed) == [before[0], *images, before[1]]
    engine.close()


def settings(folder: Path, **changes: object) -> TaskSettings:
    return replace(
        TaskSettings("colours", "colours", include_path=str(folder)), **changes
    )


def outcomes(engine: HfEngine, one: TaskSettings, cache: Path) -> dict[str, float]:
    return scored(LmEvalTasks([one], engine, str(cache)))


def scored(tasks: LmEvalTasks) -> dict[str, float]:
    (description,) = tasks.describe()
    blocks = [b for role in ItemRole for b in description.manifest.blocks(role)]
    found = [outcome for block in blocks for outcome in tasks.score(block)]
    return {outcome.item: outcome.metrics["exact_match"] for outcome in found}


def with_right_answers(
    engine: HfEngine, wrong: int
) -> list[tuple[Image.Image, str, str]]:
    """Return items whose answers are the model's own, but for the first few."""
    rows = solid_rows()
    token = engine.images.processor.image_token
    asked = []
    for image, question, _ in rows:
        text = f"w5 {token} w6 {question}"
        prompt = ImagePrompt(text, (RgbImage.read(image, Path()),))
        tokens = engine.images.processor.encode(prompt).tokens
        asked.append(GenerateRequest(tokens, 4, stop=("w70",), shown=prompt))
    said = [one.text for one in engine.generate(asked)]
    return [
        (image, question, "w4 w4" if k < wrong else answer.strip())
        for k, ((image, question, _), answer) in enumerate(zip(rows, said, strict=True))
    ]


PARQUET = IMAGE_TASK.replace("json\n", "parquet\n").replace("jsonl", "parquet")


def write_parquet(folder: Path, rows: list[tuple[Image.Image, str, str]]) -> None:
    """Write the same task with the images within its data."""
    folder.mkdir()
    (folder / "colours.yaml").write_text(PARQUET)
    columns = dict(zip(("image", "q", "answer"), zip(*rows, strict=True), strict=True))
    data = datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()})
    data.to_parquet(str(folder / "colours.parquet"))


def test_images_in_files_and_within_the_data_are_scored_alike(
    engine: HfEngine, tmp_path: Path
) -> None:
    rows = with_right_answers(engine, wrong=5)
    write_image_task(tmp_path / "files", rows)
    write_parquet(tmp_path / "within", rows)
    cache = tmp_path / "cache"
    files = outcomes(engine, settings(tmp_path / "files"), cache)
    within = outcomes(engine, settings(tmp_path / "within"), cache)
    assert sum(files.values()) == sum(within.values()) == 7
    assert len(files) == len(within) == 12


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_those_of_lm_evals_own_model_of_images(
    chat: bool, engine: HfEngine, seeing: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    from lm_eval.evaluator import evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM
    from lm_eval.tasks import TaskManager

    rows = with_right_answers(engine, wrong=5)
    write_parquet(tmp_path / "within", rows)
    one = settings(tmp_path / "within", apply_chat_template=chat)
    tasks = LmEvalTasks([one], engine, str(tmp_path / "cache"))
    mine = scored(tasks)
    text = PARQUET.replace("colours.parquet", f"{tmp_path}/within/colours.parquet")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "colours.yaml").write_text(text)
    manager = TaskManager(include_path=str(tmp_path / "theirs"), include_defaults=False)
    task = manager.load(["colours"])
    model = HFMultimodalLM(
        pretrained=str(seeing("llava") / "a"),
        device="cpu",
        dtype="float32",
        batch_size=1,
        max_length=96,
    )
    theirs = evaluate(
        model,
        task,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    samples = theirs["samples"]["colours"]
    assert sorted(mine.values()) == sorted(one["exact_match"] for one in samples)
    asked = [q.instances[0] for q in tasks._tasks["colours"]._questions.values()]
    assert sorted((one.args[0], *one.resps) for one in asked) == sorted(
        (one["arguments"][0][0], *one["resps"][0]) for one in samples
    )
    assert chat or sum(mine.values()) == 7


def test_an_item_without_an_image_is_asked_as_text(
    engine: HfEngine, tmp_path: Path
) -> None:
    text = '"{% if image %}<image>{% endif %} w6 {{q}}"'
    task = IMAGE_TASK.replace('"w5 <image> w6 {{q}}"', text)
    write_image_task(tmp_path / "tasks", solid_rows(6), task)
    data = tmp_path / "tasks" / "colours.jsonl"
    data.write_text(data.read_text().replace('"images/3.png"', "null"))
    tasks = LmEvalTasks([settings(tmp_path / "tasks")], engine, str(tmp_path / "cache"))
    assert len(scored(tasks)) == 6
    asked = [q.instances[0] for q in tasks._tasks["colours"]._questions.values()]
    requests = [tasks._lm.prompt(*one.args) for one in asked]
    assert sum(request.shown is None for request in requests) == 1


def test_an_item_is_named_by_what_its_image_shows_not_by_its_files_name(
    engine: HfEngine, tmp_path: Path
) -> None:
    rows = solid_rows(6)
    for name in ("one", "moved", "changed"):
        write_image_task(tmp_path / name, rows)
    data = tmp_path / "moved" / "colours.jsonl"
    (tmp_path / "moved" / "images").rename(tmp_path / "moved" / "pictures")
    data.write_text(data.read_text().replace("images/", "pictures/"))
    coloured("red", 31, 31).save(tmp_path / "changed" / "images" / "0.png")
    ids = {
        name: set(outcomes(engine, settings(tmp_path / name), tmp_path / "cache"))
        for name in ("one", "moved", "changed")
    }
    assert ids["one"] == ids["moved"]
    assert len(ids["one"] & ids["changed"]) == 5


def problems(folder: Path, cache: Path, **changes: object) -> list[str]:
    """Return what a look at a task, without an engine, finds wrong."""
    found = Surveyor(cache)([settings(folder, **changes)])
    return [f"{one.where}: {one.message}" for one in found.problems]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.write_bytes(b"\x89PNG\r\n\x1a\nbroken"), "cannot be decoded"),
        (lambda f: f.write_bytes(f.read_bytes()[:40]), "cannot be decoded"),
        (lambda f: f.write_bytes(b""), "0 bytes that cannot be decoded"),
        (lambda f: f.unlink(), "images/3.png': not there"),
        (lambda f: Image.new("RGB", (90, 80)).save(f), "5000 pixels, got 90 x 80"),
        (lambda f: Image.new("RGB", (70, 60)).save(f, "TIFF"), "PNG, PPM, WEBP"),
    ],
    ids=["broken", "cut", "empty", "gone", "huge", "strange"],
)
def test_an_image_that_cannot_be_shown_is_named_with_its_item_before_any_engine(
    spoil: Callable[[Path], object],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_images, "MAX_PIXELS", 5000)
    write_image_task(tmp_path / "tasks", solid_rows(6))
    spoil(tmp_path / "tasks" / "images" / "3.png")
    (said,) = problems(tmp_path / "tasks", tmp_path / "cache")
    assert "document 3" in said
    assert says in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("generate_until", "multiple_choice", "output_type: generate_until"),
        ("num_fewshot: 0", "num_fewshot: 2", "set num_fewshot: 0"),
        ("[image]", "[picture]", "columns of the data .image, q, answer., got 'pic"),
        ("[image]", '"{{image}}"', "expected the name of a column"),
        ("<image> w6", "w6", "got it 0 times for 1 images"),
        ("w5 <image>", "<image> <image>", "got it 2 times for 1 images"),
        ("doc_to_image", "doc_to_audio", "expected nothing: sound is not offered"),
    ],
)
def test_what_is_not_offered_with_images_is_refused_by_name(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    task = IMAGE_TASK.replace(old, new)
    if new == "multiple_choice":
        kwargs = task.index("generation_kwargs")
        task = task[:kwargs] + "doc_to_choice: [w20, w21]\nmetadata: {version: 1}\n"
    write_image_task(tmp_path / "tasks", solid_rows(6), task)
    with pytest.raises(AssertionError, match=says):
        assert not problems(tmp_path / "tasks", tmp_path / "cache")


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "images"
    write_image_task(folder.parent, solid_rows(6))
    rows = (folder.parent / "colours.jsonl").read_text().replace("images/", "")
    (folder / "metadata.jsonl").write_text(rows.replace('"image"', '"file_name"'))
    data = "dataset_path: json\ndataset_kwargs: {data_files: {test: colours.jsonl}}"
    task = IMAGE_TASK.replace(data, f"dataset_path: {folder}")
    task = task.replace("test_split: test", "test_split: train")
    (folder.parent / "colours.yaml").write_text(task)
    assert not problems(folder.parent, tmp_path / "cache")


@pytest.mark.parametrize(
    "code",
    ["doc['image'].convert('L')", "__import__('PIL.Image').Image.new('1', (9, 9))"],
)
def test_code_that_is_trusted_may_make_the_images(code: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "tasks", solid_rows(6))
    task = PARQUET.replace("[image]", "!function utils.images")
    (tmp_path / "tasks" / "colours.yaml").write_text(task)
    text = f"def images(doc):\n    return [{code}]\n"
    (tmp_path / "tasks" / "utils.py").write_text(text)
    (said,) = problems(tmp_path / "tasks", tmp_path / "cache")
    assert "set trust_code: true" in said
    assert not problems(tmp_path / "tasks", tmp_path / "cache", trust_code=True)


def test_a_prompt_that_is_too_long_with_its_image_is_named_before_any_trial(
    engine: HfEngine, tmp_path: Path
) -> None:
    write_image_task(tmp_path / "tasks", solid_rows(6))
    one = settings(tmp_path / "tasks", max_gen_toks=90)
    with pytest.raises(SpecError, match=r"item .* has 19 tokens with its images"):
        LmEvalTasks([one], engine, str(tmp_path / "cache"))


def test_an_image_elsewhere_on_the_machine_is_not_read_for_a_stranger(
    tmp_path: Path,
) -> None:
    coloured("red").save(tmp_path / "secret.png")
    write_image_task(tmp_path / "tasks", solid_rows(6))
    data = tmp_path / "tasks" / "colours.jsonl"
    data.write_text(data.read_text().replace("images/3.png", "../secret.png"))
    assert not problems(tmp_path / "tasks", tmp_path / "cache")
    roots = (str(tmp_path / "tasks"), str(tmp_path / "cache"))
    with confined(Policy(roots=roots)):
        (said,) = problems(tmp_path / "tasks", tmp_path / "cache")
    assert "document 3" in said
    assert "may not be read here" in said


def test_engines_that_show_no_images_refuse_their_tasks_by_name(tmp_path: Path) -> None:
    write_image_task(tmp_path / "tasks", solid_rows(6))
    setup = WorkerSetup(
        EngineSettings(kind="simulated"), (), {}, "fa", None, str(tmp_path)
    )
    with pytest.raises(
        SpecError, match=r"engine simulated shows none; set engine: {kind: hf}"
    ):
        LmEvalTasks(
            [settings(tmp_path / "tasks")], SimulatedEngine(setup), str(tmp_path)
        )


def test_a_folder_without_processor_or_with_one_that_needs_torchvision_is_refused(
    tmp_path: Path,
) -> None:
    write_seeing_models(tmp_path, "mistral3")
    with pytest.raises(CheckpointError, match="Torchvision library"):
        Processor(str(tmp_path / "a"))
    (tmp_path / "a" / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match="copy them from the published model"):
        Processor(str(tmp_path / "a"))


def test_a_prompt_whose_images_do_not_fit_its_places_is_refused(
    engine: HfEngine,
) -> None:
    processor = engine.images.processor
    image = RgbImage.read(coloured("red"), Path())
    with pytest.raises(RequestError, match="1 images and 2 places"):
        processor.encode(ImagePrompt("<image> <image>", (image,)))


def test_what_is_no_image_is_refused() -> None:
    for value in (7, {"path": None, "bytes": None}, "a\0b"):
        with pytest.raises(ImageError, match="expected an image"):
            RgbImage.read(value, Path())
