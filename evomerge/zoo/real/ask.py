"""Ask a model folder something: ``python -m evomerge.zoo.real.ask MODEL QUESTION ...``.

A question goes through the model's own chat template, as a user's. Without questions
they are read from standard input, one a line. Plain transformers, on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from evomerge.merging.gguf import quiet_transformers

_LONGEST = 60


def main(arguments: list[str] | None = None) -> None:
    """Print every question and its answer."""
    parser = argparse.ArgumentParser(prog="python -m evomerge.zoo.real.ask")
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("questions", nargs="*", help="asked by the chat template")
    parser.add_argument(
        "--plain", action="append", default=[], help="text to go on with, as it is"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.model.is_dir():
        parser.error(f"{chosen.model} is no model folder.")
    ask = Asker(chosen.model)
    asked = [(question, True) for question in chosen.questions]
    asked += [(text, False) for text in chosen.plain]
    for text, is_chat in asked or _lines():
        sys.stdout.write(f"> {text}\n{ask(text, is_chat=is_chat)}\n")
        sys.stdout.flush()


def _lines() -> Iterator[tuple[str, bool]]:
    return ((line.strip(), True) for line in sys.stdin if line.strip())


class Asker:
    """A model that answers greedily."""

    def __init__(self, folder: Path) -> None:
        """Load the model and its tokenizer."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            self._model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )

    @torch.no_grad()
    def __call__(self, text: str, *, is_chat: bool = True) -> str:
        """Return the answer to a user's question, or how a text goes on."""
        given = self.given(text, is_chat=is_chat)
        n_given = given["input_ids"].shape[1]
        out = self._model.generate(
            **given,
            max_new_tokens=_LONGEST,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )
        answer: str = self._tokenizer.decode(out[0, n_given:], skip_special_tokens=True)
        return answer.strip()

    def given(self, text: str, *, is_chat: bool) -> Any:
        """Return what the model is given: token ids of shape ``(1, n)``, and a mask."""
        if not is_chat:
            return self._tokenizer(text, return_tensors="pt")
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )


if __name__ == "__main__":
    main()
