"""Models that see, trained on the spot: one knows colours, the other knows places.

Each image is a square of one of four colours in one of four corners of a grey, noisy
field. A base learns a little of both; each expert goes on with one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures.built import tiny_config
from PIL import Image

from evomerge.scoring.hf.processor import Processor
from support.image_models import write_processor

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 220), (230, 220, 50))
CORNERS = ((0, 0), (16, 0), (0, 16), (16, 16))
QUESTIONS = {"colour": "w10", "place": "w11"}
ANSWERS = {"colour": (20, 21, 22, 23), "place": (30, 31, 32, 33)}
Row = tuple[Image.Image, str, str]
"""An image, a question's word and its answer's."""


def rows(seed: int, n: int, kinds: Sequence[str] = ("colour", "place")) -> list[Row]:
    """Draw items: image, question and answer."""
    random = np.random.default_rng(seed)
    return [_row(random, kinds[k % len(kinds)]) for k in range(n)]


def _row(random: np.random.Generator, kind: str) -> Row:
    colour, corner = int(random.integers(4)), int(random.integers(4))
    field = random.integers(90, 150, (32, 32, 3))
    (x, y), size = CORNERS[corner], int(random.integers(8, 15))
    x, y = (
        x + int(random.integers(0, 17 - size)),
        y + int(random.integers(0, 17 - size)),
    )
    shade = random.integers(-25, 26, (size, size, 3))
    field[y : y + size, x : x + size] = np.clip(COLOURS[colour] + shade, 0, 255)
    image = Image.fromarray(field.astype(np.uint8))
    answer = ANSWERS[kind][colour if kind == "colour" else corner]
    return image, QUESTIONS[kind], f"w{answer}"


def write_experts(folder: Path, *, base: int = 180, more: int = 80) -> None:
    """Train and save ``base``, ``colour`` and ``place``, tiny LLaVAs with towers.

    Args:
        folder: Where.
        base: Steps that the base learns both.
        more: Steps that each expert goes on.
    """
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    config = tiny_config("llava", text_config=sizes, vision_config=sizes)
    model = LlavaForConditionalGeneration(config).float()
    train(model, folder, ("colour", "place"), base, seed=1)
    save(model, folder / "base")
    for seed, kind in enumerate(("colour", "place"), 2):
        expert = LlavaForConditionalGeneration.from_pretrained(folder / "base")
        train(expert, folder, (kind,), more, seed=seed)
        save(expert, folder / kind)


def save(model: Any, folder: Path) -> None:
    """Save a model with its processor."""
    model.save_pretrained(folder)
    write_processor(folder, "llava")


def train(
    model: Any, folder: Path, kinds: Sequence[str], steps: int, seed: int
) -> None:
    """Teach a model the answers to questions of these kinds."""
    processor = _processor(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(steps):
        batch = rows(1000 * seed + step, 32, kinds)
        images = [image for image, *_ in batch]
        texts = [f"w5 <image> w6 {q} {a} </s>" for _, q, a in batch]
        given = processor._inner(text=texts, images=images, return_tensors="pt")
        labels = given["input_ids"].clone()
        labels[:, :-2] = -100
        loss = model(**given, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def _processor(folder: Path) -> Processor:
    place = folder / "processor"
    if not place.exists():
        place.mkdir(parents=True)
        write_processor(place, "llava")
    return Processor(str(place))
