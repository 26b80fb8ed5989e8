"""A few made-up questions in the layout of the ARC data set, for its lm-eval task."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

REPO = "allenai/ai2_arc"
"""Where lm-eval's ``arc_easy`` looks for its items."""

_CONFIG = "ARC-Easy"
_SPLITS = ("train", "validation", "test")
_CARD = f"""---
configs:
- config_name: {_CONFIG}
  data_files:
  - split: train
    path: {_CONFIG}/train-*
  - split: validation
    path: {_CONFIG}/validation-*
  - split: test
    path: {_CONFIG}/test-*
---
"""
_LETTERS = ("A", "B", "C", "D")
_THINGS = ("dog", "cow", "pig", "fox", "bug", "yak", "gnu")
"""Of as many tokens each: an untrained model only knows to prefer the shortest."""


def write_arc(folder: Path, n: int = 24) -> Path:
    """Write the data set's folder, with n items in its test split.

    Returns:
        The folder.
    """
    (folder / _CONFIG).mkdir(parents=True)
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    for split in _SPLITS:
        rows = [_row(split, i) for i in range(n if split == "test" else 4)]
        file = folder / _CONFIG / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows).to_parquet(file)
    return folder


def _row(split: str, i: int) -> dict[str, object]:
    things = [_THINGS[(i + step) % len(_THINGS)] for step in range(len(_LETTERS))]
    return {
        "id": f"{split}-{i}",
        "question": f"Which of them is on the {things[i % 3]} that has {i} letters?",
        "choices": {"text": things, "label": list(_LETTERS)},
        "answerKey": _LETTERS[i % len(_LETTERS)],
    }
