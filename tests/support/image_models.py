"""Tiny models that see, with a processor each, and tasks that show them images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from architectures.built import IMAGE_TEXT, build
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

N_WORDS = 84
"""Words ``w4`` ... of the tokenizer, behind its special tokens."""
FAMILIES = ("gemma3", "llava", "idefics3", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
"""Families whose processors work with Pillow alone."""

_NAMED = {
    "gemma3": {"boi_token": "<start>", "eoi_token": "<end>", "image_token": "<pad-of>"},
}
_QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 50, 220),
    "yellow": (230, 220, 40),
}


def write_seeing_models(folder: Path, family: str, **changes: Any) -> None:
    """Save models ``base``, ``a`` and ``b`` of a family that sees, with processors."""
    build(folder, IMAGE_TEXT, family, **changes)
    for name in ("base", "a", "b"):
        write_processor(folder / name, family)


def write_processor(folder: Path, family: str) -> None:
    """Give a model folder a tokenizer of words and a processor of small images."""
    special = {90: "<image>", 91: "<video>", 92: "<start>", 93: "<end>"}
    if family.startswith("qwen"):
        special = dict(zip((90, 91, 92, 93), _QWEN, strict=True))
    if family == "gemma3":
        special[90] = "<pad-of>"
    if family == "idefics3":
        special |= {84: "<fake_token_around_image>", 85: "<global-img>"}
        special |= {86: "<end_of_utterance>"}
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {text: number for number, text in special.items()}
    for number in range(96):
        if number not in words.values():
            words[f"w{number}"] = number
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": list(special.values()),
        **({"extra_special_tokens": _NAMED[family]} if family in _NAMED else {}),
    }
    (folder / "chat_template.jinja").write_text(CHAT.replace("IMAGE", _place(family)))
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "processor_config.json", _PROCESSORS[family])


CHAT = (
    "{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}"
    "{{ m['content'] }} {% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %} IMAGE {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} w9 {% endif %}"
)


def _place(family: str) -> str:
    if family == "gemma3":
        return "<start>"
    return "<|image_pad|>" if family.startswith("qwen") else "<image>"


def _square(kind: str, **more: Any) -> dict[str, Any]:
    return {"image_processor_type": kind, "size": {"height": 32, "width": 32}, **more}


def _qwen(kind: str) -> dict[str, Any]:
    # The video part is as folders have it; it asks for torchvision.
    sizes = {"shortest_edge": 256, "longest_edge": 2048}
    patches = {"patch_size": 8, "temporal_patch_size": 1, "merge_size": 2}
    videos = {"video_processor_type": "Qwen2VLVideoProcessor", **patches}
    return {
        "processor_class": f"{kind}Processor",
        "image_processor": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": sizes,
            **patches,
        },
        "video_processor": videos,
    }


_EDGE = {"longest_edge": 32}
_PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {
        "processor_class": "Gemma3Processor",
        "image_seq_length": 4,
        "image_processor": _square("Gemma3ImageProcessor"),
    },
    "llava": {
        "processor_class": "LlavaProcessor",
        "patch_size": 8,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "image_token": "<image>",
        "image_processor": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
        },
    },
    "idefics3": {
        "processor_class": "Idefics3Processor",
        "image_seq_len": 4,
        "image_processor": {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": _EDGE,
            "max_image_size": _EDGE,
            "do_image_splitting": False,
        },
    },
    "qwen2_5_vl": _qwen("Qwen2_5_VL"),
    "qwen3_vl": _qwen("Qwen3VL"),
    "qwen3_5": _qwen("Qwen3VL"),
    "mistral3": {
        "processor_class": "PixtralProcessor",
        "image_processor": {"image_processor_type": "PixtralImageProcessor"},
    },
}


def _write(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n")


def coloured(colour: str, width: int = 40, height: int = 24) -> Image.Image:
    """Return an image of one colour."""
    return Image.new("RGB", (width, height), _COLOURS[colour])


IMAGE_TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_image: [image]
doc_to_text: "w5 <image> w6 {{q}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["w70"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
"""Asks for a word about an image; its items lie beside it in ``colours.jsonl``."""


def write_image_task(
    folder: Path,
    rows: Iterable[tuple[Image.Image, str, str]],
    task: str = IMAGE_TASK,
) -> None:
    """Write a task file, its items and their images.

    Args:
        folder: Made if it is not there.
        rows: Image, question and answer.
        task: The task's file.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "colours.yaml").write_text(task)
    lines = []
    for number, (image, question, answer) in enumerate(rows):
        image.save(folder / "images" / f"{number}.png")
        row = {"image": f"images/{number}.png", "q": question, "answer": answer}
        lines.append(json.dumps(row) + "\n")
    (folder / "colours.jsonl").write_text("".join(lines))


def solid_rows(n: int = 12) -> list[tuple[Image.Image, str, str]]:
    """Return items whose images differ in colour or size, none like another."""
    names = list(_COLOURS)
    return [
        (coloured(names[k % 4], 24 + 4 * k, 24), f"w{10 + k % 3}", f"w{20 + k % 4}")
        for k in range(n)
    ]
